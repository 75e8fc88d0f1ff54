--- Waiting for another builder: asleep in the kernel, or in the event loop's own sleep.
-- @module sharearray.wait

local dtype = require "sharearray.dtype"
local ffi = require "ffi"
local instance = require "sharearray.instance"
local loop = require "sharearray.loop"
local place_ = require "sharearray.place"
local C = require("sharearray.cdefs").C

local M = {}

local WAIT, FILLED = C.SHAREARRAY_WAIT, C.SHAREARRAY_FILLED
local attach, await, note = C.sharearray_attach, C.sharearray_await, place_.note
local FIRST, LONGEST = 0.001, 0.02 -- seconds of an injected sleep
local LOOK = 5 -- seconds in the kernel: Ctrl-C that came just before wakes nobody, and is seen by Lua alone
local PIECE, YIELDING_PIECE = 64 * 2 ^ 20, 4 * 2 ^ 20 -- bytes; 4 MiB take an event loop 2 ms

--- The moment at which the settings' timeout is over, in ms of `sharearray_clock`; nil for never.
function M.deadline(settings)
  local timeout = settings.timeout
  if timeout and timeout >= 0 then return C.sharearray_clock() + timeout * 1000 end
  return nil
end

--- Seconds until the deadline; huge where there is none.
function M.remaining(deadline)
  if not deadline then return math.huge end
  return math.max(0, (deadline - C.sharearray_clock()) / 1000)
end

-- Short sleeps until the counter moves: a look at the file system is for the recheck only.
local function sleep_on(place, sleep, id, ticket, seconds, round)
  local stop = C.sharearray_clock() + math.min(ticket.recheck, seconds * 1000)
  local pause = round == 1 and FIRST or LONGEST
  repeat
    local slept, why = sleep(math.min(pause, seconds))
    if slept == false then return false, why end
    pause = math.min(pause * 2, LONGEST)
  until C.sharearray_changes_of(place.handle, id) ~= ticket.seen or C.sharearray_clock() >= stop
end

--- Waits once, for the id to change or for the next look. To be called again and again.
-- @param ticket as `sharearray_attach` filled it
-- @tparam number seconds at most
-- @tparam number round 1 at the first wait
-- @return false and why, where the injected sleep cannot
function M.once(place, settings, id, ticket, seconds, round)
  if settings.sleep then return sleep_on(place, settings.sleep, id, ticket, seconds, round) end
  C.sharearray_wait(place.handle, id, ticket, math.min(seconds, LOOK))
end

--- Bytes to reserve, copy or sum between two breaths.
function M.piece(settings) return settings.sleep and YIELDING_PIECE or PIECE end

--- Lets an event loop run between two pieces of a long operation.
function M.breathe(settings)
  if settings.sleep then settings.sleep(0) end
end

-- Why there is nothing yet, and what can be done.
local function in_words(builder)
  if builder.pid == 0 then
    return ("its builders were killed %d times running"):format(builder.attempt), "see what kills them"
  end
  return M.builder_in_words(builder) .. " is building it", "end that process if it hangs"
end

--- "process 123 (luajit), for 2 s now," for messages.
function M.builder_in_words(builder)
  local program = ffi.string(builder.program)
  if builder.pid <= 0 then
    return ("a %sprocess of uid %d"):format(program ~= "" and program .. " " or "", builder.uid)
  end
  return ("process %d (%s), for %.0f s now,"):format(tonumber(builder.pid), program,
    math.max(0, os.time() - builder.since))
end

--- Says who is waited for, if the user wants to hear it.
function M.say(settings, id, text)
  if not settings.verbose then return end
  local log = settings.log_func or print
  log(("sharearray: '%s': %s"):format(id, text))
end

--- Says what went wrong although the caller got what he asked for, wanted or not: to the `log_func`, else
-- to standard error.
function M.warn(settings, id, text)
  local line = ("sharearray: '%s': %s"):format(id, text)
  if settings.log_func then
    settings.log_func(line, "warn")
  else
    io.stderr:write(line, "\n")
  end
end

-- Says so where it is another builder than before, or the pause after several were killed, that is waited for.
-- Returns what it is to be compared with next time.
local function announce(settings, id, ticket, before)
  local now = tonumber(ticket.builder.pid)
  if now == before or not settings.verbose then return now end
  local how_long = settings.timeout >= 0 and (" up to %g s"):format(settings.timeout) or ""
  local what_for = ticket.builder.pid == 0 and " before the next attempt" or ""
  M.say(settings, id, (in_words(ticket.builder)) .. "; waiting" .. how_long .. what_for)
  return now
