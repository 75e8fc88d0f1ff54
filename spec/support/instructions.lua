--- Stored instruction counts of the hot loops, in spec/support/instructions.txt: a line for each loop and
-- build of LuaJIT, `<checksum of the interpreter> <loop> <instructions>`.
--
-- A change that makes them less, or more for a good reason, renews them:
--
--     SHAREARRAY_RENEW=1 make test SPEC=spec/speed_spec.lua

local machine = require "support.machine"

local M = { renewing = os.getenv "SHAREARRAY_RENEW" == "1" }

local FILE = "spec/support/instructions.txt"

-- The other LuaJIT of `make test` is a script around an unpacked one, which valgrind does not look into.
local function checksum(luajit)
  return machine.shell("md5sum < \"$(realpath \"$(command -v " .. luajit .. ")\")\""):match "^%x+"
end

local function read()
  local lines = {}
  local file = io.open(FILE)
  if not file then return lines end
  for line in file:lines() do lines[#lines + 1] = line end
  file:close()
  return lines
end

--- The counts by loop; nil where none are stored for this interpreter.
function M.stored(luajit)
  local build, counts = checksum(luajit), nil
  for _, line in ipairs(read()) do
    local of, what, count = line:match "^(%S+) (%S+) (%S+)$"
    if of == build then
      counts = counts or {}
      counts[what] = tonumber(count)
    end
  end
  return counts
end

--- Puts a count in place of the one that is stored.
function M.renew(luajit, what, count)
  local start = checksum(luajit) .. " " .. what .. " "
  local lines = { ("%s%.1f"):format(start, count) }
  for _, line in ipairs(read()) do
    if line:sub(1, #start) ~= start then lines[#lines + 1] = line end
  end
  table.sort(lines)
  local file = assert(io.open(FILE, "w"))
  file:write(table.concat(lines, "\n"), "\n")
  file:close()
end

return M
