--- A Python process (bench/python/peer.py) that does as it is told and says how long it took.

local machine = require "support.machine"

local Python = {}
Python.__index = Python

local M = {}

function M.start()
  return setmetatable({ process = machine.start { "/usr/bin/python3", "bench/python/peer.py" } }, Python)
end

--- Seconds that one command took, as the process says it.
function Python:ask(...)
  self.process:tell(table.concat({ ... }, " "))
  local line, why = self.process:line(600)
  local seconds = tonumber(line)
  if not seconds then error("bench/python/peer.py: " .. tostring(line or why)) end
  return seconds
end

function Python:stop() self.process:finish() end

return M
