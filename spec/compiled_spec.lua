-- What LuaJIT compiles: it keeps no memory, and no lock, that nobody else has any more.
--
-- Compiled code keeps each closure that it was compiled for, and all that the closure captured, until the process
-- ends; of a function that many closures were made of, only the first few. So each process here begins anew, and
-- compiles whatever it runs twice.
local machine = require "support.machine"
local redis = require "support.redis"

local RUNS = 8 -- where the compiler begins depends on addresses, which are others in each process

local WAYS = {
  { "a bundle", [[store:cache(id, { x = big(), y = { sharearray.array { 1, 2 }, "text" } })]] },
  { "data copied from private memory", [[store:cache(id, big())]] },
  { "data copied from FFI memory", [[store:cache(id, ffi.new("float[?]", COUNT))]] },
  { "a transposed source", [[store:cache(id, big():reshape { 2048, COUNT / 2048 }:transpose())]] },
  { "sums and copies of a transposed view", [[
    local x = store:cache(id, big():reshape { 2048, COUNT / 2048 }):transpose()
    assert(x:sum() == 0)
    assert(#x:copy() == COUNT / 2048)
  ]] },
  { "a field of records", [[
    local record = { { "a", "float32" }, { "b", "int32", { 3 } } }
    local x = store:cache(id, function(alloc) return alloc(record, COUNT / 4) end)
    assert(x:field("a"):sum() == 0 and x[1].b[2] == 0 and tostring(x))
  ]] },
  { "rows", [[
    local x = store:cache(id, big():reshape { 2048, COUNT / 2048 })
    for i = 0, 9 do for j = 0, 9 do assert(x[i][j] == 0) end end
    for i, row in x:iter() do if i == 9 then break end assert(row(0) == 0) end
  ]] },
  { "alloc, alloc of a bundle, and what is not returned", [[
    store:cache(id, function(alloc)
      local x, rest = alloc { x = { "float32", COUNT }, y = { "int8", 3 } }, {}
      for i = 1, 9 do rest[i] = alloc("float32", COUNT) end
      return x
    end)
  ]] },
  { "a source that fails", [[store:cache(id, function(alloc) alloc("float32", COUNT) error "no" end)]] },
  { "a decorated source", [[
    local cached = store:decorator(id)(big())
    for _ = 1, 300 do assert(cached()(1) == 0) end
  ]] },
  { "versions that are refreshed", [[for _ = 1, 4 do store:refresh(id, big()) end]] },
  { "versions that grow too old, and renewals that fail", [[
    local options = { max_age = 1e-9, log_func = function() end }
    for i = 1, 4 do
      store:cache(id, function(alloc)
        local x = alloc("float32", COUNT)
        return i % 2 == 1 and x or nil
      end, options)
    end
  ]] },
}

describe("compiled code", function()
  local directory, env

  before_each(function()
    directory = machine.directory()
    env = { SHAREARRAY_SHM_PATH = directory }
  end)

  after_each(function() machine.remove(directory) end)

  local function in_processes(code)
    local said = {}
    code = "jit.opt.start('hotloop=1', 'hotexit=1')\n" .. code
    for i = 1, RUNS do said[i] = machine.worker(code, {}, env):finish() end
    return table.concat(said, " ")
  end

  for _, way in ipairs(WAYS) do
    local what, code = unpack(way)
    it("keeps no memory of " .. what, function()
      local said = in_processes([[
        local ffi = require "ffi"
        local COUNT = 2^20 -- of 4 bytes
        local store = sharearray.new {}
        local function big() return sharearray.array(ffi.new("float[?]", COUNT)) end
        -- AddressSanitizer makes nameless mappings of its own.
        local named_only = os.getenv "ASAN_OPTIONS"
        local function mapped()
          local count = 0
          for line in io.lines "/proc/self/maps" do
            local from, to, name = line:match "^(%x+)%-(%x+) %S+ %S+ %S+ %S+%s*(.*)"
            local size = tonumber(to, 16) - tonumber(from, 16)
            -- The kernel makes one of two neighbours.
            if name ~= "" or not named_only then count = count + math.floor(size / (4 * COUNT)) end
          end
          return count + math.floor(collectgarbage "count" * 1024 / (4 * COUNT))
        end
        local function use(id) ]] .. code .. [[ end
        collectgarbage()
        local before = mapped()
        for i = 1, 4 do use("x" .. i) end
        for i = 1, 4 do store:free("x" .. i) end
        store:get "x1"
        for _ = 1, 4 do collectgarbage() end
        io.write(mapped() - before)
      ]])
      assert.equal(("0 "):rep(RUNS):sub(1, -2), said)
    end)
  end

  it("keeps no lock of a build whose coroutine was dropped", function()
    local said = in_processes [[
      local store = sharearray.new { sleep = coroutine.yield }
      local left = 0
      for i = 1, 4 do
        local id = "x" .. i
        coroutine.wrap(function()
          store:cache(id, function(alloc)
            alloc("float32", 8)
            coroutine.yield()
          end)
        end)()
        for _ = 1, 4 do collectgarbage() end
        if store:stat(id) then left = left + 1 end
      end
      io.write(left)
    ]]
    assert.equal(("0 "):rep(RUNS):sub(1, -2), said)
  end)

  -- Where compiled code is left while the collector is at its end, LuaJIT runs finalizers: behind the call, say, that
  -- attaches, and before what it handed out is read.
  it("gives each who asks what he asked for, although finalizers ask in the midst of that", function()
    local said = in_processes [[
      jit.opt.start "hotexit=56"
      local N, FINALIZED, ROUNDS = 8, 1000, 30000
      local store, asked, wrong = sharearray.new(), 0, 0
      for i = 0, N - 1 do
        store:cache("a" .. i, sharearray.array { i })
        store:cache("f" .. i, sharearray.array { FINALIZED + i })
      end
      local kept = {}
      local function ask()
        asked = asked + 1
        store:get("absent" .. asked % N)
        kept[asked % N] = store:get("f" .. asked % N)
      end
      for k = 1, ROUNDS do
        getmetatable(newproxy(true)).__gc = ask
        local i = k % N
        local x = store:get("a" .. i)
        if x(0) ~= i then wrong = wrong + 1 end
        x:close()
        local _, text = store:get("nobody" .. i)
        if not text:find("nobody" .. i .. ".npy", 1, true) then wrong = wrong + 1 end
        if k % N == 0 then
          for _, y in pairs(kept) do y:close() end
          kept = {}
        end
      end
      io.write(asked > ROUNDS / 2 and wrong or "none was finalized")
    ]]
    assert.equal(("0 "):rep(RUNS):sub(1, -2), said)
  end)

  -- Builds whose coroutines are dropped, each at one yield more than the one before.
  local DROPPED = [[
    ffi.cdef "int fcntl(int fd, int command, ...);"
    local F_GETFD = 1
    local function files()
      local count = 0
      for fd = 0, 255 do if ffi.C.fcntl(fd, F_GETFD) ~= -1 then count = count + 1 end end
      return count
    end
    local function drop(store, times)
      for i = 1, times do
        local builder = coroutine.wrap(function()
          store:cache("x" .. i, function(alloc, alive)
            local x = alloc("float32", 2 ^ 22)
            alive()
            coroutine.yield()
            return x
          end)
          while true do coroutine.yield() end
        end)
        for _ = 1, i do builder() end
        builder = nil
        for _ = 1, 4 do collectgarbage() end
      end
    end
  ]]

  it("keeps no lease, and no file, of a build that was dropped while an origin worked for it", function()
    local said = in_processes(DROPPED .. [[
      local leases, asked, origin = setmetatable({}, { __mode = "k" }), {}, {}
      function origin.fetch(_, key, have, open) -- what it has is damaged
        if have or asked[key] then return nil end
        asked[key] = true
        local write = open(3)
        for _ = 1, 3 do write("x", 1) end
        return "1700000000000000000", 1
      end
      function origin.publish(_, _, entry)
        for _ = 1, 9 do entry.breathe() end
        return true
      end
      function origin.lease()
        local lease = { every = 10, renew = function() return true end, release = function() end }
        leases[lease] = true
        return lease
      end
      function origin.remove() return true end
      local store = sharearray.new { origin = origin, sleep = coroutine.yield, log_func = function() end }
      store:get "x"
      local before = files()
      drop(store, 12)
      local left = files() - before
      for _ in pairs(leases) do left = left + 1 end
      io.write(left)
    ]])
    assert.equal(("0 "):rep(RUNS):sub(1, -2), said)
  end)

  local there, why = redis.is_there()
  it("keeps no connection of a build that was dropped while it spoke to Redis", function()
    if not there then return pending(why) end
    local server = redis.start()
    local said = in_processes(DROPPED .. ([[
      local origin = require("sharearray.origin.redis").new { port = %d, piece = 65536 }
      local store = sharearray.new { origin = origin, prefix = "p" .. ffi.C.getpid(), sleep = coroutine.yield,
        log_func = function() end }
      store:get "x"
      local before = files()
      drop(store, 16)
      io.write(files() - before)
    ]]):format(server.port))
    server:stop()
    assert.equal(("0 "):rep(RUNS):sub(1, -2), said)
  end)
end)
