--- In an nginx worker: 64 ids in rotation, ours against what its users have today.
-- Says lines `<name> <seconds per call>`, then `end`.

local baseline = require "harness.baseline"
local lrucache = require "resty.lrucache"
local sharearray = require "sharearray"

local IDS = 64
local quick = os.getenv "BENCH_QUICK" == "1"
local calls, rounds = quick and 2e5 or 1e6, quick and 5 or 11

local names, cache, dict = {}, assert(lrucache.new(IDS * 2)), ngx.shared.bench
local function never() error "it should be there" end
for i = 0, IDS - 1 do
  local name = "hit" .. i
  names[i] = name
  local x = assert(sharearray.get(name))
  cache:set(name, x)
  dict:set("number" .. i, i)
  dict:set(name, x:string())
end
local numbers = {}
for i = 0, IDS - 1 do numbers[i] = "number" .. i end

local sink

local function ours(n)
  for i = 1, n do sink = sharearray.cache(names[i % IDS], never) end
end

local function lru(n)
  for i = 1, n do sink = cache:get(names[i % IDS]) end
end

local function dict_number(n)
  for i = 1, n do sink = dict:get(numbers[i % IDS]) end
end

local function dict_bytes(n)
  for i = 1, n do sink = dict:get(names[i % IDS]) end
end

local competitors = { { "ours", ours }, { "lrucache", lru }, { "number", dict_number }, { "bytes", dict_bytes } }

local function say(...)
  io.stdout:write(table.concat({ ... }, " "), "\n")
  io.stdout:flush()
end

ngx.timer.at(0, function()
  for round = 0, rounds do
    for k = 1, #competitors do
      local name, run = unpack(competitors[round % 2 == 0 and k or #competitors + 1 - k])
      local start = baseline.now()
      run(calls)
      if round > 0 then say(name, (baseline.now() - start) / calls) end
    end
  end
  assert(sink ~= nil)
  say "end"
end)
