--- Huge pages, and pages that are there before they are used: scan and random gather, with and without.

local ffi = require "ffi"
local C = require("harness.baseline").C
local huge = require "harness.huge"
local measure = require "harness.measure"
local sharearray = require "sharearray"

local MEGABYTES = measure.choose(1024, 256)
local count = MEGABYTES * 2 ^ 18

local function build(store)
  store:cache("pages", function(alloc)
    local x = alloc("float32", { count })
    x:fill(1)
    return x
  end):close()
end

local GATHERS = 2 ^ 20
local index = ffi.new("int32_t[?]", GATHERS)
do
  local state = 1
  for i = 0, GATHERS - 1 do
    state = state * 16807 % 2147483647 -- Park and Miller's
    index[i] = state % count
  end
end

local sink
local function first_scan(store, opts)
  return function()
    local x = assert(store:get("pages", opts))
    local seconds = C.baseline_scan(x.data, count * 4)
    x:close()
    return seconds
  end
end

local function with_attach(store, opts)
  return function()
    local x
    local seconds = measure.seconds(function()
      x = assert(store:get("pages", opts))
      sink = C.baseline_scan(x.data, count * 4)
    end)
    x:close()
    return seconds
  end
end

local function gathers(store)
  return function()
    local x = assert(store:get "pages")
    C.baseline_scan(x.data, count * 4)
    local seconds = measure.seconds(function() sink = C.baseline_gather_0(x.data, index, GATHERS) end) / GATHERS
    x:close()
    return seconds
  end
end

local plain = sharearray.new()
local mounted, unmount = huge.mount(MEGABYTES + 64 .. "m")
build(plain)
local competitors = {
  { "plain", first_scan(plain) }, { "prefault", first_scan(plain, { prefault = true }) },
  { "plain whole", with_attach(plain) }, { "prefault whole", with_attach(plain, { prefault = true }) },
  { "plain gather", gathers(plain) },
}
if mounted then
  local advised = sharearray.new { shm_path = mounted }
  build(advised)
  competitors[#competitors + 1] = { "huge", first_scan(advised) }
  competitors[#competitors + 1] = { "huge gather", gathers(advised) }
end
local samples = measure.rounds(measure.choose(9, 5), competitors)
local SCAN = ("first scan of %d MiB, a byte of each page"):format(MEGABYTES)
measure.row { work = SCAN .. ", prefault = true", against = "without", ours = samples.prefault,
  theirs = samples.plain, unit = "ms", ahead = 1 }
measure.row { work = SCAN .. ", prefault = true, attach included", against = "without",
  ours = samples["prefault whole"], theirs = samples["plain whole"], unit = "ms" } -- the time moves, it need not go
if mounted then
  measure.row { work = SCAN .. ", huge pages", against = "without", ours = samples.huge, theirs = samples.plain,
    unit = "ms", ahead = 1 }
  measure.row { work = ("random gather in %d MiB, huge pages"):format(MEGABYTES), against = "without",
    ours = samples["huge gather"], theirs = samples["plain gather"], unit = "ns", ahead = 1 }
  unmount()
else
  measure.skip("huge pages: scan and gather", unmount)
end
assert(sink ~= nil)
plain:free "pages"
