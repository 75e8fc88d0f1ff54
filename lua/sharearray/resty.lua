--- sharearray for OpenResty and nginx's Lua module: the same calls, which never block the event loop.
--
--     local sharearray = require "sharearray.resty"
--     local model, err, code = sharearray.cache("model", load_model, { max_age = 60 })
--
-- Waiting for another builder yields with `ngx.sleep`, large reservations and copies yield between
-- their pieces, and the source may yield itself. Where nginx cannot yield, see `sleep` below. Logging
-- goes to `ngx.log`. Each worker drops old versions by a timer.
--
-- What `init_by_lua` loads stays mapped in nginx's master, which runs no Lua afterwards: when it is
-- refreshed, the memory of that first version goes back at the next reload only. A large model that is
-- refreshed is better loaded in `init_worker_by_lua`, where the others wait for the first worker.
-- @module sharearray.resty

local ngx = rawget(_G, "ngx") -- a program may have made it an error to ask for a global that is not there
if not ngx then error('sharearray.resty is for nginx; elsewhere it is require "sharearray"', 0) end

require "sharearray" -- first: what is joined is loaded at once then, see sharearray.bytecode
local ffi = require "ffi"
local build = require "sharearray.build"
local builders = require "sharearray.builders"
local facade = require "sharearray.facade"
local lazy = require "sharearray.lazy"
local loop = require "sharearray.loop"
local options = require "sharearray.options"
local store = require "sharearray.store"
local tidy_places = require "sharearray.tidy"
local C = require("sharearray.cdefs").C

-- What is loaded when first used elsewhere is loaded now: by the master, who can read it, and not in the
-- midst of a request.
lazy.all()

local get_phase, timer_at = ngx.get_phase, ngx.timer.at

-- Time ----------------------------------------------------------------------------------------------

-- nginx's own cached time (src/core/ngx_times.h), the one that ngx.now() has, as a plain load.
if not pcall(ffi.typeof, "sharearray_msec") then
  ffi.cdef "typedef intptr_t sharearray_msec; extern volatile sharearray_msec ngx_current_msec;"
end
if pcall(function() return ffi.C.ngx_current_msec end) then
  function loop.now() return tonumber(ffi.C.ngx_current_msec) end
end

-- Sleeping ------------------------------------------------------------------------------------------

-- Where ngx.sleep is to be had (its own manual).
local YIELDS = {
  server_rewrite = true, rewrite = true, access = true, content = true, timer = true, preread = true,
  ssl_cert = true, ssl_session_fetch = true, ssl_client_hello = true,
}

-- Where no event loop runs yet that could be held up.
local BLOCKS = { init = true, init_worker = true }

if not pcall(function() return ffi.C.usleep end) then ffi.cdef "int usleep(unsigned microseconds);" end

-- The option `sleep`: yields, or blocks at a server's start, or says why it cannot.
local function sleep(seconds)
  local phase = get_phase()
  if YIELDS[phase] then
    -- 0 would do, but an nginx without OpenResty's patches grumbles about it in its log.
    local slept, problem = pcall(ngx.sleep, math.max(seconds, 0.001))
    if slept then return true end
    return false, problem .. " (call it from the request's own code, not while a module is being loaded)"
  end
  if not BLOCKS[phase] then
    return false, ("the phase %s cannot wait; ask in rewrite, access, content or a timer, or use get"):format(phase)
  end
  if seconds > 0 then ffi.C.usleep(seconds * 1e6) end
  return true
end

local function log(text, level) ngx.log(level == "warn" and ngx.ERR or ngx.NOTICE, text) end

-- Timers --------------------------------------------------------------------------------------------

local TIDY = 1           -- seconds between two looks for old versions
local COLLECT = 0.05     -- seconds between two steps of the collector
local COLLECT_STEP = 200 -- KiB: 1 ms or less
local LOST = 1000        -- milliseconds; nginx drops a timer when too many of them run
local SUBSYSTEM = { http = 0, stream = 1 }

-- Where there is nothing yet, or nothing any more, to hang a timer on.
local TIMELESS = { init = true, exit_worker = true }

local function has_timers() return not TIMELESS[get_phase()] end

-- A request that is aborted leaves its coroutine, and the build in it, to the collector, and so does a
-- version that was replaced its memory; a quiet worker's collector would not run for minutes.
local cycles = 0 -- of the collector, still to be gone through
local due = 0    -- when the next step will have been (see loop.now); 0: there is none on its way

-- One step. Whether there may be more to find.
local function collect()
  builders.give_up_ended()
  if collectgarbage("step", COLLECT_STEP) then cycles = cycles - 1 end
  return cycles > 0 or build.held() > 0
end

-- A worker that is about to exit may have requests to finish, for hours. It has no timers with a delay
-- any more, but it can sleep.
local function collect_at_exit()
  due = math.huge
  while build.held() > 0 do
    collect()
    ngx.sleep(COLLECT)
  end
  due = 0
end

local collect_later

local function start_collecting()
  if loop.now() < due or not has_timers() then return end
  due = loop.now() + LOST
  if not timer_at(COLLECT, collect_later, due) and not timer_at(0, collect_at_exit) then due = 0 end
end

function collect_later(premature, mine)
  if mine ~= due then return end -- it was taken for lost
  due = 0
  if premature then return collect_at_exit() end
  if collect() then start_collecting() end
end

function loop.building() start_collecting() end

function loop.dropped()
  cycles = 3 -- what is dropped in the midst of a cycle may survive it, and the owner of rows one more
  start_collecting()
end

local function tidy(premature)
  if premature then return end
  tidy_places()
  if cycles > 0 or build.held() > 0 then start_collecting() end
end

-- One timer in a worker. With the code cache off every request has a Lua state of its own, which a
-- timer would keep for ever: the first one has it.
local first, watching

local function watch()
  if watching or not has_timers() then return end
  if first == nil then first = C.sharearray_first(SUBSYSTEM[ngx.config.subsystem] or 2) == 1 end
  watching = not first or ngx.timer.every(TIDY, tidy) ~= nil
end

function loop.looked() watch() end

-- The module ----------------------------------------------------------------------------------------

local defaults = options.overlay({ sleep = sleep, log_func = log }, store.defaults(), 1)
local M = facade.new(defaults)

--- Begins to watch for old versions in a worker that may never ask for anything: for `init_worker_by_lua`
-- where `init_by_lua` has loaded data that requests do not use.
M.watch = watch

return M
