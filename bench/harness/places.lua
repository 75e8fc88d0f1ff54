--- Copies of a loop, one at each place that its code can have in a line of the cache.
--
-- LuaJIT and gcc put loops at multiples of 16 bytes; it is chance at which of the four in a line (64 bytes). A short
-- loop that lies across two lines may take half as long again as within one, in C as well, see bench/baseline/loops.c.
-- A program gets one of the four, so what counts is their mean.

local util = require "jit.util"

local M = { COUNT = 4 }

local TRIES = 2000

-- The first trace that is a loop, of those that LuaJIT compiles while it runs.
local function first_loop(run, ...)
  local traces = {}
  local function note(what, trace)
    if what == "stop" then traces[#traces + 1] = trace end
  end
  jit.attach(note, "trace")
  run(...)
  jit.attach(note)
  for _, trace in ipairs(traces) do
    local _, address, loop = util.tracemc(trace)
    if loop and loop > 0 then return address + loop end
  end
end

-- Code of another length, behind which the next trace lies elsewhere.
local function shift(length)
  local text = "local x = 0 for i = 1, 100 do x = x" .. (" + i * x"):rep(length) .. " end"
  assert(loadstring(text))()
end

--- Calls copies of the function until one at each place is compiled; a place is where the loop lies that LuaJIT
-- compiles first.
-- @tparam function run one that uses no upvalues
-- @param ... arguments
-- @treturn table COUNT functions, by place
function M.copies(run, ...)
  local copies, found = {}, 0
  for try = 1, TRIES do
    local copy = loadstring(string.dump(run))
    local address = first_loop(copy, ...)
    local place = address and math.floor(address % 64 / 16) + 1
    if place and not copies[place] then
      copies[place], found = copy, found + 1
      if found == M.COUNT then return copies end
    end
    shift(try % 11)
  end
  error "LuaJIT puts the loop at some places only"
end

return M
