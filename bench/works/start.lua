--- A whole process: start LuaJIT, require, attach, read one element. The library is an installed copy, with its
-- bytecode, see the Makefile.

local machine = require "support.machine"
local baseline = require "harness.baseline"
local measure = require "harness.measure"
local sharearray = require "sharearray"

assert(sharearray.cache("start", sharearray.array({ 0, 1, 2, 3 }, "float32")))
local path = measure.directory .. "/sharearray_start.npy"

local function run(...)
  local argv = { ... }
  return function() return baseline.run(argv) end
end

local samples = measure.rounds(measure.choose(201, 61), {
  { "ours", run(machine.luajit, "bench/programs/first_element.lua", "start") },
  { "empty", run(machine.luajit, "-e", "") },
  { "bare", run(machine.luajit, "bench/programs/bare_element.lua", path) },
})
local slow = measure.rounds(measure.choose(31, 5), {
  { "ours", run(machine.luajit, "bench/programs/first_element.lua", "start") },
  { "python", run("/usr/bin/python3", "bench/programs/first_element.py", path) },
})
local WORK = "whole process: start, require, attach, read one element"
local more = {}
for i, seconds in ipairs(samples.ours) do more[i] = seconds - samples.empty[i] end
measure.row { work = WORK, against = "luajit -e ''", ours = samples.ours, theirs = samples.empty, unit = "ms",
  met = measure.median(more) <= 1e-3, reach = "at most 1 ms more" }
measure.row { work = WORK, against = "Python: import numpy, open_memmap", ours = slow.ours, theirs = slow.python,
  unit = "ms", ahead = 40 }
-- What is left of the start where there is no library at all.
measure.row { work = "the same without the library: the system calls of an attach by FFI, nothing else",
  against = "luajit -e ''", ours = samples.bare, theirs = samples.empty, unit = "ms" }
sharearray.free "start"
