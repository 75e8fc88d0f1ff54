--- A second hit in one process, 64 ids in rotation.

local machine = require "support.machine"
local lmdb = require "harness.lmdb"
local measure = require "harness.measure"
local nginx = require "harness.nginx"
local python = require "harness.python"
local sharearray = require "sharearray"

local IDS, FLOATS = 64, 1024
local WORK = "hit: cache(id, fn) again, 64 ids in rotation"

local names, values = {}, {}
for i = 0, IDS - 1 do
  local name = "hit" .. i
  names[i] = name
  local x = sharearray.array({ i }, "float32")
  local big = assert(sharearray.cache(name, function(alloc)
    local array = alloc("float32", { FLOATS })
    array[0] = x[0]
    return array
  end))
  values[name] = big:string()
end

local sink
local function never() error "it should be there" end

local function ours(n)
  for i = 1, n do sink = sharearray.cache(names[i % IDS], never) end
end

local function in_process()
  local calls = measure.choose(2e6, 5e5)
  local competitors = { { "ours", function() return measure.seconds(ours, calls) / calls end } }
  local path = measure.directory .. "/lmdb"
  local get, close = lmdb.open(path, values)
  local function gets(n)
    for i = 1, n do sink = get(names[i % IDS]) end
  end
  if get then
    competitors[2] = { "lmdb", function() return measure.seconds(gets, calls) / calls end }
  end
  local peer = python.start()
  competitors[#competitors + 1] = { "python", function()
    return peer:ask("hit", measure.directory, IDS, measure.choose(20000, 3000))
  end }
  local samples = measure.rounds(measure.choose(9, 5), competitors)
  peer:stop()
  if get then
    close()
    os.remove(path)
    os.remove(path .. "-lock")
    measure.row { work = WORK, against = "LMDB get through FFI", ours = samples.ours, theirs = samples.lmdb,
      unit = "ns", ahead = 1 }
  else
    measure.skip(WORK .. " / LMDB", "liblmdb is not installed")
  end
  measure.row { work = WORK, against = "Python: numpy's open_memmap", ours = samples.ours, theirs = samples.python,
    unit = "ns", ahead = 5000 }
end

local function in_nginx()
  local why = nginx.missing()
  if why then return measure.skip(WORK .. " in nginx", why) end
  local process = nginx.start("hit.lua", 0)
  local samples = { ours = {}, lrucache = {}, number = {}, bytes = {} }
  while true do
    local line = nginx.line(process)
    if line == "end" then break end
    local name, seconds = line:match "^(%S+) (%S+)$"
    assert(samples[name], line)
    table.insert(samples[name], tonumber(seconds))
  end
  nginx.stop(process)
  for _, rival in ipairs {
    { "lrucache", "lua-resty-lrucache:get in nginx", most = 1.5 },
    { "number", "ngx.shared.DICT:get of a number", ahead = 1 },
    { "bytes", "ngx.shared.DICT:get of the bytes (4 KiB)", ahead = 1 },
  } do
    measure.row { work = WORK, against = rival[2], ours = samples.ours, theirs = samples[rival[1]], unit = "ns",
      most = rival.most, ahead = rival.ahead }
  end
end

-- Every hit looks at the clock, which is no system call, and every 10 ms at the file system. So it is
-- asked of the kernel between two calls that mark a span of less than that.
local function system_calls()
  if not select(2, machine.shell "command -v strace") then
    return measure.skip("system calls of a hit", "strace is not installed")
  end
  local text = machine.shell(("strace -e raw=all -f %s bench/programs/hits.lua"):format(machine.luajit))
  local least
  for span in text:gmatch "gettid%(%)[^\n]*\n(.-)gettid%(%)" do
    local calls = select(2, span:gsub("[^\n]+\n", ""))
    least = math.min(least or calls, calls)
  end
  measure.fact { work = "hit: system calls in 6,400 of them", ours = assert(least, text), unit = "calls", most = 0,
    reach = "none" }
end

measure.progress "in nginx"
in_nginx()
measure.progress "in one process"
in_process()
system_calls()
assert(sink ~= nil)
for i = 0, IDS - 1 do sharearray.free(names[i]) end
