--- The long run: Lua processes, victims of SIGKILL, Python peers and nginx workers use the same ids for
-- minutes. Every value that anybody sees has to be whole and right, and memory, descriptors, mappings and
-- the directory have to be as small at the end as after a quarter of the time.
--
--     luajit spec/torture/soak.lua MINUTES [SEED]
--
-- Cases are printed as `.ci/tally harness` reads them.

local ffi = require "ffi"
local machine = require "support.machine"
local nginx = require "support.nginx"
local sharearray = require "sharearray"

local MINUTES, SEED = tonumber(arg[1] or 1), tonumber(arg[2] or os.time())
local STEADY, VICTIMS = 3, 3
local PYTHON_SIZE = 20000

-- What every user of the ids does, in Lua: `turn(sharearray)` is one random operation, and returns what
-- was wrong, or nil. An array holds one number throughout; a bundle one number in all that is in it.
local TURNS = [[
local ARRAYS, BUNDLES, PYTHON = 6, 4, 3

local function version() return math.random(1, 1000000) end

local function make_array(k)
  return function(alloc)
    local x = alloc("int32", 5000 * k)
    x:fill(version())
    return x
  end
end

local function make_bundle(k)
  return function(alloc)
    local v = version()
    local b = alloc{ x = {"int32", {100, 30 * k}}, y = {"float64", 2000 * k} }
    b.x:fill(v)
    b.y:fill(v)
    b.version = v
    return b
  end
end

local function make_float() return function(alloc)
  local x = alloc("float32", ]] .. PYTHON_SIZE .. [[)
  x:fill(version())
  return x
end end

local function same(x, v)
  local flat = x:reshape(-1)
  return flat(0) == v and flat(math.random(0, flat.size - 1)) == v and flat(flat.size - 1) == v
end

local function wrong_array(x) if not same(x, x:reshape(-1)(0)) then return "a mixed array" end end

local function wrong_bundle(b)
  if not same(b.x, b.version) or not same(b.y, b.version) then return "a mixed bundle" end
end

local function pick()
  local k = math.random(1, ARRAYS + BUNDLES + PYTHON)
  if k <= ARRAYS then return "a" .. k, make_array(k), wrong_array end
  if k <= ARRAYS + BUNDLES then return "b" .. k, make_bundle(k - ARRAYS), wrong_bundle end
  return "p" .. k - ARRAYS - BUNDLES, make_float(), wrong_array
end

local ALLOWED = { absent = true }

local function turn(sharearray)
  local id, source, wrong = pick()
  local dice, value, err, code = math.random(), nil, nil, nil
  if dice < 0.45 then value, err, code = sharearray.cache(id, source, {timeout = 60})
  elseif dice < 0.75 then value, err, code = sharearray.get(id)
  elseif dice < 0.85 then value, err, code = sharearray.refresh(id, source, {timeout = 60})
  elseif dice < 0.90 then value, err, code = sharearray.cache(id, source, {max_age = 0.05, timeout = 60})
  elseif dice < 0.97 then
    value, err, code = sharearray.free(id)
    return value == nil and code .. ": " .. err or nil
  elseif dice < 0.99 then
    value, err, code = sharearray.stat(id)
    return value == nil and not ALLOWED[code] and code .. ": " .. err or nil
  else
    value, err, code = sharearray.list()
    return value == nil and code .. ": " .. err or nil
  end
  if value ~= nil then return wrong(value) end
  if not ALLOWED[code] then return code .. ": " .. tostring(err) end
end
]]

local ACTOR = TURNS .. [[
local stop, seed = ...
math.randomseed(seed)
local turns, counted = 0, {}
while true do
  local problem = turn(sharearray)
  turns = turns + 1
  if problem then say("WRONG", problem) end
  if turns % 50 == 0 then
    local file = io.open(stop)
    if file then break end
  end
end
say("turns", turns)
]]

local directory = machine.directory()
local stop = directory .. "/stop"
local env = { SHAREARRAY_SHM_PATH = directory }
local said, kills, pythons, turns = {}, 0, 0, 0

math.randomseed(SEED)
print(("soak: %g minutes, seed %d"):format(MINUTES, SEED))

local function case(name, problem)
  print(problem and ("not ok %s: %s"):format(name, problem) or "ok " .. name)
end

