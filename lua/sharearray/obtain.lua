--- The way to an array: look, build, or wait for another builder; and rebuild what has grown too old.
--
--     cache, get ----> attach --READY--> older than max_age? --yes--> renew: whatever goes wrong there,
--                       |  ^ \                                        the old version serves on
--                       |  |  BUILD ---> run the source, publish
--                       WAIT
-- @module sharearray.obtain

local ffi = require "ffi"
local clock = require "sharearray.clock"
local events = require "sharearray.events"
local lazy = require "sharearray.lazy"
local place_ = require "sharearray.place"
local wait = require "sharearray.wait"
local C = require("sharearray.cdefs").C

local build = lazy "sharearray.build"
local origin = lazy "sharearray.origin"

local M = {}

-- Seconds between two tries to rebuild what has grown too old.
local RETRY_MIN, RETRY_MAX = 1, 10

local message = ffi.new("char[?]", C.SHAREARRAY_MESSAGE)
local new_ticket = ffi.typeof("sharearray_ticket") -- interpreted code would parse it at every call
local map_out = ffi.new("sharearray_map *[1]")
local build_out = ffi.new("sharearray_build *[1]")

-- Which coroutine of this Lua state builds what: { coroutine, run, handle }, kept by that coroutine's
-- stack alone. One that is dropped in the middle of a build must be collected, since the finalizer of
-- the build gives it up.
local builders = setmetatable({}, { __mode = "v" })

local function current_coroutine()
  local coroutine_, is_main = coroutine.running()
  if is_main then return nil end
  return coroutine_
end

-- A reason to go into a message that names the library and the id itself.
local function bare(reason) return (tostring(reason):gsub("^sharearray: '.-': ", "")) end

local function describe(value)
  if type(value) == "table" then return "a bundle" end
  return ("%s (%s)"):format(tostring(value.dtype), table.concat(value.shape, ", ") .. (value.ndim == 1 and "," or ""))
end

local function remember(self, id, map, counter, looked)
  if self.settings.prefault then C.sharearray_prefault(map) end
  return self.place:remember(id, map, counter, looked)
end

-- `failed` is called, still under the lock, if nothing was published. The second result is build.FETCHED where
-- another machine built it.
local function run_build(self, id, handle, source, deadline, ticket, failed)
  local place, settings = self.place, self.settings
  local name = place.path .. id
  local attempt = ticket.builder.attempt
  local doing = source == nil and "taking the origin's newer version" or "building"
  if attempt > 1 then doing = ("%s, attempt %d"):format(doing, attempt) end
  local said, problem = pcall(wait.say, settings, id, doing)
  if not said then -- the user's log_func raised: nobody shall wait for this build
    build.give_up(handle)
    error(problem, 0)
  end
  local started, looked = C.sharearray_clock(), clock.now()
  local builder = { coroutine = current_coroutine(), handle = handle }
  function builder.run()
    local ok, map, reason, code = pcall(build.run, place, settings, id, handle, source, deadline, failed)
    builder.handle = nil -- used up
    if not ok then error(map, 0) end
    return map, reason, code
  end
  builders[name] = builder
  local map, reason, code = builder.run()
  if builders[name] == builder then builders[name] = nil end
  if not map then
    wait.say(settings, id, "not built: " .. bare(reason))
    return nil, reason, code
  end
  local bytes = tonumber(map.length)
  local result, text
  result, text, code = remember(self, id, map, ticket.seen, looked)
  if not result then return nil, text, code end
  wait.say(settings, id, ("published, %s, %d bytes in %.1f s"):format(describe(result), bytes,
    (C.sharearray_clock() - started) / 1000))
  return result, reason
end

-- Whether the builder's coroutine still is in the midst of that build. Event loops end a coroutine from
-- outside, and use it again for another request, so its stack has the last word.
local function is_building(builder)
  local level = 0
  repeat
    local frame = debug.getinfo(builder.coroutine, level, "f")
    if frame and frame.func == builder.run then return true end
    level = level + 1
  until not frame
  return false
end

-- Whether this very coroutine is building the id, and asks for it from within.
local function is_recursive(name, me)
  local builder = builders[name]
  return builder ~= nil and builder.coroutine == me and is_building(builder)
end

--- Gives up the builds of coroutines that were ended from outside, where their stacks show it; of the
-- others the collector tells. What they allocated is the collector's in any case.
function M.give_up_ended()
  for name, builder in pairs(builders) do
    if builder.handle and builder.coroutine and not is_building(builder) then
      builders[name] = nil
      build.give_up(builder.handle)
      events.dropped()
    end
  end
end

local function recursive(id)
  return nil, ("sharearray: '%s': it is being built by this very coroutine: the function that builds an id must "
    .. "not ask for it"):format(id), "recursive"
end

