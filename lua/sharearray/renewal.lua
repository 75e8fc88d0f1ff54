--- Renewal: what has grown too old is rebuilt, by exactly one process, and what the origin has newer is taken.
-- Whatever goes wrong there, the old version serves on.
-- @module sharearray.renewal

local ffi = require "ffi"
local build = require "sharearray.build"
local builders = require "sharearray.builders"
local lazy = require "sharearray.lazy"
local library = require "sharearray.library"
local lifetime = require "sharearray.lifetime"
local obtain = require "sharearray.obtain"
local wait = require "sharearray.wait"
local C = require("sharearray.cdefs").C

local origin = lazy "sharearray.origin"

local M = {}

-- Seconds between two tries to rebuild what has grown too old.
local RETRY_MIN, RETRY_MAX = 1, 10

local new_ticket = ffi.typeof("sharearray_ticket") -- interpreted code would parse it at every call

local function retry_pause(max_age) return math.max(RETRY_MIN, math.min(max_age, RETRY_MAX)) end

-- For all processes to see; and for this one, should another id's failure take the place of it.
local function note_failure(place, id)
  C.sharearray_note_failure(place.handle, id)
  if place.memo[id] then place.failures[id] = C.sharearray_clock() end
end

local function failed_lately(place, id, max_age)
  local age = C.sharearray_failure_age(place.handle, id)
  if age < 0 then
    local failed = place.failures[id]
    age = failed and (C.sharearray_clock() - failed) / 1000 or math.huge
  end
  return age < retry_pause(max_age)
end

-- Rebuilds under the lock. Whoever comes next sees the failure before the lock goes.
local function rebuild(self, id, source, handle, ticket, age)
  local value, reason, code = builders.run(self, id, handle, source, wait.deadline(self.settings), ticket, note_failure)
  if value == nil and code ~= "held" then
    wait.warn(self.settings, id, ("not rebuilt: %s; the one of %.0f s ago serves on, next try in %g s"):format(
      builders.bare(reason), age, retry_pause(self.settings.max_age)))
  end
  return value
end

-- The build of an id that has a version, `value`, which serves on meanwhile; or nil and what to return.
local function lock(self, id, source, value, ticket, why)
  local place = self.place
  -- No YIELDS: ERECURSIVE, where another coroutine builds it, is as good as WAIT.
  local build_out, message = library.new_build_out(), library.new_message()
  local step = C.sharearray_attach(place.handle, id, C.SHAREARRAY_REFRESH, ticket, library.new_map_out(), build_out,
    message)
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
  return nil, obtain.obtain(self, id, source, 0)
end

-- `value`, or a newer one that the origin has: one process of the machine fetches it.
local function taken(self, id, source, value)
  local ticket = new_ticket()
  local handle, other, text, code = lock(self, id, source, value, ticket, "replaced by the origin's")
  if not handle then return other, text, code end
  local newer = builders.run(self, id, handle, nil, wait.deadline(self.settings), ticket)
  if newer ~= nil then return newer end
  origin.hold_back(self.place, self.settings, id)
  return value
end

local function renew(self, id, source, value)
  local settings, place = self.settings, self.place
  place:watch_age(id)
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
  if failed_lately(place, id, max_age) then -- somebody who had the lock until now
    build.give_up(handle)
    return value
  end
  local renewed = rebuild(self, id, source, handle, ticket, age)
  if renewed == nil then return value end
  return renewed
end

-- Whether nobody has closed the view, or a member of the bundle.
local function is_open(place, id, value)
  if type(value) ~= "table" then return value.map ~= nil end
  return place.tables[id] ~= value or not lifetime.broken[place.memo[id]]
end

-- Without a source at first: what was not renewed just now is not tried again.
local function attached_anew(self, id, source)
  local value = obtain.obtain(self, id, nil, library.GET)
  if value ~= nil then return value end
  return obtain.obtain(self, id, source, 0)
end

--- `value`, or, if it is older than the store's `max_age`, a new one: exactly one process rebuilds it,
-- and all others, and all if that fails, go on with what is there. A newer one of the origin's comes first.
-- @param source what to build from
-- @param value what is in the memo under the id
function M.renewed(self, id, source, value)
  local renewed, text, code = renew(self, id, source, value)
  if renewed == nil then return nil, text, code end
  -- A source, a log_func, or another coroutine may have closed what was to serve on.
  if rawequal(renewed, value) and not is_open(self.place, id, value) then return attached_anew(self, id, source) end
  return renewed
end

return M
