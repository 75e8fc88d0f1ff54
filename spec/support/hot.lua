--- Hot loops for spec/speed_spec.lua, in a process of their own: `hot.lua WHAT COUNT` runs one of them.
--
--   hit       hits of 64 ids in rotation
--   attach    attach and close
--   element   sum through v(i)
--   writable  the same of an array that may be written
--   traces    all of them, and more; says `<loop> <traces> <aborts> <reason>` of what LuaJIT recorded
--   bulk      the same of attaches, while the clock says that they come in bulk
--   rare      the same of attaches that are a third of a millisecond apart, as it says
--   revived   the same of hits and of gets, after so many calls that were none
--   calls     hits between two calls of gettid, for strace to look at

local ffi = require "ffi"
local sharearray = require "sharearray"

local IDS = 64
local names, sink = {}, nil
local function never() error "it should be there" end

for i = 0, IDS - 1 do
  names[i] = "hot" .. i
  assert(sharearray.cache(names[i], sharearray.array({ i, 1, 2 }, "float32")))
end

local loops = {}

function loops.hit(n)
  for i = 1, n do sink = sharearray.cache(names[i % IDS], never) end
end

function loops.get(n)
  for i = 1, n do sink = sharearray.get(names[i % IDS]) end
end

local load = sharearray.decorator("hot0")(never)
function loops.decorated(n)
  for _ = 1, n do sink = load() end
end

function loops.attach(n)
  for i = 1, n do sharearray.get(names[i % IDS]):close() end
end

local writable = sharearray.array(("\0"):rep(4 * 4096), "float32")
local x = assert(sharearray.cache("elements", writable))
local matrix = x:reshape { 64, 64 }
local index = sharearray.array({ 3, 1, 4, 1, 5, 9, 2, 6 }, "int32")

function loops.element(n)
  local sum = 0
  for i = 0, n - 1 do sum = sum + x(i % 4096) end
  sink = sum
end

function loops.writable(n)
  local sum = 0
  for i = 0, n - 1 do sum = sum + writable(i % 4096) end
  sink = sum
end

function loops.elements_2d(n)
  local sum = 0
  for k = 0, n - 1 do sum = sum + matrix(k % 64, k % 64) end
  sink = sum
end

function loops.gather(n)
  local sum = 0
  for i = 0, n - 1 do sum = sum + x(index(i % 8)) end
  sink = sum
end

function loops.data(n)
  local sum, data = 0, x.data
  for i = 0, n - 1 do sum = sum + data[i % 4096] end
  sink = sum
end

function loops.row(n)
  local sum, row = 0, matrix[3]
  for i = 0, n - 1 do sum = sum + row(i % 64) end
  sink = sum
end

-- Counters of hotness are shared by places in the code that lie by chance: a function may be found hot
-- before the loop in it is. LuaJIT then gives up in favour of the loop, which is no failure.
local function is_failure(code)
  return not require("jit.vmdef").traceerr[code]:find("inner loop in root trace", 1, true)
end

local function record(name, n)
  local started, traces, aborts, reason = nil, 0, 0, ""
  local function watch(what, _, func, _, code)
    if what == "start" then started = func end
    if started == loops[name] and what == "stop" then traces = traces + 1 end
    if started == loops[name] and what == "abort" and is_failure(code) then
      aborts, reason = aborts + 1, require("jit.vmdef").traceerr[code]
    end
  end
  collectgarbage "stop" -- a finalizer that runs while a trace is recorded ends the recording
  jit.attach(watch, "trace")
  loops[name](n)
  jit.attach(watch)
  collectgarbage "restart"
  print(name, traces, aborts, reason)
end

local what, count = arg[1], tonumber(arg[2])
if what == "traces" then
  for _, name in ipairs { "hit", "get", "decorated", "element", "writable", "elements_2d", "gather", "data", "row" } do
    record(name, count)
  end
elseif what == "bulk" then
  record("attach", count)
  record("hit", count)
  record("get", count)
elseif what == "rare" then
  local now, clock = 0, require "sharearray.loop"
  function clock.now()
    now = now + 0.1
    return now
  end
  record("attach", count)
elseif what == "revived" then
  for _ = 1, count do
    sharearray.get "absent"
    sharearray.cache("absent", function() return nil, "no data" end)
  end
  record("hit", 20 * count)
  record("get", 20 * count)
elseif what == "calls" then
  ffi.cdef "int gettid(void);"
  loops.hit(20000)
  for _ = 1, 20 do
    loops.hit(IDS) -- after which all are fresh
    ffi.C.gettid()
    loops.hit(count)
    ffi.C.gettid()
  end
else
  loops[what](count)
end
assert(sink ~= nil or what == "attach" or what == "rare")
for i = 0, IDS - 1 do sharearray.free(names[i]) end
sharearray.free "elements"
