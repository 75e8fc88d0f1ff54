-- Inside one process: recursion, coroutines, fork, threads.
local ffi = require "ffi"
local machine = require "support.machine"
local sharearray = require "sharearray"

describe("one process", function()
  local directory, store

  before_each(function()
    directory = machine.directory()
    store = sharearray.new { shm_path = directory }
  end)

  after_each(function() machine.remove(directory) end)

  it("that asks for the id it is building gets recursive, not a deadlock", function()
    local inner
    local view = assert(store:cache("x", function(alloc)
      inner = { store:cache("x", function() error("built twice") end) }
      inner.refresh = { store:refresh("x", function() error("built twice") end) }
      inner.get = { store:get("x") }
      return alloc("int8", 1)
    end))
    assert.equal(1, #view)
    assert.is_nil(inner[1])
    assert.equal("recursive", inner[3])
    assert.truthy(inner[2]:find("'x'", 1, true))
    assert.equal("recursive", inner.refresh[3])
    assert.equal("absent", inner.get[3])
  end)

  -- Of the calls that are no hits every 500th does more, see sharearray.warmup; here it is a finalizer's.
  for _, before in ipairs { 498, 998 } do
    it("may be in a finalizer, after " .. before .. " calls, and the memo goes on as ever", function()
      local said = machine.worker([[
        assert(sharearray.refresh("x", sharearray.array { 1 }))
        for _ = 1, ... do sharearray.get "absent" end
        local p, problem = newproxy(true)
        getmetatable(p).__gc = function()
          for _ = 1, 5 do
            local ok, text = pcall(sharearray.get, "absent")
            if not ok then problem = text end
          end
        end
        p = nil
        collectgarbage()
        assert(sharearray.get "x")
        assert(os.remove(os.getenv "SHAREARRAY_SHM_PATH" .. "/sharearray_x.npy"))
        local stop = now() + 5
        repeat until not sharearray.get "x" or now() > stop
        say(tostring(problem), tostring((sharearray.get "x")))
      ]], { tostring(before) }, { SHAREARRAY_SHM_PATH = directory }):finish()
      assert.equal("nil nil\n", said)
    end)
  end

  -- Interpreted code makes an object of each pointer it takes out of a view: there the collector may come to run.
  it("may be in a finalizer that closes what the memo is looking at", function()
    local said = machine.worker([[
      jit.off()
      local IDS, finalized = 60, 0
      for i = 1, IDS do assert(sharearray.cache("id" .. i, sharearray.array { i })) end
      local function finalize()
        finalized = finalized + 1
        local v = sharearray.get("id" .. finalized % IDS + 1)
        if v then v:close() end
      end
      collectgarbage("setstepmul", 400)
      local i, stop = 0, now() + 60
      repeat
        i = i + 1
        local v = assert(sharearray.get("id" .. i % IDS + 1))
        if i % 2 == 0 then v:close() end
        if i % 10 == 0 then ffi.gc(ffi.new "int[1]", finalize) end
      until finalized >= 5000 or now() > stop
      say(finalized >= 5000)
    ]], {}, { SHAREARRAY_SHM_PATH = directory }):finish()
    assert.equal("true\n", said)
  end)

  it("may collect all garbage before hits are warmed up", function()
    local said = machine.worker([[
      assert(sharearray.cache("x", sharearray.array { 1 }))
      require "sharearray.warmup"
      collectgarbage()
      collectgarbage()
      local others = {}
      for i = 1, 20000 do others[i] = ffi.new("uint32_t[1]", 7) end
      for _ = 1, 1000 do sharearray.get "absent" end
      local begins = require("jit.util").funcbc(sharearray.get, 0) % 256
      say(begins ~= require("jit.util").funcbc(function() end, 0) % 256) -- as a compiled function does
    ]], {}, { SHAREARRAY_SHM_PATH = directory }):finish()
    assert.equal("true\n", said)
  end)

  it("may build one id inside the build of another", function()
    local view = assert(store:cache("outer", function()
      return assert(store:cache("inner", sharearray.array({ 1, 2 })))
    end))
    assert.same({ 1, 2 }, view:totable())
    assert.same({ "sharearray_inner.npy", "sharearray_outer.npy" }, machine.names(directory))
  end)

  it("has recursive for another coroutine of the thread, unless sleep yields", function()
    local builder = coroutine.wrap(function()
      return store:cache("x", function(alloc)
        coroutine.yield("building")
        return alloc("int8", 1)
      end)
    end)
    assert.equal("building", builder())
    local code = coroutine.wrap(function() return select(3, store:cache("x", error)) end)()
    assert.equal("recursive", code)
    assert.equal(1, #builder())
  end)

  it("lets one coroutine wait for another where sleep yields", function()
    local yielding = sharearray.new { shm_path = directory, sleep = function(seconds) coroutine.yield(seconds) end }
    local builds, pauses, results = 0, {}, {}
    local function task(i)
      return coroutine.create(function()
        results[i] = assert(yielding:cache("x", function(alloc)
          builds = builds + 1
          for _ = 1, 5 do coroutine.yield(0) end
          local x = alloc("int8", 1)
          x[0] = 9
          return x
        end))
      end)
    end
    local tasks = { task(1), task(2), task(3) }
    while #tasks > 0 do
      for i = #tasks, 1, -1 do
        local ok, pause = coroutine.resume(tasks[i])
        assert.is_true(ok, pause)
        if coroutine.status(tasks[i]) == "dead" then table.remove(tasks, i)
        else pauses[#pauses + 1] = pause end
      end
    end
    assert.equal(1, builds)
    for i = 1, 3 do assert.equal(9, results[i](0)) end
    for _, pause in ipairs(pauses) do assert.is_true(pause >= 0 and pause <= 0.02) end
    -- The coroutine that builds cannot wait for itself, whatever sleep does.
    local code
    local own = coroutine.create(function()
      yielding:cache("y", function(alloc)
        code = select(3, yielding:cache("y", error))
        return alloc("int8", 1)
      end)
    end)
    while coroutine.status(own) ~= "dead" do assert(coroutine.resume(own)) end
    assert.equal("recursive", code)
  end)

  it("whose sleep raises in the middle of a publication gives the build up, and may ask again", function()
    local broken = true
    local yielding = sharearray.new { shm_path = directory, sleep = function()
      if broken then error("no sleep here", 0) end
      coroutine.yield()
    end }
    local first, again
    local task = coroutine.create(function()
      first = { pcall(yielding.cache, yielding, "x", sharearray.array({ 1 })) }
      broken = false
      again = { yielding:cache("x", sharearray.array({ 2 })) }
    end)
    while coroutine.status(task) ~= "dead" do assert(coroutine.resume(task)) end
    assert.same({ false, "no sleep here" }, first)
    assert.equal(2, assert(unpack(again))(0))
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("gives a build up when its coroutine is collected", function()
    local builder = coroutine.wrap(function()
      return store:cache("x", function(alloc)
        alloc("float64", 100)
        coroutine.yield()
      end)
    end)
    builder()
    assert.same({ "sharearray_x.npy.lock" }, machine.names(directory))
    builder = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.same({}, machine.names(directory))
    assert.equal(1, assert(store:cache("x", sharearray.array({ 1 })))(0))
  end)

  it("that forks in the middle of a build: the child neither unlocks nor publishes", function()
    local parent, status = ffi.C.getpid(), ffi.new("int[1]", -1)
    local view, err, code = store:cache("x", function(alloc)
      local x = alloc("int32", 4)
      x:fill(1)
      local pid = ffi.C.fork()
      if pid == 0 then
        x:fill(666) -- its own copy
        return x
      end
      ffi.C.waitpid(pid, status, 0)
      assert.same({ "sharearray_x.npy.lock" }, machine.names(directory))
      return x
    end)
    if ffi.C.getpid() ~= parent then
      ffi.C._exit(view == nil and code == "unsupported" and err:find("fork", 1, true) and 0 or 1)
    end
    assert.equal(0, status[0])
    assert.same({ 1, 1, 1, 1 }, view:totable())
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("inherits maps through fork", function()
    local view = assert(store:cache("x", sharearray.array({ 1, 2, 3 })))
    local pid = ffi.C.fork()
    if pid == 0 then
      local ok = view(2) == 3 and store:get("x")(1) == 2
        and sharearray.new({ shm_path = directory }):cache("y", sharearray.array({ 4 }))(0) == 4
      ffi.C._exit(ok and 0 or 1)
    end
    local status = ffi.new("int[1]")
    ffi.C.waitpid(pid, status, 0)
    assert.equal(0, status[0])
    assert.equal(4, assert(store:get("y"))(0))
  end)

  it("with two Lua states in two threads builds once, and both have views", function()
    local program = [[
      local sharearray = require "sharearray"
      for round = 1, 200 do
        local view, err = sharearray.cache("t" .. round, function(alloc)
          io.write("built\n")
          local x = alloc("int32", 100)
          x:fill(round)
          return x
        end)
        assert(view, err)
        assert(view(99) == round)
        local row = view:slice(50, 60)
        view = nil
        if round % 10 == 0 then collectgarbage() end
        assert(row(9) == round)
      end
    ]]
    local said = machine.start({ "build/spec/two_states", program }, { SHAREARRAY_SHM_PATH = directory }):finish(120)
    local _, builds = said:gsub("built\n", "")
    assert.equal(200, builds)
    assert.truthy(said:find("joined"))
    assert.equal(200, #machine.names(directory))
  end)

  it("may use a store and its views in a finalizer that runs when the Lua state closes", function()
    store:cache("x", sharearray.array({ 1, 2 }))
    local worker = machine.worker([[
      local view = assert(sharearray.get("x"))
      local guard = newproxy(true)
      getmetatable(guard).__gc = function()
        say(sharearray.get("x")(1))
        say(assert(sharearray.cache("y", sharearray.array({3})))(0))
        say(#sharearray.list(), sharearray.free("y"), sharearray.stat("x").state)
        say(view)
      end
      debug.getregistry().guard = guard
    ]], {}, { SHAREARRAY_SHM_PATH = directory })
    assert.equal("2\n3\n2 true ready\narray(closed)\n", worker:finish())
  end)

  it("can load the module twice", function()
    local kept = {}
    for name in pairs(package.loaded) do
      if name:find("^sharearray") then
        kept[name] = package.loaded[name]
        package.loaded[name] = nil
      end
    end
    local again = require "sharearray"
    assert.are_not.equal(sharearray, again)
    store:cache("x", sharearray.array({ 1, 2 }))
    local view = assert(again.get("x", { shm_path = directory }))
    assert.equal(2, view(1))
    assert.equal(2, view:slice(1, 2)(0))
    for name, module in pairs(kept) do package.loaded[name] = module end
  end)
end)
