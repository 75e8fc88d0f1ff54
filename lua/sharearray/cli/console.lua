--- What the command says, and how it ends.
-- @module sharearray.cli.console

local M = {}

local Failure = {}

--- Ends the command: raises what `sharearray.cli.main` turns into a message and an exit status.
-- @tparam string message
-- @tparam[opt] number status default 1
function M.fail(message, status)
  error(setmetatable({ message = message, status = status or 1 }, Failure), 0)
end

--- Whether a raised value is of `fail`.
function M.is_failure(value) return getmetatable(value) == Failure end

--- Writes to standard output. A full disk ends the command; a closed pipe has killed it already.
function M.say(...)
  local ok, problem = io.stdout:write(...)
  if not ok then M.fail("cannot write: " .. problem) end
end

--- Writes what stdio still holds.
function M.flush()
  local ok, problem = io.stdout:flush()
  if not ok then M.fail("cannot write: " .. problem) end
end

--- Writes a line to standard error, under the command's name, which the library's messages have already.
function M.complain(message)
  io.stdout:flush() -- in order, where both go to one place
  io.stderr:write("sharearray: ", (message:gsub("^sharearray: ", "")), "\n")
end

return M
