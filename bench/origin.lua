-- An array through Redis against a plain `redis-cli GET` of the same bytes: time, and memory beside the array.
--
--     make; eval "$(make -s env)"; LUA_PATH="spec/?.lua;$LUA_PATH" luajit bench/origin.lua [MIB [ROUNDS]]
--
-- Everything is on this machine: Redis and its clients share its cores. The middle of the rounds is printed.
local machine = require "support.machine"
local redis = require "support.redis"

local MIB = 2 ^ 20
local size, rounds = (tonumber(arg[1]) or 200) * MIB, tonumber(arg[2]) or 5

local server = redis.start()

-- A process of a machine, which asks for the array when it is told to.
local PROCESS = [[
  local shm_path, port, size = ...
  local store = sharearray.new{ shm_path = shm_path, log_func = function(line) say(line) end,
    origin = require("sharearray.origin.redis").new{ port = tonumber(port) } }
  local function status(name)
    for line in io.lines "/proc/self/status" do
      local size = line:match("^" .. name .. ":%s+(%d+) kB")
      if size then return tonumber(size) * 1024 end
    end
  end
  say "ready"
  hear()
  local before, start, built = status "VmRSS", now(), false
  local x = assert(store:cache("x", function(alloc)
    built = true
    local x = alloc("uint8", tonumber(size))
    ffi.fill(ffi.cast("void *", x.data), x.size, 1)
    return x
  end))
  -- A builder's mapping is part of what it holds; who fetched has not looked at the array yet.
  say(now() - start, status "VmHWM" - before + (built and 0 or x.size), built)
]]

local function middle(list)
  table.sort(list)
  return list[math.ceil(#list / 2)]
end

local function fresh(count)
  local list = {}
  for i = 1, count do list[i] = machine.directory() end
  return list
end

-- Processes on these machines, all at once: seconds until the last has it, seconds and bytes of those that fetched.
local function run(directories)
  local processes = {}
  for i, directory in ipairs(directories) do
    processes[i] = machine.worker(PROCESS, { directory, server.port, size })
    processes[i]:expect "ready"
  end
  local start = machine.now()
  for _, process in ipairs(processes) do process:tell() end
  local fetched, memory, builds = {}, {}, 0
  for _, process in ipairs(processes) do
    local seconds, bytes, built = process:finish():match "([%d.]+) (%d+) (%a+)\n$"
    if built == "true" then builds = builds + 1 else fetched[#fetched + 1] = tonumber(seconds) end
    memory[#memory + 1] = tonumber(bytes)
  end
  return machine.now() - start, fetched, math.max(unpack(memory)), builds
end

local function remove(directories)
  for _, directory in ipairs(directories) do machine.remove(directory) end
end

-- redis-cli writes to a file in memory, as a fetch does. Its time and its largest size.
local PEAK = [[/usr/bin/python3 -c 'import resource, subprocess, sys, time
start = time.monotonic()
subprocess.check_call(sys.argv[2:], stdout=open(sys.argv[1], "wb"))
print(time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)' ]]

local CHUNK = 16 * MIB -- of the second row: as the origin has them
local CHUNKS = math.ceil(size / CHUNK)

local function plain(path, chunked)
  local client = ("redis-cli -h 127.0.0.1 -p %d"):format(server.port)
  local command = client .. " get plain"
  if chunked then command = ("for i in $(seq %d); do echo get plain:$i; done | %s"):format(CHUNKS, client) end
  local said = machine.shell(PEAK .. ("'%s/x' sh -c '%s'"):format(path, command))
  os.remove(path .. "/x")
  local seconds, bytes = said:match "([%d.]+) (%d+)"
  return tonumber(seconds), tonumber(bytes) + size -- what it wrote counts as well
end

local directories = fresh(3)
local rows = { plain = {}, chunks = {}, cold = {}, fetch = {} }
local peak = { plain = 0, chunks = 0, cold = 0, fetch = 0 }
server:cli "config set proto-max-bulk-len 8gb"
server:cli(("setrange plain %.0f x"):format(size - 1))
for i = 1, CHUNKS do
  server:cli(("setrange plain:%d %.0f x"):format(i, math.min(CHUNK, size - (i - 1) * CHUNK) - 1))
end
for _ = 1, rounds do
  for name, chunked in pairs { plain = false, chunks = true } do
    local seconds, bytes = plain(directories[1], chunked)
    table.insert(rows[name], seconds)
    peak[name] = math.max(peak[name], bytes)
  end

  local all = { directories[1], directories[2], directories[3], directories[1], directories[2], directories[3] }
  local took, _, most, builds = run(all)
  assert(builds == 1, "it was built " .. builds .. " times")
  rows.cold[#rows.cold + 1], peak.cold = took, math.max(peak.cold, most)

  local alone = fresh(1)
  local _, fetched, alone_most = run(alone)
  rows.fetch[#rows.fetch + 1], peak.fetch = fetched[1], math.max(peak.fetch, alone_most)
  remove(alone)

  for _, directory in ipairs(directories) do os.remove(directory .. "/sharearray_x.npy") end
  for _, key in ipairs(server:keys()) do
    if not key:find "^plain" then server:cli("del '" .. key .. "'") end
  end
end

local function row(title, name)
  local seconds = middle(rows[name])
  print(("%-52s %6.2f s  %5.2f x   %5.3f of the array"):format(title, seconds, seconds / middle(rows.plain),
    peak[name] / size))
end

print(("%d MiB, %d rounds"):format(size / MIB, rounds))
row("redis-cli GET, one value, to a file in /dev/shm", "plain")
row("redis-cli GET, values of 16 MiB, to such a file", "chunks")
row("sharearray, one machine fetches", "fetch")
row("3 machines of 2 processes, cold, build included", "cold")

remove(directories)
server:stop()
