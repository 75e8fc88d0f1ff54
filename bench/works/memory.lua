--- What N processes that use one array take together.

local machine = require "support.machine"
local measure = require "harness.measure"
local sharearray = require "sharearray"

local MEGABYTES, SHARERS, COPIES = measure.choose(1024, 256), 16, 4
local count = MEGABYTES * 2 ^ 18

local SHARER = [[
  local x = assert(sharearray.get "memory")
  local data, sum = x.data, 0
  for i = 0, x.size - 1, 1024 do sum = sum + data[i] end
  collectgarbage() collectgarbage()
  say "ready"
  hear()
]]
local COPY = [[
  local count = tonumber((...))
  local x = ffi.new("float[?]", count)
  for i = 0, count - 1, 1024 do x[i] = 1 end
  say "ready"
  hear()
]]

-- Proportional set size of all of them: a page that n processes have counts a nth in each.
local function pss(processes)
  local bytes = 0
  for _, process in ipairs(processes) do
    for line in io.lines(("/proc/%d/smaps_rollup"):format(process.pid)) do
      local kilobytes = line:match "^Pss:%s+(%d+) kB"
      if kilobytes then bytes = bytes + tonumber(kilobytes) * 1024 end
    end
  end
  return bytes
end

local function together(n, code)
  local processes = {}
  for i = 1, n do
    processes[i] = machine.worker(code, { count })
    processes[i]:expect "ready"
  end
  local bytes = pss(processes)
  for _, process in ipairs(processes) do
    process:tell()
    process:finish()
  end
  return bytes
end

sharearray.cache("memory", function(alloc)
  local x = alloc("float32", { count })
  x:fill(1)
  return x
end):close()
local shared = together(SHARERS, SHARER)
sharearray.free "memory"
measure.fact { work = ("memory: %d processes on one array of %d MiB, beyond it, each"):format(SHARERS, MEGABYTES),
  ours = (shared - count * 4) / SHARERS / 2 ^ 20, unit = "MiB", most = 1 }
local copied = together(COPIES, COPY)
local sharing = (count * 4 + (shared - count * 4) / SHARERS * COPIES)
measure.row { work = ("memory: %d processes on one array of %d MiB"):format(COPIES, MEGABYTES),
  against = "as many private copies", ours = { sharing / 2 ^ 20 }, theirs = { copied / 2 ^ 20 }, unit = "MiB",
  ahead = 1 }
