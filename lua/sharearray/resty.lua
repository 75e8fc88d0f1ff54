--- sharearray for OpenResty and nginx's Lua module: the same calls, which never block the event loop.
--
--     local sharearray = require "sharearray.resty"
--     local model, err, code = sharearray.cache("model", load_model, { max_age = 60 })
--
-- Waiting for another builder yields with `ngx.sleep`, large reservations and copies yield between
-- their pieces, and the source may yield itself. Where nginx cannot yield, see `sleep` below. Logging
-- goes to `ngx.log`. Each worker drops old versions by a timer.
-- @module sharearray.resty

local ffi = require "ffi"
local build = require "sharearray.build"
local clock = require "sharearray.clock"
local events = require "sharearray.events"
local facade = require "sharearray.facade"
local options = require "sharearray.options"
local place = require "sharearray.place"
local C = require("sharearray.cdefs").C

local ngx = ngx
local get_phase, timer_at = ngx.get_phase, ngx.timer.at

-- Time ----------------------------------------------------------------------------------------------

-- nginx's own cached time (src/core/ngx_times.h), the one that ngx.now() has, as a plain load.
if not pcall(ffi.typeof, "sharearray_msec") then
  ffi.cdef "typedef intptr_t sharearray_msec; extern volatile sharearray_msec ngx_current_msec;"
end
if pcall(function() return ffi.C.ngx_current_msec end) then
  function clock.now() return tonumber(ffi.C.ngx_current_msec) end
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

local TIDY = 1          -- seconds between two looks for old versions
local COLLECT = 0.05    -- seconds between two steps of the collector
local COLLECT_STEP = 200 -- KiB: 1 ms or less
local SUBSYSTEM = { http = 0, stream = 1 }

-- In these there is nothing to hang a timer on.
local function has_timers() return get_phase() ~= "init" end

-- A request that is aborted leaves its coroutine, and the build in it, to the collector, and so does a
-- version that was replaced its memory; a quiet worker's collector would not run for minutes.
local collecting, cycles = false, 0
local collect

local function start_collecting()
  if collecting or not has_timers() then return end
  collecting = timer_at(COLLECT, collect) and true or false
end

function collect(premature)
  collecting = false
  if premature then return collectgarbage() end -- the worker is about to exit: no timer comes after this one
  if collectgarbage("step", COLLECT_STEP) then cycles = cycles - 1 end
  if cycles > 0 or build.held() > 0 then start_collecting() end
end

function events.building() start_collecting() end

function events.dropped()
  cycles = 2 -- what is dropped in the midst of a cycle may survive it
  start_collecting()
end

local function tidy(premature)
  if not premature then place.tidy() end
end

-- One timer in a worker. With the code cache off every request has a Lua state of its own, which a
-- timer would keep for ever: the first one has it.
local watching = false

local function watch()
  if watching or not has_timers() then return end
  watching = true
  if C.sharearray_first(SUBSYSTEM[ngx.config.subsystem] or 2) == 1 then ngx.timer.every(TIDY, tidy) end
end

function events.looked() watch() end

-- The module ----------------------------------------------------------------------------------------

local defaults = options.overlay({ sleep = sleep, log_func = log }, options.defaults(), 1)
local M = facade.new(defaults)

--- Begins to watch for old versions in a worker that may never ask for anything: for `init_worker_by_lua`
-- where `init_by_lua` has loaded data that requests do not use.
M.watch = watch

return M
