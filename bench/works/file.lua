--- A .npy file in the page cache, into shared memory.

local baseline = require "harness.baseline"
local measure = require "harness.measure"
local sharearray = require "sharearray"

local MEGABYTES = measure.choose(1024, 256)
local path, copy = measure.build .. "/file.npy", measure.directory .. "/copy"

sharearray.cache("file", function(alloc)
  local x = alloc("float32", { MEGABYTES * 2 ^ 18 })
  x:fill(1)
  return x
end):close()
baseline.run { "cp", measure.directory .. "/sharearray_file.npy", path }
sharearray.free "file"

local source = sharearray.file(path)
local samples = measure.rounds(measure.choose(9, 5), {
  { "ours", function()
    local view
    local seconds = measure.seconds(function() view = assert(sharearray.cache("file", source)) end)
    sharearray.free "file"
    view:close()
    return seconds
  end },
  { "cp", function()
    local seconds = baseline.run { "cp", path, copy }
    os.remove(copy)
    return seconds
  end },
})
os.remove(path)
measure.row { work = ("file source: .npy of %d MiB in the page cache"):format(MEGABYTES), against = "cp to tmpfs",
  ours = samples.ours, theirs = samples.cp, unit = "s", most = 1.1 }
