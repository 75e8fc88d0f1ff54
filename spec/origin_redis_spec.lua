-- sharearray.origin.redis with real servers, and processes on three "machines": directories of their own.
local machine = require "support.machine"
local nginx = require "support.nginx"
local redis = require "support.redis"
local redis_origin = require "sharearray.origin.redis"
local sharearray = require "sharearray"

-- A store of a machine; `options` is Lua text, of redis.new.
local STORE = [[
  local shm_path, port = ...
  local store = sharearray.new{ shm_path = shm_path, log_func = function(line) say(line) end,
    origin = require("sharearray.origin.redis").new{ port = tonumber(port), %s } }
]]

local MANIFEST = "'sharearray:{sharearray_x}'"

describe("sharearray.origin.redis", function()
  local there, why = redis.is_there()
  if not there then
    pending(why)
    return
  end

  local server, nodes, machines, said

  before_each(function()
    machines, said = {}, {}
    for i = 1, 3 do machines[i] = machine.directory() end
  end)

  after_each(function()
    if server then server:stop() end
    for _, node in ipairs(nodes or {}) do node:stop() end
    server, nodes = nil, nil
    for _, directory in ipairs(machines) do machine.remove(directory) end
  end)

  local function store(i, options)
    options = options or {}
    options.port = options.port or server and server.port
    return sharearray.new { shm_path = machines[i], origin = redis_origin.new(options),
      log_func = function(line) said[#said + 1] = line end }
  end

  local function worker(i, code, options)
    return machine.worker(STORE:format(options or "") .. code, { machines[i], server.port })
  end

  local function number(n)
    return function() return sharearray.array({ n }) end
  end

  local function assert_said(pattern)
    local text = table.concat(said, "\n")
    assert.truthy(text:find(pattern), text)
  end

  local function eventually(value, of)
    nginx.eventually(function() return assert(of:cache("x", error))(0) == value end, "the value " .. value)
  end

  -- Valgrind's own: the code that it translated, and its tables.
  local OWN = machine.under_valgrind and 60 * 2 ^ 20 or 0

  -- What a process may hold beside the array: its chunks, and Lua.
  local MEMORY = [[
    local function status(name)
      for line in io.lines "/proc/self/status" do
        local size = line:match("^" .. name .. ":%s+(%d+) kB")
        if size then return tonumber(size) * 1024 end
      end
    end
  ]]

  it("200 MB, 6 processes on 3 machines, cold: fn once, all equal, and nowhere a second copy", function()
    server = redis.start()
    local BYTES = 200 * 2 ^ 20
    local workers = {}
    for i = 1, 6 do
      workers[i] = worker((i - 1) % 3 + 1, MEMORY .. [[
        say "ready"
        hear()
        collectgarbage()
        local before = status "VmRSS"
        local file = io.open("/proc/self/clear_refs", "w") -- VmHWM begins anew
        file:write "5"
        file:close()
        local x = assert(store:cache("x", function(alloc)
          say "builds"
          local x = alloc("uint8", 200 * 2^20)
          for i = 0, x.size - 1 do x.data[i] = i % 251 end
          return x
        end))
        -- The mapped array is in it for the builder only: who fetches has not looked at it yet.
        say("most", status "VmHWM" - before)
        local wrong = 0
        for i = 0, x.size - 1 do if x.data[i] ~= i % 251 then wrong = wrong + 1 end end
        say("wrong", wrong)
      ]])
    end
    for _, process in ipairs(workers) do process:expect "ready" end
    for _, process in ipairs(workers) do process:tell() end
    local builds = 0
    for _, process in ipairs(workers) do
      local text = process:finish()
      local built = text:find "builds\n"
      if built then builds = builds + 1 end
      local most = tonumber(text:match "most (%d+)") + (built and 0 or BYTES)
      assert.is_true(most < BYTES * 1.05 + OWN, ("%.3f of the array, built: %s"):format(most / BYTES, tostring(built)))
      assert.truthy(text:find "wrong 0\n", text)
    end
    assert.equal(1, builds)
    for _, directory in ipairs(machines) do assert.same({ "sharearray_x.npy" }, machine.names(directory)) end
    local sums = machine.shell("md5sum " .. table.concat(machines, "/*.npy ") .. "/*.npy | cut -c1-32 | uniq | wc -l")
    assert.equal("1\n", sums)
    assert.equal(13 + 2, #server:keys()) -- chunks of 16 MiB, what is current, the fence; no lease
  end)

  -- Versions ----------------------------------------------------------------------------------------------

  it("a refresh is announced: other machines renew within a second", function()
    server = redis.start()
    assert(store(1):cache("x", number(1)))
    local others = {}
    for i = 2, 3 do
      others[#others + 1] = worker(i, [[
        local x = store:cache("x", error)
        -- Past the look that each process makes at first.
        local stop = now() + 0.2
        while now() < stop do x = store:cache("x", error) end
        say(x(0))
        repeat x = store:cache("x", error) until x(0) ~= 1
        say(x(0), now(0))
      ]], "poll = 3600")
    end
    for _, other in ipairs(others) do other:expect "1" end
    assert(store(1):refresh("x", number(2)))
    local start = machine.now(0)
    for _, other in ipairs(others) do
      local value, at = other:finish():match "(%d+) ([%d.]+)\n$"
      assert.equal("2", value)
      assert.is_true(at - start < 1, at - start)
    end
  end)

  it("a message that was lost while Redis was away is made good", function()
    server = redis.start()
    assert(store(1):cache("x", number(1)))
    local b = store(2)
    assert(b:cache("x", error))
    eventually(1, b)
    server:crash()
    server:launch()
    assert.equal(2, assert(store(1):refresh("x", number(2)))(0))
    eventually(2, b)
  end)

  it("expire: Redis forgets an entry; chunks of a replaced one stay for the grace, then go", function()
    server = redis.start()
    assert(store(1):cache("x", number(1)))
    assert.equal("-1", server:cli("pttl " .. MANIFEST))
    local a = store(1, { expire = 100, grace = 50 })
    assert(a:refresh("x", number(2)))
    local left = {}
    for _, name in ipairs(server:keys()) do
      left[#left + 1] = tonumber(server:cli("pttl '" .. name .. "'"))
    end
    table.sort(left)
    assert.equal(4, #left) -- an old chunk, the manifest and its chunk, the fence
    assert.is_true(left[1] > 30000 and left[1] <= 50000, left[1])
    assert.is_true(left[2] > 80000 and left[3] <= 100000, left[3])
    local b = store(2, { expire = 0.2, grace = 0.2 })
    assert(b:cache("y", number(1)))
    nginx.eventually(function() return server:cli "exists 'sharearray:{sharearray_y}'" == "0" end, "the end")
    assert.equal(2, assert(store(3):cache("y", number(2)))(0))
  end)

  it("a machine in the midst of a fetch ends it although the version is replaced", function()
    server = redis.start()
    local a = store(1)
    local function big(n)
      return function(alloc)
        local x = alloc("uint8", 8 * 2 ^ 20)
        x:fill(n)
        return x
      end
    end
    assert(a:cache("x", big(1)))
    local origin = redis_origin.new { port = server.port }
    local at = 0
    local fetch = origin.fetch
    function origin:fetch(key, have, open)
      return fetch(self, key, have, function(bytes)
        local write = open(bytes)
        return function(pointer, size)
          at = at + 1
          if at == 3 then assert(a:refresh("x", big(2))) end
          return write(pointer, size)
        end
      end)
    end
    local b = sharearray.new { shm_path = machines[2], origin = origin }
    assert.equal(1, assert(b:cache("x", error))(2 ^ 23 - 1))
    -- One whose chunks are gone starts over with the new one.
    at = 0
    local c = sharearray.new { shm_path = machines[3], origin = origin }
    a = store(1, { grace = 0.001 })
    function origin.lease() error "it needs no lease" end
    local x = assert(c:cache("x", error))
    assert.is_true(x(2 ^ 23 - 1) == 2 and x(0) == 2)
    assert.same({}, said)
  end)

  it("free removes what is current, and its chunks in a while", function()
    server = redis.start()
    assert(store(1, { grace = 0.01 }):cache("x", number(1)))
    assert.is_true(store(1, { grace = 0.01 }):free "x")
    nginx.eventually(function() return #server:keys() == 1 end, "the end of the chunks")
    assert.is_false(store(1):free "x")
  end)

  -- The lease -----------------------------------------------------------------------------------------------

  it("a leaseholder that is killed is replaced within the lease's time", function()
    server = redis.start()
    worker(1, [[store:cache("x", function() die() end)]], "lease = 2"):wait()
    local left = tonumber(server:cli "pttl 'sharearray:{sharearray_x}:lease'")
    assert.is_true(left > 0 and left <= 2000)
    local start = machine.now()
    assert.equal(2, assert(store(2, { lease = 2 }):cache("x", number(2)))(0))
    local took = machine.now() - start
    assert.is_true(took > 0.5 and took < 3, took)
    assert.equal(2, assert(store(3):cache("x", error))(0))
    assert.equal("0", server:cli "exists 'sharearray:{sharearray_x}:lease'")
  end)

  it("a late publication of a holder that was taken for dead is refused, and it takes the cluster's", function()
    server = redis.start()
    local late = worker(1, [[
      store:cache("x", function()
        say "builds"
        hear()
        return sharearray.array{1}
      end)
      say(store:get("x")(0))
      local deadline = now() + 60
      repeat until store:cache("x", error)(0) == 2 or now() > deadline
      say(store:get("x")(0))
    ]], "lease = 0.5")
    late:expect "builds"
    late:kill(machine.SIGSTOP)
    assert.equal(2, assert(store(2, { lease = 0.5 }):cache("x", number(2)))(0))
    late:kill(machine.SIGCONT)
    late:tell()
    local text = late:finish()
    assert.truthy(text:find "not given to the origin: this machine was taken for dead", text)
    assert.truthy(text:find "\n1\n2\n$", text)
    assert.equal(2, assert(store(3):cache("x", error))(0))
  end)

  it("a lease that ended while nobody wanted it is taken back", function()
    server = redis.start()
    assert.equal(1, assert(store(1, { lease = 0.5 }):cache("x", function(_, alive)
      nginx.eventually(function() return server:cli "exists 'sharearray:{sharearray_x}:lease'" == "0" end, "its end")
      alive()
      assert.equal("1", server:cli "exists 'sharearray:{sharearray_x}:lease'")
      return sharearray.array { 1 }
    end))(0))
    assert.equal(1, assert(store(2):cache("x", error))(0))
    assert.same({}, said)
  end)

  it("a lease that was given back is over, although nginx's timer was about to renew it", function()
    server = redis.start()
    local origin = redis_origin.new { port = server.port }
    local lease = assert(origin:lease "sharearray_x")
    assert.is_true(lease:renew())
    lease:release()
    assert.is_nil((lease:renew()))
    assert.equal("0", server:cli "exists 'sharearray:{sharearray_x}:lease'")
    assert.truthy(origin:lease "sharearray_x")
  end)

  it("a function that only makes garbage keeps the lease", function()
    server = redis.start()
    local builder = worker(1, [[
      store:cache("x", function()
        say "builds"
        local stop, garbage = now() + 5, ""
        while now() < stop do garbage = tostring(now()) .. garbage:sub(1, 10) end
        return sharearray.array{1}
      end)
    ]], "lease = 2")
    builder:expect "builds"
    assert.equal(1, assert(store(2, { lease = 2 }):cache("x", error))(0))
    builder:finish()
  end)

  it("a publication that is killed leaves the old version whole, and its chunks end by themselves", function()
    server = redis.start()
    local a = store(1)
    assert(a:cache("x", number(1)))
    local before = #server:keys()
    local builder = worker(2, [[
      store:refresh("x", error)
      store:refresh("x", function(alloc) return alloc("uint8", 512 * 2^20) end)
    ]], "lease = 1")
    nginx.eventually(function() return #server:keys() > before + 3 end, "the publication")
    builder:kill()
    builder:wait()
    assert.equal(1, assert(store(3):cache("x", error))(0))
    local current, orphans = server:cli("get " .. MANIFEST):match "^%d+", 0
    for _, name in ipairs(server:keys()) do
      local version = name:match ":(%d+):%d+$"
      if version and version ~= current then
        orphans = orphans + 1
        assert.is_true(tonumber(server:cli("pttl '" .. name .. "'")) > 0, name)
      end
    end
    assert.is_true(orphans > 2)
    assert.equal(3, assert(store(3, { lease = 1 }):refresh("x", number(3)))(0))
    eventually(3, a)
  end)

  -- Faults --------------------------------------------------------------------------------------------------

  it("Redis down: the machine builds for itself and says so, unless it must not", function()
    local port = nginx.free_port()
    assert.equal(1, assert(store(1, { port = port }):cache("x", number(1)))(0))
    assert_said "'x': the origin cannot be asked: .*could not connect to 127.0.0.1:%d+ .*; this machine goes on"
    local x, text, code = store(2, { port = port, required = true }):cache("x", number(1))
    assert.is_nil(x)
    assert.equal("origin", code)
    assert.truthy(text:find "could not connect")
    assert.same({}, machine.names(machines[2]))
  end)

  it("Redis that hangs: the same after the time limit", function()
    server = redis.start()
    server:kill(machine.SIGSTOP)
    local start = machine.now()
    assert.equal(1, assert(store(1, { timeout = 0.3 }):cache("x", number(1)))(0))
    local took = machine.now() - start
    server:kill(machine.SIGCONT)
    assert.is_true(took > 0.25 and took < 10, took)
    assert_said "'x': the origin cannot be asked: .*timeout"
  end)

  it("Redis that is full: what was built serves on this machine, and no part of it stays there", function()
    server = redis.start { maxmemory = "32mb", ["maxmemory-policy"] = "noeviction" }
    local function big(alloc) return alloc("uint8", 64 * 2 ^ 20) end
    assert.equal(2 ^ 26, assert(store(1):cache("x", big)).size)
    assert_said "'x': not given to the origin: OOM"
    assert.same({ "sharearray:{sharearray_x}:fence" }, server:keys())
    assert.equal(1, assert(store(2):cache("x", number(1)))(0)) -- the next one fits
    assert.equal(1, assert(store(3):cache("x", error))(0))
  end)

  it("Redis that is full already gives no lease: the machine builds for itself", function()
    server = redis.start { maxmemory = 1 }
    assert.equal(1, assert(store(1):cache("x", number(1)))(0))
    assert_said "'x': the origin gives no lease: .*OOM"
  end)

  for what, harm in pairs {
    ["a lost chunk"] = { "del", "chunk 2 of 2 is lost" },
    ["a chunk cut short"] = { "setrange", "chunk 2 of 2 is lost" },
    ["a changed byte"] = { "change", "its CRC%-32 is %x+, not %x+" },
    ["a manifest that is none"] = { "manifest", "its manifest is not one", "garbage" },
    ["a size that is none"] = { "manifest", "its manifest is not one", "1795616120884834700 99999999999999999999 1 1" },
  } do
    it(what .. ": thrown away, said, rebuilt once for all", function()
      server = redis.start()
      assert(store(1, { chunk = 100 }):cache("x", number(1)))
      local name
      for _, key in ipairs(server:keys()) do name = key:match ".*:1$" or name end
      local verb = harm[1]
      if verb == "del" then server:cli("del '" .. name .. "'") end
      if verb == "setrange" then server:cli("set '" .. name .. "' x") end
      if verb == "change" then server:cli("setrange '" .. name .. "' 30 y") end
      if verb == "manifest" then server:cli(("set %s '%s'"):format(MANIFEST, harm[3])) end
      assert.equal(2, assert(store(2):cache("x", number(2)))(0))
      assert_said("damaged and thrown away: " .. harm[2])
      assert.equal(2, assert(store(3):cache("x", error))(0))
      eventually(2, store(1))
    end)
  end

  it("Redis restarted empty in the midst of a build: it is published all the same", function()
    server = redis.start()
    assert.equal(1, assert(store(1):cache("x", function(_, alive)
      server:crash()
      server:launch()
      alive()
      return sharearray.array { 1 }
    end))(0))
    assert.equal(1, assert(store(2):cache("x", error))(0))
    assert.same({}, said)
  end)

  it("but not if another machine has built it since", function()
    server = redis.start()
    assert.equal(1, assert(store(1):cache("x", function()
      server:crash()
      server:launch()
      assert.equal(2, assert(store(2):cache("x", number(2)))(0))
      return sharearray.array { 1 }
    end))(0))
    assert_said "not given to the origin: this machine was taken for dead"
    assert.equal(2, assert(store(3):cache("x", error))(0))
  end)

  it("a client that raises, from each of its commands on: the machine builds for itself", function()
    server = redis.start()
    for at = 1, 8 do
      local calls = 0
      local function connect()
        local client = require("redis").connect("127.0.0.1", server.port)
        return setmetatable({}, { __index = function(_, name)
          return function(_, ...)
            calls = calls + 1
            if calls >= at then error("the client raises at " .. name, 0) end
            return client[name](client, ...)
          end
        end })
      end
      local a = sharearray.new { shm_path = machines[1], origin = redis_origin.new { connect = connect },
        log_func = function(line) said[#said + 1] = line end }
      assert.equal(at, assert(a:cache("x", number(at)))(0))
      server:cli "flushall"
      a:free "x" -- of this machine
    end
    assert_said "the client raises at get"
    assert_said "the client raises at eval"
    assert_said "not given to the origin: the client raises at get"
  end)

  it("keys of others under the names of an entry's: each machine builds for itself at once", function()
    server = redis.start()
    server:cli "set 'sharearray:{sharearray_x}:fence' abc"
    assert.equal(1, assert(store(1):cache("x", number(1)))(0))
    assert.equal(1, assert(store(2):cache("x", error))(0))
    for i, name in ipairs { "{sharearray_a}", "{sharearray_b}:lease", "{sharearray_c}:fence" } do
      server:cli(("rpush 'sharearray:%s' 1"):format(name))
      local id = name:match "_(%l)"
      local start = machine.now()
      assert.equal(i, assert(store(1):cache(id, number(i)))(0))
      assert(store(2):cache(id, number(i)))
      assert.is_true(machine.now() - start < 20) -- nobody waits for a lease that nobody has
    end
  end)

  it("a publication whose last reply is lost is one", function()
    server = redis.start()
    local function connect()
      local client = require("redis").connect("127.0.0.1", server.port)
      return setmetatable({}, { __index = function(_, name)
        return function(_, ...)
          local reply = client[name](client, ...)
          if name == "eval" and (...):find "PUBLISH" then error("the reply is lost", 0) end
          return reply
        end
      end })
    end
    local a = sharearray.new { shm_path = machines[1], origin = redis_origin.new { connect = connect },
      log_func = function(line) said[#said + 1] = line end }
    assert(a:cache("x", number(1)))
    assert.equal(1, assert(store(2):cache("x", error))(0))
    assert.same({}, said)
  end)

  it("a connection that died in the meantime is made again", function()
    server = redis.start()
    local a = store(1)
    assert(a:cache("x", number(1)))
    server:cli "client kill type normal"
    assert(a:cache("y", number(2)))
    assert.same({}, said)
    assert.equal(2, assert(store(2):cache("y", error))(0))
  end)

  it("a child of a fork has a connection of its own", function()
    server = redis.start()
    worker(1, [[
      ffi.cdef "int fork(void); void _exit(int); int waitpid(int, int *, int);"
      assert(store:cache("x", function() return sharearray.array{1} end))
      local pid = ffi.C.fork()
      local own = pid == 0 and "c" or "p"
      for i = 1, 50 do
        assert(store:cache(own .. i, function() return sharearray.array{i} end)(0) == i)
      end
      if pid == 0 then ffi.C._exit(0) end
      local status = ffi.new "int[1]"
      ffi.C.waitpid(pid, status, 0)
      say("status", status[0])
    ]]):expect "status 0"
  end)

  it("a child of a fork in the midst of a build leaves the lease to its parent", function()
    server = redis.start()
    local builder = worker(1, [[
      ffi.cdef "int fork(void); void _exit(int); int waitpid(int, int *, int);"
      local pid
      local x, problem, code = store:cache("x", function()
        pid = ffi.C.fork()
        if pid ~= 0 then
          ffi.C.waitpid(pid, nil, 0)
          say "the child has ended"
          hear()
        end
        return sharearray.array{1}
      end)
      if pid == 0 then
        say("child", code)
        ffi.C._exit(0)
      end
      say(x(0))
    ]])
    builder:expect "child unsupported"
    builder:expect "the child has ended"
    assert.equal("1", server:cli "exists 'sharearray:{sharearray_x}:lease'")
    builder:tell()
    builder:expect "1"
    builder:finish()
    assert.equal(1, assert(store(2):cache("x", error))(0))
  end)

  it("checks its options", function()
    for options, problem in pairs {
      [{ hots = "x" }] = "unknown option 'hots' %(there are chunk, connect, ",
      [{ port = "6379" }] = "option 'port' must be a whole number",
      [{ lease = 0 }] = "option 'lease' must be a number of seconds",
      [{ chunk = 2 ^ 30 }] = "option 'chunk' must be a whole number from 1 to",
      [{ connect = 1 }] = "option 'connect' must be a function",
    } do
      assert.error_matches(function() redis_origin.new(options) end, problem)
    end
  end)

  -- Cluster -------------------------------------------------------------------------------------------------

  it("a Cluster of three nodes: entries on each of them, whichever node is asked first", function()
    nodes = redis.cluster()
    local a, b = store(1, { port = nodes[1].port, chunk = 60 }), store(2, { port = nodes[3].port })
    for i = 1, 20 do assert.equal(i, assert(a:cache("x" .. i, number(i)))(0)) end
    for i = 1, 20 do assert.equal(i, assert(b:cache("x" .. i, error))(0)) end
    for _, node in ipairs(nodes) do assert.is_true(#node:keys() > 0) end
    -- Announcements go round the Cluster.
    assert(b:refresh("x7", number(77)))
    nginx.eventually(function() return assert(a:cache("x7", error))(0) == 77 end, "the renewal", 20)
    assert.same({}, said)
  end)

  it("a Cluster through the user's own connect, with a slot that moves", function()
    nodes = redis.cluster()
    local hosts = {}
    local function connect(host, port)
      hosts[#hosts + 1] = port or "first"
      return require("redis").connect(host or "127.0.0.1", port or nodes[1].port)
    end
    local a = sharearray.new { shm_path = machines[1], origin = redis_origin.new { connect = connect },
      log_func = function(line) said[#said + 1] = line end }
    for i = 1, 20 do assert(a:cache("x" .. i, number(i))) end
    assert.is_true(#hosts >= 3)
    assert.equal("first", hosts[1])
    -- Slot by slot to where it was not.
    local slot = nodes[1]:cli "cluster keyslot 'sharearray:{sharearray_x1}'"
    local names, from, to = {}, nil, nil
    for i, node in ipairs(nodes) do
      names[i] = node:cli "cluster myid"
      if node:cli("cluster countkeysinslot " .. slot) ~= "0" then from = i else to = i end
    end
    assert.equal("OK", nodes[to]:cli(("cluster setslot %s importing %s"):format(slot, names[from])))
    assert.equal("OK", nodes[from]:cli(("cluster setslot %s migrating %s"):format(slot, names[to])))
    for key in nodes[from]:cli(("cluster getkeysinslot %s 100"):format(slot)):gmatch "%S+" do
      assert.equal("OK", nodes[from]:cli(("migrate 127.0.0.1 %d '%s' 0 5000"):format(nodes[to].port, key)))
    end
    local function other(i)
      return sharearray.new { shm_path = machines[i], origin = redis_origin.new { connect = connect },
        log_func = function(line) said[#said + 1] = line end }
    end
    assert.equal(1, assert(other(2):cache("x1", number(9)))(0), table.concat(said, " ")) -- by ASK
    for _, i in ipairs { to, from } do
      assert.equal("OK", nodes[i]:cli(("cluster setslot %s node %s"):format(slot, names[to])))
    end
    assert.equal(1, assert(other(3):cache("x1", number(9)))(0), table.concat(said, " ")) -- by MOVED
    assert.same({}, said)
  end)
end)
