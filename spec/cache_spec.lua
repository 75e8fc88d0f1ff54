-- cache, get, refresh, free, list, stat, decorator: what one process sees.
local ffi = require "ffi"
local machine = require "support.machine"
local sharearray = require "sharearray"

describe("a store", function()
  local directory, store

  before_each(function()
    directory = machine.directory()
    store = sharearray.new { shm_path = directory }
  end)

  after_each(function() machine.remove(directory) end)

  local function counting(alloc)
    local x = alloc("int32", { 3, 4 })
    for i = 0, x.size - 1 do x.data[i] = i end
    return x
  end

  it("builds once, then gives the same view without asking", function()
    local calls = 0
    local function source(alloc)
      calls = calls + 1
      return counting(alloc)
    end
    local first = assert(store:cache("a", source))
    assert.equal(1, calls)
    assert.equal(6, first(1, 2))
    assert.same({ 3, 4 }, first.shape)
    assert.equal(first, store:cache("a", source))
    assert.equal(first, store:get("a"))
    assert.equal(1, calls)
    assert.same({ "sharearray_a.npy" }, machine.names(directory))
  end)

  it("gives another store of the same directory the same memory, not the same build", function()
    store:cache("a", counting)
    local other = sharearray.new { shm_path = directory, verbose = true, log_func = error }
    assert.equal(11, assert(other:cache("a", error))(2, 3))
    assert.equal(11, assert(sharearray.get("a", { shm_path = directory }))(2, 3))
  end)

  it("makes no system call on a second hit", function()
    if machine.under_valgrind then return pending "valgrind makes system calls of its own" end
    local program = [[
      local store = sharearray.new { shm_path = (...) }
      local fn = function(alloc) return alloc("float32", 8) end
      assert(store:cache("x", fn))
      say "ready"
      hear()
      local sum = 0
      for round = 1, 20000 do sum = sum + store:cache("x", fn)(0) end
      say(sum)
    ]]
    local worker = machine.worker(program, { directory })
    worker:expect("ready")
    local log = directory .. "/sharearray_spec.strace"
    local tracer = machine.start({ "strace", "-f", "-o", log, "-p", tostring(worker.pid) })
    assert.truthy(tracer:line():find("attached"))
    worker:tell()
    worker:expect("0")
    worker:finish()
    tracer:wait()
    -- One look (three calls) in 10 ms, however many hits there are.
    local calls = 0
    for line in io.lines(log) do
      assert.is_nil(line:find("open", 1, true))
      calls = calls + 1
    end
    assert.is_true(calls < 20000 / 10, calls .. " system calls for 20,000 hits")
  end)

  it("wakes the waiters as soon as they cannot find its lock, before it closes anything", function()
    if machine.under_valgrind then return pending "valgrind makes system calls of its own" end
    local worker = machine.worker([[
      local store = sharearray.new { shm_path = (...) }
      store:get "x" -- opens the store
      say "ready"
      hear()
      say(assert(store:cache("x", sharearray.array { 7 }))(0))
    ]], { directory })
    worker:expect "ready"
    local log = directory .. "/sharearray_spec.strace"
    local tracer = machine.start({ "strace", "-f", "-e", "trace=linkat,unlink,futex,close", "-o", log, "-p",
      tostring(worker.pid) })
    assert.truthy(tracer:line():find "attached")
    worker:tell()
    worker:expect "7"
    worker:finish()
    tracer:wait()
    local calls -- from the one that gives the entry its name
    for line in io.lines(log) do
      if line:find 'linkat%(.*sharearray_x.npy".* = 0' then calls = {} end
      if calls and #calls < 4 then calls[#calls + 1] = line:match "(%l+)%(" end
    end
    assert.same({ "linkat", "unlink", "futex", "close" }, calls)
  end)

  it("takes data itself as the source", function()
    assert.equal(2.5, assert(store:cache("array", sharearray.array({ 1, 2.5, 3 })))(1))
    local cdata = ffi.new("float[2][3]", { { 1, 2, 3 }, { 4, 5, 6 } })
    local view = assert(store:cache("cdata", cdata))
    assert.same({ 2, 3 }, view.shape)
    assert.equal("float32", tostring(view.dtype))
    assert.equal(6, view(1, 2))
    assert.equal(5, assert(store:cache("view", view:transpose()))(1, 1))
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, assert(store:get("view")):totable())
    local vla = ffi.new("double[?]", 3, { 7, 8, 9 })
    assert.equal(9, assert(store:cache("vla", function() return vla end))(2))
  end)

  it("publishes a reshaped array from alloc in place", function()
    local seen
    local view = assert(store:cache("r", function(alloc)
      local x = alloc("uint8", 6)
      for i = 0, 5 do x.data[i] = i end
      seen = ffi.cast("intptr_t", x.data)
      return x:reshape { 2, 3 }
    end))
    assert.same({ { 0, 1, 2 }, { 3, 4, 5 } }, view:totable())
    assert.equal(seen, ffi.cast("intptr_t", view.data))
  end)

  it("copies a slice of an array from alloc", function()
    local view = assert(store:cache("s", function(alloc)
      local x = alloc("uint8", 6)
      for i = 0, 5 do x.data[i] = i end
      return x:slice(2, 4)
    end))
    assert.same({ 2, 3 }, view:totable())
  end)

  it("turns an array from alloc read-only once it is published", function()
    local kept, row
    local view = assert(store:cache("k", function(alloc)
      kept = alloc("int32", { 2, 2 })
      kept:set(0, 0, 5)
      row = kept[0]
      return kept
    end))
    assert.equal(5, view(0, 0))
    assert.error_matches(function() kept:set(0, 0, 6) end, "read%-only")
    assert.error_matches(function() row[0] = 6 end, "read%-only")
    assert.equal(5, kept(0, 0))
  end)

  it("gives back what alloc gave and fn did not return", function()
    local view = assert(store:cache("two", function(alloc)
      alloc("float64", 1000)
      local x = alloc("float64", 2)
      alloc("float64", 10)
      return x
    end))
    assert.equal(2, #view)
    assert.same({ "sharearray_two.npy" }, machine.names(directory))
    local open = machine.shell("ls -l /proc/" .. ffi.C.getpid() .. "/fd")
    assert.is_nil(open:find(directory, 1, true))
  end)

  it("survives a source that closes what alloc gave", function()
    local kept
    local view = assert(store:cache("x", function(alloc)
      alloc("int32", 3):close()
      local x = alloc("int32", 3)
      kept = x:reshape { 3, 1 }
      x:set(1, 7)
      x:close()
      return kept
    end))
    assert.same({ { 0 }, { 7 }, { 0 } }, view:totable())
    assert.error_matches(function() kept:set(0, 0, 1) end, "read%-only")
  end)

  it("refuses alloc after the build", function()
    local leaked
    store:cache("a", function(alloc)
      leaked = alloc
      return alloc("int8", 1)
    end)
    assert.error_matches(function() leaked("int8", 1) end, "over")
  end)

  describe("when fn fails", function()
    it("returns its own error value, and lets the next one build", function()
      local value = { "a table of its own" }
      local result, err, code = store:cache("f", function() error(value) end)
      assert.is_nil(result)
      assert.equal(value, err)
      assert.equal("callback", code)
      assert.same({}, machine.names(directory))
      assert.is_truthy(store:cache("f", counting))
    end)

    it("passes nil, reason on", function()
      local result, err, code = store:cache("f", function() return nil, "no such data set" end)
      assert.is_nil(result)
      assert.equal("no such data set", err)
      assert.equal("callback", code)
      assert.same({}, machine.names(directory))
    end)

    local WRONG = {
      nothing = "nil", ["a closed view"] = "closed()", ["a table"] = "{1, 2}", ["a number"] = "3",
      ["a string"] = "'x'", ["a pointer"] = "ffi_ptr",
    }
    for name, value in pairs(WRONG) do
      it("says what it wants instead of " .. name, function()
        local source = loadstring([[
          local ffi_ptr = require('ffi').new('float *')
          local function closed()
            local x = require("sharearray").array({ 1, 2 })
            x:close()
            return x
          end
          local _ = closed
          return ]] .. value)
        local result, err, code = store:cache("f", source)
        assert.is_nil(result)
        assert.equal("callback", code)
        assert.truthy(err:find("'f'", 1, true) and err:find("alloc", 1, true), err)
        assert.same({}, machine.names(directory))
      end)
    end

    it("releases what alloc gave", function()
      store:cache("f", function(alloc)
        alloc("float32", 1000)
        error("no")
      end)
      assert.same({}, machine.names(directory))
      local open = machine.shell("ls -l /proc/" .. ffi.C.getpid() .. "/fd")
      assert.is_nil(open:find(directory, 1, true))
    end)

    it("says where alloc was used wrongly", function()
      for _, call in ipairs { "alloc('float33', 3)", "alloc('float32', -1)", "alloc('float32', {1.5})",
        "alloc('float32')", "alloc('float32', 'x')", "alloc('float32', {2^40, 2^40})", "alloc('>f4', 3)",
        "alloc('float32', 3, 4)" } do
        local source = assert(loadstring("local alloc = ...\nlocal x = " .. call .. "\nreturn x", "=source"))
        local _, err, code = store:cache("f", source)
        assert.equal("callback", code)
        assert.truthy(tostring(err):find("^source:2: alloc: "), call .. ": " .. tostring(err))
      end
    end)
  end)

  it("get never builds", function()
    local view, err, code = store:get("nobody")
    assert.is_nil(view)
    assert.equal("absent", code)
    assert.truthy(err:find("'nobody'", 1, true))
    assert.same({}, machine.names(directory))
  end)

  it("refresh replaces, and old views keep their values", function()
    local old = assert(store:cache("r", sharearray.array({ 1, 2, 3 })))
    local row = old:slice(1, 3)
    local new = assert(store:refresh("r", sharearray.array({ 4, 5 })))
    assert.same({ 4, 5 }, new:totable())
    assert.equal(new, store:get("r"))
    old = old:slice(0, 3)
    collectgarbage()
    collectgarbage()
    assert.same({ 1, 2, 3 }, old:totable())
    assert.same({ 2, 3 }, row:totable())
    assert.same({ "sharearray_r.npy" }, machine.names(directory))
  end)

  it("free removes, says so, and leaves views valid", function()
    local view = assert(store:cache("x", counting))
    assert.is_true(store:free("x"))
    assert.is_false(store:free("x"))
    collectgarbage()
    assert.equal(11, view(2, 3))
    assert.is_nil((store:get("x")))
    assert.same({}, machine.names(directory))
  end)

  it("attaches anew after the view was closed", function()
    local view = assert(store:cache("x", counting))
    view:close()
    assert.error_matches(function() return view(0, 0) end, "closed")
    assert.equal(11, assert(store:cache("x", error))(2, 3))
    assert.equal(11, assert(store:get("x"))(2, 3))
  end)

  it("drops every outdated version from its memo", function()
    -- All by another process: a store of this one shares the memo, and what is built here is mapped without a name.
    local function elsewhere(call)
      machine.worker("for i = 1, 5 do assert(sharearray." .. call .. "('m' .. i, sharearray.array({ i }))) end", {},
        { SHAREARRAY_SHM_PATH = directory }):finish()
    end
    local function mapped()
      return tonumber((machine.shell("grep -c sharearray_m /proc/" .. ffi.C.getpid() .. "/maps")))
    end
    elsewhere "cache"
    for i = 1, 5 do assert(store:get("m" .. i)) end
    assert.equal(5, mapped())
    elsewhere "refresh"
    store:get("m1")
    collectgarbage()
    collectgarbage()
    assert.equal(1, mapped())
  end)

  it("notices a removal that touched no counter", function()
    store:cache("x", counting)
    os.remove(directory .. "/sharearray_x.npy")
    local deadline = machine.now() + 30
    while store:get("x") do assert.is_true(machine.now() < deadline) end
  end)

  it("describes what is there", function()
    local alone = sharearray.new { shm_path = directory }
    assert.same({}, alone:list())
    store:cache("b", counting)
    store:cache("a", sharearray.array({ { 1, 2 } }, "uint8"))
    local list = assert(store:list())
    assert.equal(2, #list)
    assert.equal("a", list[1].id)
    local b = list[2]
    assert.same({ "b", "array", "int32", { 3, 4 }, 48, "ready" },
      { b.id, b.kind, b.dtype, b.shape, b.nbytes, b.state })
    assert.equal(directory .. "/sharearray_b.npy", b.path)
    assert.equal(128 + 48, b.bytes)
    assert.is_true(b.age >= 0 and b.age < 60)
    assert.equal(ffi.C.geteuid(), b.owner)
    assert.is_nil(b.builder)
    assert.same(b.shape, assert(store:stat("b")).shape)
    local nothing, err, code = store:stat("c")
    assert.is_nil(nothing)
    assert.equal("absent", code)
    assert.truthy(err)
  end)

  it("says in stat who builds", function()
    store:cache("x", function(alloc)
      local info = assert(store:stat("x"))
      assert(info.state == "building" and info.builder.pid == ffi.C.getpid() and info.builder.attempt == 1)
      local _, _, code = store:get("x")
      assert(code == "absent")
      return alloc("int8", 1)
    end)
    assert.equal("ready", assert(store:stat("x")).state)
  end)

  it("decorates a function", function()
    local calls = 0
    local load = store:decorator("d")(function(alloc)
      calls = calls + 1
      return counting(alloc)
    end)
    assert.equal(load(), load())
    assert.equal(1, calls)
  end)

  it("speaks only when asked to, and not on hits", function()
    local said = {}
    local function log(line) said[#said + 1] = line end
    store:cache("q", counting, { log_func = log })
    assert.same({}, said)
    store:cache("v", counting, { log_func = log, verbose = true })
    assert.equal(2, #said)
    assert.truthy(said[1]:find("'v': building") and said[2]:find("'v': published, int32 %(3, 4%), 176 bytes"), said[2])
    store:cache("v", counting, { log_func = log, verbose = true })
    assert.equal(2, #said)
  end)

  it("gives the build up when log_func raises", function()
    local function fail() error("the log is broken", 0) end
    assert.error_matches(function() store:cache("x", counting, { verbose = true, log_func = fail }) end, "broken")
    assert.same({}, machine.names(directory))
    assert(store:cache("x", counting))
  end)

  it("knows a valid id", function()
    for _, id in ipairs { "a", "A-z_0.9=+", ("x"):rep(235), "..", ".npy" } do assert.is_true(store:valid_id(id)) end
    for _, id in ipairs { "", "a/b", "a b", "ä", "a\n", "a\0b", ("x"):rep(236) } do
      assert.is_false(store:valid_id(id))
    end
    assert.is_false(store:valid_id(12))
    assert.is_false(store:valid_id(nil))
    assert.is_true(sharearray.valid_id("abc"))
  end)
end)

describe("a wrong argument is blamed on the caller:", function()
  local directory
  setup(function() directory = machine.directory() end)
  teardown(function() machine.remove(directory) end)

  local cases = {
    ["an id with a slash"] = { "cache('a/b', fn)", "invalid id 'a/b'" },
    ["an id that is no string"] = { "get(5)", "invalid id of type number" },
    ["no source"] = { "cache('a')", "sharearray.file(path); got nil" },
    ["a null pointer as the source"] = { "cache('a', require('ffi').new('float *'))", "got cdata of type float *" },
    ["a list as the source"] = { "cache('a', {1, 2})", "sharearray.array" },
    ["a string as the source"] = { "refresh('a', 'bytes')", "source must be" },
    ["an unknown option"] = { "cache('a', fn, {time_out = 1})", "unknown option 'time_out'" },
    ["options that are no table"] = { "get('a', 5)", "options must be a table" },
    ["a timeout that is no number"] = { "cache('a', fn, {timeout = '1'})", "option 'timeout' must be a number" },
    ["a prefix with a slash"] = { "new{prefix = '../'}", "option 'prefix'" },
    ["a prefix that leaves no room for an id"] = { "new{prefix = ('p'):rep(246)}", "at most 245" },
    ["verbose = 1"] = { "list{verbose = 1}", "option 'verbose'" },
    ["a log_func that cannot be called"] = { "free('a', {log_func = 'print'})", "option 'log_func'" },
    ["a mode that lets others write"] = { "cache('a', fn, {shm_path = dir, mode = '0666'})", "nobody else write" },
    ["a store's mode that lets others write"] = { "new{mode = '0460'}", "owner may read and nobody else write" },
    ["a store's mode that its owner cannot read"] = { "new{mode = '0044'}", "of which the owner may read" },
    ["a mode that is no mode"] = { "cache('a', fn, {mode = '0999'})", "option 'mode'" },
    ["a negative owner"] = { "new{owner = -1}", "option 'owner'" },
    ["names in trust"] = { "new{trust = {'root'}}", "option 'trust'" },
    ["an empty shm_path"] = { "new{shm_path = ''}", "option 'shm_path'" },
    ["a decorator's bad id"] = { "decorator('a/b')", "invalid id" },
    ["a decorator of no function"] = { "decorator('ab')(nil)", "source must be" },
  }
  for name, case in pairs(cases) do
    it(name, function()
      local code = "local sharearray, fn, dir = ...\nlocal _ = 1\nsharearray." .. case[1] .. "\nreturn true"
      local ok, err = pcall(assert(loadstring(code, "=user")), sharearray, function() end, directory)
      assert.is_false(ok)
      assert.truthy(tostring(err):find("user:3: ", 1, true), err)
      assert.truthy(tostring(err):find(case[2], 1, true), err)
    end)
  end

  it("also in a store's method", function()
    local ok, err = pcall(assert(loadstring("local store = ...\nstore:cache('a/b', print)\nreturn 1", "=user")),
      sharearray.new { shm_path = directory })
    assert.is_false(ok)
    assert.truthy(err:find("user:2: invalid id", 1, true), err)
  end)

  it("where a store's method is called with a dot", function()
    local store = sharearray.new { shm_path = directory }
    for _, call in ipairs { "cache", "get", "refresh", "free", "list", "stat", "decorator", "valid_id" } do
      local ok, message = pcall(function() store[call]("x", error) end)
      assert.is_false(ok)
      assert.truthy(message:find("^spec/cache_spec.lua:%d+: the calls of a store are its methods"), message)
    end
  end)

  it("but a missing directory is a failure, not an error", function()
    local view, err, code = sharearray.get("a", { shm_path = directory .. "/none" })
    assert.is_nil(view)
    assert.equal("io", code)
    assert.truthy(err:find("shm_path", 1, true))
  end)
end)
