--- Waiting for another builder: asleep in the kernel, or in the event loop's own sleep.
-- @module sharearray.wait

local ffi = require "ffi"
local C = require("sharearray.cdefs").C

local M = {}

local FIRST, LONGEST = 0.001, 0.02 -- seconds between two looks with an injected sleep

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

--- Waits once, for the id to change or for the next look. To be called again and again.
-- @param ticket as `sharearray_attach` filled it
-- @tparam number seconds at most
-- @tparam number round 1 at the first wait
function M.once(place, settings, id, ticket, seconds, round)
  if settings.sleep then
    local pause = math.min(FIRST * 2 ^ math.min(round - 1, 10), LONGEST, seconds)
    settings.sleep(pause)
  else
    C.sharearray_wait(place.handle, id, ticket, seconds)
  end
end

--- Lets an event loop run between two pieces of a long operation.
function M.breathe(settings)
  if settings.sleep then settings.sleep(0) end
end

local function in_words(settings, builder)
  local waiting = settings.timeout and settings.timeout >= 0
    and ("waiting up to %g s"):format(settings.timeout) or "waiting"
  if builder.pid == 0 then
    return ("its builders were killed %d times running; %s before the next attempt"):format(builder.attempt, waiting)
  end
  return ("%s is building it; %s"):format(M.builder_in_words(builder), waiting)
end

--- "process 123 (luajit), since 2 s" for messages.
function M.builder_in_words(builder)
  local program = ffi.string(builder.program)
  if builder.pid <= 0 then
    return ("a %sprocess of uid %d"):format(program ~= "" and program .. " " or "", builder.uid)
  end
  return ("process %d (%s), since %.0f s,"):format(tonumber(builder.pid), program,
    math.max(0, os.time() - builder.since))
end

--- Says who is waited for, if the user wants to hear it.
function M.say(settings, id, text)
  if not settings.verbose then return end
  local log = settings.log_func or print
  log(("sharearray: '%s': %s"):format(id, text))
end

function M.announce(settings, id, ticket)
  if settings.verbose then M.say(settings, id, in_words(settings, ticket.builder)) end
end

--- `nil, message, "timeout"`.
function M.timed_out(settings, id, ticket)
  return nil, ("sharearray: '%s': timed out after %g s: %s; wait longer (option timeout), or end that "
    .. "process if it hangs"):format(id, settings.timeout, in_words(settings, ticket.builder)), "timeout"
end

-- Ctrl-C works through a debug hook, which compiled code never looks at.
jit.off(M.once)

return M
