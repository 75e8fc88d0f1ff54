--- The first get of a ready id, in a process that runs.

local baseline = require "harness.baseline"
local measure = require "harness.measure"
local sharearray = require "sharearray"

local IDS = 1000

for i = 1, IDS do assert(sharearray.cache("attach" .. i, sharearray.array({ 0, 1, 2, 3 }, "float32"))) end
local names = {}
for i = 1, IDS do names[i] = "attach" .. i end

-- Closed, the memo has nothing left of it: the next get of the id is a first one again.
local function ours()
  for i = 1, IDS do sharearray.get(names[i]):close() end
end

local format = measure.directory .. "/sharearray_attach%d.npy"

ours()
local samples = measure.rounds(measure.choose(101, 51), {
  { "ours", function() return measure.seconds(ours) / IDS end },
  { "C", function() return baseline.C.baseline_attach(format, nil, IDS, IDS) / IDS end },
  { "C look", function() return baseline.C.baseline_attach(format, measure.directory, IDS, IDS) / IDS end },
})
local WORK = "attach: first get of a ready id, in process (and close)"
measure.row { work = WORK, against = "C: open, fstat, pread, mmap, munmap, close", ours = samples.ours,
  theirs = samples.C, unit = "us", most = 1.5 }
measure.row { work = WORK, against = "C: the same, and stat of the directory", ours = samples.ours,
  theirs = samples["C look"], unit = "us" }
for i = 1, IDS do sharearray.free(names[i]) end
