--- Publishing memory that exists already.

local ffi = require "ffi"
local baseline = require "harness.baseline"
local huge = require "harness.huge"
local measure = require "harness.measure"
local python = require "harness.python"
local sharearray = require "sharearray"
local array = require "sharearray.array"

local MEGABYTES = measure.choose(1024, 256)
local count = MEGABYTES * 2 ^ 18
local WORK = ("publish existing memory, %d MiB"):format(MEGABYTES)

local x = array.new("float32", { count })
local data = x.data
for i = 0, count - 1 do data[i] = i % 256 end

local function publish(store)
  return function()
    local start = measure.now()
    local view = assert(store:cache("publish", x))
    local seconds = measure.now() - start
    store:free "publish"
    view:close()
    return seconds
  end
end

local ROUNDS = measure.choose(15, 5)
local path = measure.directory .. "/baseline"
local peer = python.start()
peer:ask("array", MEGABYTES)
local plain = measure.rounds(ROUNDS, {
  { "ours", publish(sharearray.new()) },
  { "C", function() return baseline.C.baseline_write(path, ffi.cast("void *", data), count * 4) end },
  { "numpy", function() return peer:ask("save", path .. ".npy") end },
})
peer:stop()
measure.row { work = WORK, against = "C: write(2) into a tmpfs file", ours = plain.ours, theirs = plain.C,
  unit = "s", most = 1.05 }
measure.row { work = WORK, against = "numpy.save there", ours = plain.ours, theirs = plain.numpy, unit = "s",
  ahead = 1 }

local mounted, unmount = huge.mount(MEGABYTES + 64 .. "m")
if mounted then
  local samples = measure.rounds(ROUNDS, {
    { "ours", publish(sharearray.new { shm_path = mounted }) },
    { "C", function() return baseline.C.baseline_copy_huge(mounted .. "/baseline", data, count * 4) end },
  })
  unmount()
  measure.row { work = WORK .. ", on a tmpfs with huge=advise", against = "numpy.save on a plain one",
    ours = samples.ours, theirs = plain.numpy, unit = "s", ahead = 4 }
  measure.row { work = WORK .. ", on a tmpfs with huge=advise", against = "C: mmap, MADV_HUGEPAGE, memcpy there",
    ours = samples.ours, theirs = samples.C, unit = "s" }
  measure.row { work = WORK .. ", on a tmpfs with huge=advise: C with mmap, MADV_HUGEPAGE, memcpy",
    against = "numpy.save on a plain one", ours = samples.C, theirs = plain.numpy, unit = "s" }
else
  measure.skip(WORK .. ", on a tmpfs with huge=advise", unmount)
end