end

--- `nil, message, "timeout"`.
function M.timed_out(settings, id, ticket)
  local reason, advice = in_words(ticket.builder)
  return nil, ("sharearray: '%s': timed out after %g s: %s; wait longer (option timeout), or %s"):format(id,
    settings.timeout, reason, advice), "timeout"
end

--- The same where the injected sleep said that it cannot wait, and why.
function M.cannot_wait(id, ticket, why)
  local reason = in_words(ticket.builder)
  return nil, ("sharearray: '%s': %s, and nobody can wait for it here: %s"):format(id, reason, tostring(why)), "timeout"
end

local numbers

-- What a process does before it waits for an array, so that it need not be done when all wake.
local function prepare(place, id)
  place:expect(id)
  numbers = numbers or { dtype.by_code.f4, dtype.by_code.f8, dtype.by_code.i4, dtype.by_code.u1 }
  return instance.blanks(numbers)
end

-- The last look, when the time is over.
local function attach_finally(self, id, flags, ticket, map, build, message)
  local step = attach(self.place.handle, id, flags + C.SHAREARRAY_FINAL, ticket, map, build, message)
  if step == WAIT then return M.timed_out(self.settings, id, ticket) end
  return step
end

-- Waits in the kernel. See `M.attach`.
local function attach_blocking(self, id, flags, ticket, deadline, map, build, message, builder)
  local place, settings = self.place, self.settings
  local views, blanks, sealed = prepare(place, id)
  -- Where there is more to be done than to fill a view in, that is left to `obtain`.
  local more = settings.prefault or settings.max_age or settings.origin or place.memo[id]
  local count = more and 0 or #views
  local step, looked, seen
  repeat
    local seconds = M.remaining(deadline)
    if seconds == 0 then return attach_finally(self, id, flags, ticket, map, build, message) end
    looked, seen = loop.now(), ticket.seen -- from before the look that finds it, which is safe
    seconds = math.min(seconds, LOOK)
    step = await(place.handle, id, flags, ticket, seconds, blanks, count, sealed, map, message)
    -- Ctrl-C ends it here, before this process has a lock that nobody would give back.
    if step == WAIT then
      step = attach(place.handle, id, flags, ticket, map, build, message)
      if step == WAIT then builder = announce(settings, id, ticket, builder) end
    end
  until step ~= WAIT
  if step < FILLED then return step end
  local x = views[step - FILLED + 1]
  note(place, id, x, x, seen, looked)
  return FILLED, x
end

-- Waits by the injected sleep. See `M.attach`.
local function attach_yielding(self, id, flags, ticket, deadline, map, build, message, builder)
  local place, settings, round = self.place, self.settings, 0
  local step
  repeat
    local seconds = M.remaining(deadline)
    if seconds == 0 then return attach_finally(self, id, flags, ticket, map, build, message) end
    round = round + 1
    local slept, why = M.once(place, settings, id, ticket, seconds, round)
    if slept == false then return M.cannot_wait(id, ticket, why) end
    step = attach(place.handle, id, flags, ticket, map, build, message)
    if step == WAIT then builder = announce(settings, id, ticket, builder) end
  until step ~= WAIT
  return step
end

--- Waits until there is something to be had of an id that somebody else builds.
-- @param self the store
-- @tparam number flags of sharearray_attach
-- @param ticket as `sharearray_attach` filled it
-- @tparam[opt] number deadline
-- @param map, build, message where `sharearray_attach` puts what it has
-- @treturn[1] number what `sharearray_attach` returned at last, which is not WAIT; or SHAREARRAY_FILLED
-- @return[1] then the view, which is in the memo
-- @return[2] nil, message, code
function M.attach(self, id, flags, ticket, deadline, map, build, message)
  if M.remaining(deadline) == 0 then return attach_finally(self, id, flags, ticket, map, build, message) end
  local builder = announce(self.settings, id, ticket)
  local way = self.settings.sleep and attach_yielding or attach_blocking
  return way(self, id, flags, ticket, deadline, map, build, message, builder)
end

-- Ctrl-C works through a debug hook, which compiled code never looks at. A finalizer, which may be the first to
-- load this, is not allowed to say so.
pcall(jit.off, M.once)
pcall(jit.off, attach_blocking)

return M