--- The value of `id`, whatever it takes.
-- @param self the store; its place is open
-- @param source nil for `get`
-- @tparam number flags 0, SHAREARRAY_GET or SHAREARRAY_REFRESH
-- @return[1] a view, or the table of a bundle
-- @return[2] nil, message, code
function M.obtain(self, id, source, flags)
  local place, settings = self.place, self.settings
  local ticket = new_ticket()
  local deadline = wait.deadline(settings)
  local me = settings.sleep and current_coroutine()
  local round = 0
  if me then
    -- Other coroutines of this thread go on while this one sleeps; it cannot wait for itself.
    if flags ~= C.SHAREARRAY_GET and is_recursive(place.path .. id, me) then return recursive(id) end
    flags = flags + C.SHAREARRAY_YIELDS
  end
  while true do
    local seconds = wait.remaining(deadline)
    local last = seconds == 0
    local looked = clock.now()
    local step = C.sharearray_attach(place.handle, id, last and flags + C.SHAREARRAY_FINAL or flags, ticket,
      map_out, build_out, message)
    if step == C.SHAREARRAY_READY then
      local value, text, code = remember(self, id, map_out[0], ticket.seen, looked)
      if value == nil then return nil, text, code end
      return M.renewed(self, id, source, value)
    end
    if step == C.SHAREARRAY_BUILD then
      local value, reason, code = run_build(self, id, build.own(build_out[0]), source, deadline, ticket)
      -- Another machine may have built it long ago.
      if reason == build.FETCHED and settings.max_age then return M.renewed(self, id, source, value) end
      if value ~= nil then return value end
      return nil, reason, code
    end
    if step ~= C.SHAREARRAY_WAIT then return place_.failure(id, step, message) end
    if last then return wait.timed_out(settings, id, ticket) end
    round = round + 1
    if round == 1 then
      wait.announce(settings, id, ticket)
      place_.prepare()
    end
    local slept, why = wait.once(place, settings, id, ticket, seconds, round)
    if slept == false then return wait.cannot_wait(id, ticket, why) end
  end
end

local function retry_pause(max_age) return math.max(RETRY_MIN, math.min(max_age, RETRY_MAX)) end

-- For all processes to see; and for this one, should another id's failure take the place of it.
local function note_failure(place, id)
  C.sharearray_note_failure(place.handle, id)
  place:note_failure(id)
end

local function failed_lately(place, id, max_age)
  local age = C.sharearray_failure_age(place.handle, id)
  if age < 0 then age = place:failure_age(id) end
  return age < retry_pause(max_age)
end

-- Rebuilds under the lock. Whoever comes next sees the failure before the lock goes.
local function rebuild(self, id, source, handle, ticket, age)
  local place = self.place
  local value, reason, code = run_build(self, id, handle, source, wait.deadline(self.settings), ticket, function()
    note_failure(place, id)
  end)
  if value == nil and code ~= "held" then
    wait.warn(self.settings, id, ("not rebuilt: %s; the one of %.0f s ago serves on, next try in %g s"):format(
      bare(reason), age, retry_pause(self.settings.max_age)))
  end
  return value
end

-- The build of an id that has a version, `value`, which serves on meanwhile; or nil and what to return.
local function lock(self, id, source, value, ticket, why)
  local place = self.place
  -- No YIELDS: ERECURSIVE, where another coroutine builds it, is as good as WAIT.
  local step = C.sharearray_attach(place.handle, id, C.SHAREARRAY_REFRESH, ticket, map_out, build_out, message)
  if step < 0 and step ~= C.SHAREARRAY_ERECURSIVE then
    note_failure(place, id)
    wait.warn(self.settings, id, ("not %s: %s; the one of %.0f s ago serves on"):format(why, ffi.string(message),
      place:age(id)))
  end
  if step ~= C.SHAREARRAY_BUILD then return nil, value end
  local handle = build.own(build_out[0])
  -- Somebody may have renewed it between the look at it and the lock.
  if place:is_current(id) then return handle end
  build.give_up(handle)
  place:forget(id)
  return nil, M.obtain(self, id, source, 0)
end

-- `value`, or a newer one that the origin has: one process of the machine fetches it.
local function taken(self, id, source, value)
  local ticket = new_ticket()
  local handle, other, text, code = lock(self, id, source, value, ticket, "replaced by the origin's")
  if not handle then return other, text, code end
  local newer = run_build(self, id, handle, nil, wait.deadline(self.settings), ticket)
  if newer ~= nil then return newer end
  origin.hold_back(self.place, self.settings, id)
  return value
end

--- `value`, or, if it is older than the store's `max_age`, a new one: exactly one process rebuilds it,
-- and all others, and all if that fails, go on with what is there. A newer one of the origin's comes first.
-- @param source what to build from; nil: never build
-- @param value what is in the memo under the id
function M.renewed(self, id, source, value)
  local settings, place = self.settings, self.place
  if source == nil then return value end
  if settings.max_age or settings.origin then place:watch_age(id) end
  if settings.origin and origin.has_newer(place, settings, id) then return taken(self, id, source, value) end
  local max_age = settings.max_age
  if not max_age then return value end
  local age = place:age(id)
  if settings.origin then age = math.max(age, origin.age(place, id)) end
  if age <= max_age then return value end
  if failed_lately(place, id, max_age) then return value end
  local ticket = new_ticket()
  local handle, other, text, code = lock(self, id, source, value, ticket, "rebuilt")
  if not handle then return other, text, code end
  local renewed = rebuild(self, id, source, handle, ticket, age)
  if renewed == nil then return value end
  return renewed
end

return M
