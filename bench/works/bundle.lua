--- A bundle of 1,000 members, attached.

local measure = require "harness.measure"
local python = require "harness.python"
local sharearray = require "sharearray"

local MEMBERS = 1000
local ROW = 20 -- bundles attached one after another, with caches as warm as those of separate arrays

local members, names = {}, {}
for i = 1, MEMBERS do
  local x = sharearray.array({ i, i, i, i }, "float32")
  names[i] = "member" .. i
  members[names[i]] = x
  assert(sharearray.cache(names[i], x))
end
assert(sharearray.cache("bundle", members))
members = nil -- luacheck: ignore

-- By stores of their own each time, opened already: what the module's memo holds is attached already.
local function fresh(count)
  local stores = {}
  collectgarbage()
  collectgarbage()
  for i = 1, count do
    stores[i] = sharearray.new { trust = { math.random(1, 2 ^ 31) } }
    assert(not stores[i]:get "absent")
  end
  return stores
end

local sink
local function bundle()
  local stores = fresh(ROW)
  return measure.seconds(function()
    for i = 1, ROW do sink = stores[i]:get("bundle").member7 end
  end) / ROW
end

local function separate()
  local store = fresh(1)[1]
  return measure.seconds(function()
    for i = 1, MEMBERS do sink = store:get(names[i]) end
  end)
end

local peer = python.start()
local samples = measure.rounds(measure.choose(31, 11), {
  { "bundle", bundle },
  { "separate", separate },
  { "numpy", function() return peer:ask("npz", measure.directory .. "/sharearray_bundle.npy") end },
})
peer:stop()
measure.row { work = "bundle of 1,000 members: attach", against = "1,000 separate arrays", ours = samples.bundle,
  theirs = samples.separate, unit = "ms", ahead = 50 }
measure.row { work = "bundle of 1,000 members: attach", against = "numpy.load of the same file, all members",
  ours = samples.bundle, theirs = samples.numpy, unit = "ms", ahead = 50 }
assert(sink ~= nil)
sharearray.free "bundle"
for i = 1, MEMBERS do sharearray.free(names[i]) end
