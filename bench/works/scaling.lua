--- Cost as work grows: attach against size, ids and processes. Points of plots, no rows but for what should
-- be flat.

local machine = require "support.machine"
local measure = require "harness.measure"
local sharearray = require "sharearray"

local TIMES = 50

-- A line of smaps_rollup, kilobytes.
local function memory(pid, what)
  local file = assert(io.open(("/proc/%s/smaps_rollup"):format(pid)))
  local text = file:read "*a"
  file:close()
  return tonumber(text:match("\n" .. what .. ":%s+(%d+)"))
end

local function attach(id)
  for _ = 1, TIMES do sharearray.get(id):close() end
end

local function sizes()
  local largest = measure.choose(33, 30) -- 8 GiB, 1 GiB
  local least, most
  for power = 10, largest, measure.choose(1, 4) do
    local bytes = 2 ^ power
    measure.progress("attach: %g KiB", bytes / 1024)
    sharearray.cache("size", function(alloc) return alloc("uint8", { bytes }) end):close()
    attach "size"
    -- Sizes cannot take turns, there is not the memory for it: the best of many, which noise touches least.
    local seconds = math.huge
    for _ = 1, 51 do seconds = math.min(seconds, measure.seconds(attach, "size") / TIMES) end
    least, most = math.min(least or seconds, seconds), math.max(most or seconds, seconds)
    measure.point("attach-size", "attach, detach", bytes / 1024, seconds * 1e6)
    local x = assert(sharearray.get "size")
    measure.point("memory-size", "private memory of the process", bytes / 1024, memory("self", "Private_Dirty") / 1024)
    x:close()
    sharearray.free "size"
  end
  if measure.quick then measure.skip("attach: 8 GiB", "make bench without QUICK does") end
  measure.fact { work = ("attach: slowest size over fastest, 1 KiB to %d GiB"):format(2 ^ (largest - 30)),
    ours = most / least, unit = "x", most = 3, reach = "flat: at most 3 x" }
end

local function ids()
  local most = measure.choose(10000, 1000)
  for i = 1, most do assert(sharearray.cache("id" .. i, sharearray.array({ i }, "float32"))):close() end
  local n = 1
  while n <= most do
    measure.progress("attach: %d ids", n)
    collectgarbage()
    collectgarbage()
    local store = sharearray.new { trust = { n } } -- its own memo
    local names, views = {}, {}
    for i = 1, n do names[i] = "id" .. i end
    local before = memory("self", "Private_Dirty")
    local seconds = measure.seconds(function()
      for i = 1, n do views[i] = store:get(names[i]) end
    end)
    measure.point("attach-ids", "all of them", n, seconds * 1e3)
    local more = memory("self", "Private_Dirty") - before
    if more > 0 then measure.point("memory-ids", "all of them", n, more / 1024) end
    for i = 1, n do views[i]:close() end
    n = n * 10
  end
  for i = 1, most do sharearray.free("id" .. i) end
end

local WORKER = [[
  say "ready"
  hear()
  local t = now(1)
  local x = assert(sharearray.get "many")
  local first = x(0)
  say((now(1) - t) * 1e6)
  for _ = 1, 200 do sharearray.get("many"):close() end
  t = now(1)
  for _ = 1, 1000 do sharearray.get("many"):close() end
  x = assert(sharearray.get "many")
  say((now(1) - t) * 1e3)
  hear()
]]

local function processes()
  sharearray.cache("many", function(alloc) return alloc("float32", { 2 ^ 18 }) end):close()
  local n = 1
  while n <= measure.choose(256, 64) do
    measure.progress("attach: %d processes", n)
    local list, first, later, kilobytes = {}, {}, {}, 0
    for i = 1, n do
      list[i] = machine.worker(WORKER)
      list[i]:expect "ready"
    end
    for i, process in ipairs(list) do -- one after the other: what others hold must not matter
      process:tell()
      first[i], later[i] = tonumber((process:line())), tonumber((process:line()))
    end
    for _, process in ipairs(list) do kilobytes = kilobytes + memory(process.pid, "Pss") end
    for _, process in ipairs(list) do
      process:tell()
      process:finish()
    end
    measure.point("attach-processes", "the first in a process", n, measure.median(first))
    measure.point("attach-processes", "later ones", n, measure.median(later))
    measure.point("memory-processes", "PSS of all", n, kilobytes / 1024)
    n = n * 4
  end
  sharearray.free "many"
end

sizes()
ids()
processes()