-- Takes what a process said, and complains of what it ended by.
local function listen(process, expected, name)
  local status, text = process:wait()
  for line in text:gmatch "[^\n]+" do
    if line:find "^turns" then turns = turns + tonumber(line:match "%d+")
    elseif line:find "^WRONG" or line:find "[Ee]rror" then said[#said + 1] = name .. ": " .. line end
  end
  if expected[status] then return end
  said[#said + 1] = ("%s ended with status %d: %s"):format(name, status, text:sub(-200))
end

local function actor() return machine.worker(ACTOR, { stop, math.random(1, 2 ^ 30) }, env) end

local function start_server()
  if not nginx.is_there() then return nil end
  return nginx.start { workers = 2, main = ("env SHAREARRAY_SHM_PATH=%s;"):format(directory), env = env,
    server = nginx.location("/turn", TURNS .. [[
      math.randomseed(ngx.now() * 1000 % 2 ^ 30 + ngx.worker.pid())
      local problem = turn(sharearray)
      if problem then ngx.status = 500 end
      ngx.print(problem or "right")
    ]]) }
end

-- Bytes of memory of its own, descriptors, and mappings of entries.
local function burden(pid)
  local status = assert(io.open("/proc/" .. pid .. "/status")):read "*a"
  local maps = assert(io.open("/proc/" .. pid .. "/maps")):read "*a"
  return { tonumber(status:match "RssAnon:%s*(%d+)") * 1024,
    tonumber((machine.shell("ls /proc/" .. pid .. "/fd | wc -l"))),
    select(2, maps:gsub(directory:gsub("%p", "%%%0"), "")) }
end

local function python_peer()
  pythons = pythons + 1
  return machine.python("peer.py", { "cache", directory, "p" .. math.random(1, 3), tostring(math.random(1, 1000)),
    tostring(PYTHON_SIZE) })
end

local steady, victims = {}, {}
for i = 1, STEADY do steady[i] = actor() end
for i = 1, VICTIMS do victims[i] = actor() end
local server = start_server()
local pinger = server and server:client("ping", "4", "/turn")

local function watched()
  local pids = {}
  for _, process in ipairs(steady) do pids[#pids + 1] = process.pid end
  for _, pid in ipairs(server and server:workers() or {}) do pids[#pids + 1] = pid end
  return pids
end

-- The least of looks over some seconds: each process is in the midst of something, and old versions that nobody has
-- any more are mapped until the collector comes round, three times as many as the others.
local function measure()
  local result = {}
  for _ = 1, 40 do
    for _, pid in ipairs(watched()) do
      local now = burden(pid)
      for i, least in ipairs(result[pid] or now) do now[i] = math.min(now[i], least) end
      result[pid] = now
    end
    ffi.C.poll(nil, 0, 50)
  end
  return result
end

local begun, before = machine.now(), nil
local finish = begun + MINUTES * 60
while machine.now() < finish do
  local victim = math.random(1, VICTIMS)
  victims[victim]:kill()
  listen(victims[victim], { [-9] = true, [0] = true }, "a victim")
  kills = kills + 1
  victims[victim] = actor()
  local peer = python_peer()
  if math.random() < 0.4 then
    ffi.C.poll(nil, 0, math.random(100, 250)) -- numpy takes so long to load
    peer:kill()
  end
  -- Python opens by name, and that may be gone by then: a free came between. That is its own affair.
  local _, text = peer:wait()
  if text:find "value %S+ False" then said[#said + 1] = "Python: " .. text end
  if not before and machine.now() > begun + MINUTES * 15 then before = measure() end
end
local after = measure()

assert(io.open(stop, "w")):close()
for _, process in ipairs(steady) do listen(process, { [0] = true }, "a process") end
for _, process in ipairs(victims) do listen(process, { [0] = true }, "a process") end
local report = pinger and server.report(pinger)
if report then
  for _, problem in ipairs(report.failed) do said[#said + 1] = "nginx: " .. problem end
  turns = turns + report.count
  server:stop()
end
os.remove(stop)

case("every value is whole, and nobody is refused",
  said[1] and ("%d complaints, the first: %s"):format(#said, said[1]))

local NAMES = { "memory of its own", "descriptors", "mappings" }
local ROOM = { 8 * 2 ^ 20, 3, 20 } -- beside a quarter more
local most = {}
for i, name in ipairs(NAMES) do
  local problem
  most[i] = 0
  for pid, was in pairs(before or {}) do
    local is = after[pid]
    if is and is[i] > was[i] * 1.25 + ROOM[i] then problem = ("%d at first, %d at the end"):format(was[i], is[i]) end
    most[i] = math.max(most[i], is and is[i] or 0)
  end
  case("no growth of " .. name, before and problem or not before and "nothing was measured" or nil)
end

local list = assert(sharearray.list { shm_path = directory })
local finished = {}
for _, entry in ipairs(list) do
  if entry.state == "ready" then finished["sharearray_" .. entry.id .. ".npy"] = true end
end
local stranger
for _, name in ipairs(machine.names(directory)) do
  if not finished[name] then stranger = name end
end
case("nothing but finished entries is left", stranger)

print(("# %d turns and %d requests in %.0f s; %d processes killed, %d Python peers; at most %.1f MB, %d descriptors, "
  .. "%d mappings"):format(turns, report and report.count or 0, machine.now() - begun, kills, pythons, most[1] / 2 ^ 20,
  most[2], most[3]))
machine.remove(directory)
