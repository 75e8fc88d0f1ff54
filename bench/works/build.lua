--- Building in place: an array from alloc, filled through its pointer.

local machine = require "support.machine"
local baseline = require "harness.baseline"
local huge = require "harness.huge"
local measure = require "harness.measure"
local sharearray = require "sharearray"

local MEGABYTES = measure.choose(1024, 256)
local count = MEGABYTES * 2 ^ 18
local WORK = ("build in place, %d MiB"):format(MEGABYTES)

local filling -- seconds that the last fill took

local function fill(data, n)
  for i = 0, n - 1 do data[i] = 1 end
end

local function build(alloc)
  local x = alloc("float32", { count })
  filling = measure.seconds(fill, x.data, count)
  return x
end

local function whole(store)
  return function()
    local seconds = measure.seconds(function() assert(store:cache("build", build)):close() end)
    store:free "build"
    collectgarbage() -- alloc's own array, which holds the memory too
    collectgarbage()
    return seconds
  end
end

local ROUNDS = measure.choose(15, 5)
local path = measure.directory .. "/baseline"
local ours = whole(sharearray.new())
local plain = measure.rounds(ROUNDS, {
  { "ours", ours },
  { "C", function() return baseline.C.baseline_reserve_and_fill(path, count) end },
  { "ours fill", function()
    ours()
    return filling
  end },
  { "C fill", function() return baseline.C.baseline_fill(path, count) end },
})
measure.row { work = WORK .. ": the fill", against = "C: fill of a freshly reserved mapping",
  ours = plain["ours fill"], theirs = plain["C fill"], unit = "s", most = 1.05 }
measure.row { work = WORK .. ": reserve, map, fill, publish", against = "C: reserve, map, fill", ours = plain.ours,
  theirs = plain.C, unit = "s", most = 1.05 }

local mounted, unmount = huge.mount(MEGABYTES + 64 .. "m")
if mounted then
  local samples = measure.rounds(ROUNDS, {
    { "ours", whole(sharearray.new { shm_path = mounted }) },
    { "C", function() return baseline.C.baseline_fill_huge(mounted .. "/baseline", count) end },
  })
  unmount()
  measure.row { work = WORK .. ", where huge pages may be used", against = "ours where they may not",
    ours = samples.ours, theirs = plain.ours, unit = "s", ahead = 4 }
  measure.row { work = WORK .. ", where huge pages may be used",
    against = "C: mmap, MADV_HUGEPAGE, fill there, nothing reserved", ours = samples.ours, theirs = samples.C,
    unit = "s" }
  measure.row { work = WORK .. ", where huge pages may be used: that C", against = "C where they may not",
    ours = samples.C, theirs = plain.C, unit = "s" }
else
  measure.skip(WORK .. ", where huge pages may be used", unmount)
end

-- All pages that the process ever had at once, its own and shared ones.
local said = machine.shell(("%s bench/programs/peak.lua %d"):format(machine.luajit, count))
local peak = assert(tonumber(said), said)
measure.fact { work = WORK .. ": peak memory of the builder, less that of an empty one",
  ours = peak / (count * 4), unit = "arrays", most = 1.01 }
