-- The option origin, with one that lives in this process: two stores in two directories are two machines.
local ffi = require "ffi"
local machine = require "support.machine"
local sharearray = require "sharearray"

-- As simple as an origin can be. `held`: another machine has the lease. Counts its calls.
local function memory()
  local origin = { entries = {}, calls = {}, renewed = 0 }
  local function count(what) origin.calls[what] = (origin.calls[what] or 0) + 1 end

  function origin.fetch(_, key, have, open)
    count "fetch"
    local entry = origin.entries[key]
    if not entry or entry.version == have then return nil end
    local write = open(#entry.data)
    if not write then return nil end
    for at = 1, #entry.data, 1000 do
      local piece = entry.data:sub(at, at + 999)
      write(piece, #piece)
    end
    return entry.version, entry.crc
  end

  function origin.publish(_, key, entry, lease)
    count "publish"
    if origin.holder ~= lease then return nil, "refused" end
    origin.entries[key] = {
      version = entry.version, crc = entry.crc, kind = entry.kind, data = ffi.string(entry.data, entry.bytes),
    }
    return true
  end

  function origin.lease()
    count "lease"
    if origin.holder or origin.held then return nil end
    local lease = { every = 0 }
    function lease.renew()
      origin.renewed = origin.renewed + 1
      return true
    end
    function lease.release() origin.holder = nil end
    origin.holder = lease
    return lease
  end

  function origin.remove(_, key)
    local there = origin.entries[key] ~= nil
    origin.entries[key] = nil
    return there
  end

  return origin
end

describe("an origin", function()
  local directories, origin, a, b, said, now

  local function store(options)
    local directory = machine.directory()
    directories[#directories + 1] = directory
    options = options or {}
    options.shm_path, options.origin = directory, options.origin or origin
    options.log_func = options.log_func or function(line) said[#said + 1] = line end
    return sharearray.new(options)
  end

  before_each(function()
    directories, said, origin = {}, {}, memory()
    origin.poll = 0.001
    a, b = store(), store()
    now = os.time()
  end)

  after_each(function()
    for _, directory in ipairs(directories) do machine.remove(directory) end
  end)

  local function number(n)
    return function() return sharearray.array({ n }) end
  end

  local function bytes_of(i)
    local file = assert(io.open(directories[i] .. "/sharearray_x.npy", "rb"))
    local bytes = file:read "*a"
    file:close()
    return bytes
  end

  local function eventually(value, source, of)
    local deadline = machine.now() + 60
    repeat
      local x = assert(of:cache("x", source or error))
      if x(0) == value then return end
    until machine.now() > deadline
    error("the value never came to be " .. value, 2)
  end

  local function assert_said(pattern)
    local text = table.concat(said, "\n")
    assert.truthy(text:find(pattern), text)
  end

  it("is filled after a build, and asked before the next machine's", function()
    assert.equal(1, assert(a:cache("x", number(1)))(0))
    assert.equal(1, assert(b:cache("x", error))(0))
    assert.equal(bytes_of(1), bytes_of(2))
    assert.is_nil(origin.holder)
    assert.same({}, said)
    local entry = origin.entries.sharearray_x
    assert.equal("npy", entry.kind)
    assert.equal(bytes_of(1), entry.data)
    assert.is_true(math.abs(tonumber(entry.version:sub(1, -10)) - now) < 60)
  end)

  it("keeps arrays filled in place, and bundles", function()
    assert(a:cache("x", function(alloc)
      local x = alloc("float32", { 100, 3 })
      x:fill(2)
      return x
    end))
    assert.equal(2, assert(b:cache("x", error))(99, 2))
    assert(a:cache("y", function(alloc)
      local y = alloc { weights = { "float32", { 10 } } }
      y.weights:fill(4)
      y.name = "v1"
      return y
    end))
    local y = assert(b:cache("y", error))
    assert.equal(4, y.weights(9))
    assert.equal("v1", y.name)
    assert.equal("npz", origin.entries.sharearray_y.kind)
  end)

  it("tells stores with different prefixes apart", function()
    assert(a:cache("x", number(1)))
    assert.equal(2, assert(b:cache("x", number(2), { prefix = "other_" }))(0))
    assert.truthy(origin.entries.other_x)
  end)

  it("is asked by cache and refresh, not by get", function()
    assert(a:cache("x", number(1)))
    origin.calls = {}
    local _, _, code = b:get "x"
    assert.equal("absent", code)
    assert(a:get "x")
    assert.same({}, origin.calls)
  end)

  -- Versions ------------------------------------------------------------------------------------------

  it("refresh takes a newer version, and builds where there is none", function()
    assert(a:cache("x", number(1)))
    assert(b:cache("x", error))
    assert.equal(2, assert(a:refresh("x", number(2)))(0))
    assert.equal(2, assert(b:refresh("x", error))(0))
    assert.equal(3, assert(b:refresh("x", number(3)))(0))
    assert.equal(3, assert(a:refresh("x", error))(0))
  end)

  it("cache takes a newer version by itself, and views stay", function()
    local old = assert(a:cache("x", number(1)))
    assert(b:refresh("x", error))
    assert(b:refresh("x", number(2)))
    eventually(2, nil, a)
    assert.equal(1, old(0))
    assert.equal(bytes_of(1), bytes_of(2))
  end)

  it("two refreshes in the same moment are two versions", function()
    assert(a:cache("x", number(1)))
    for i = 2, 20 do
      assert(a:refresh("x", number(i)))
      eventually(i, nil, b)
    end
  end)

  it("which announces versions is asked when it does, else seldom", function()
    local news = 0
    origin.poll = nil
    function origin.news() return news end
    assert(a:cache("x", number(1)))
    assert(b:cache("x", error))
    eventually(1, nil, b)
    assert(a:refresh("x", number(2)))
    origin.calls = {}
    for _ = 1, 5 do
      machine.shell "sleep 0.02" -- past the memo
      assert.equal(1, assert(b:cache("x", error))(0))
    end
    assert.is_nil(origin.calls.fetch)
    news = 1
    local start = machine.now()
    eventually(2, nil, b)
    assert.is_true(machine.now() - start < 20) -- and not after the 30 s of those who listen
  end)

  it("free removes the entry from it too, and leaves other machines theirs", function()
    assert(a:cache("x", number(1)))
    assert(b:cache("x", error))
    assert.is_true(a:free "x")
    assert.same({}, origin.entries)
    assert.equal(1, assert(b:cache("x", error))(0))
    assert.equal(2, assert(a:cache("x", number(2)))(0))
    assert.is_true(b:free "x")
    assert.is_false(b:free "x")
  end)

  it("max_age counts from the build, on whichever machine; who has no lease serves the old one on", function()
    local origin_entry
    assert(a:cache("x", number(1)))
    origin_entry = origin.entries.sharearray_x
    origin_entry.version = ("%d000000000"):format(now - 1000)
    local aging = store { max_age = 500 }
    origin.held = true
    assert.equal(1, assert(aging:cache("x", error))(0))
    local deadline = machine.now() + 60
    repeat until assert(aging:cache("x", error))(0) ~= 1 or aging:stat("x").failed or machine.now() > deadline
    assert.truthy(aging:stat("x").failed)
    assert.same({}, said)
    origin.held = false
    eventually(2, number(2), aging)
    eventually(2, nil, b)
  end)

  it("what a machine takes may be older than max_age: it is rebuilt at once", function()
    assert(a:cache("x", number(1)))
    origin.entries.sharearray_x.version = ("%d000000000"):format(now - 1000)
    assert.equal(2, assert(store { max_age = 500 }:cache("x", number(2)))(0))
    assert.equal(2, assert(store():cache("x", error))(0))
  end)

  -- Another process of machine a, in small: it looks by itself.
  local function peer_of_a()
    return sharearray.new { shm_path = directories[1], origin = setmetatable({}, { __index = origin }) }
  end

  it("what is being given to it does not give way to the version before", function()
    assert(a:cache("x", number(1)))
    local publish, looks = origin.publish, 0
    function origin.publish(...)
      local peer = peer_of_a()
      for _ = 1, 5 do
        assert.equal(2, assert(peer:cache("x", error))(0))
        looks = looks + 1
        machine.shell "sleep 0.02" -- past the memo
      end
      return publish(...)
    end
    assert.equal(2, assert(a:refresh("x", number(2)))(0))
    assert.same({}, said)
    assert.equal(5, looks)
    assert.equal(2, assert(b:cache("x", error))(0))
    assert.same({ "sharearray_x.npy" }, machine.names(directories[1]))
  end)

  it("a coroutine that is dropped while it is being filled leaves no memory behind", function()
    local c = store { sleep = coroutine.yield }
    local publish = origin.publish
    function origin.publish(...)
      coroutine.yield "publishing"
      return publish(...)
    end
    local function mappings()
      local count = 0
      for line in io.lines "/proc/self/maps" do
        if line:find(directories[3] .. "/", 1, true) and not line:find ".changes." then count = count + 1 end
      end
      return count
    end
    for _ = 1, 4 do
      local builder = coroutine.wrap(function() return c:cache("x", number(1)) end)
      repeat until builder() == "publishing"
      assert.is_true(mappings() > 0)
      builder, origin.holder = nil, nil -- luacheck: ignore
      assert.is_true(c:free "x")
      for _ = 1, 4 do collectgarbage() end
    end
    assert.equal(0, mappings())
  end)

  it("free leaves nobody the time to take the entry from it again", function()
    assert(a:cache("x", number(1)))
    local remove = origin.remove
    function origin.remove(...)
      assert(peer_of_a():cache("x", error))
      return remove(...)
    end
    assert.is_true(a:free "x")
    assert.same({}, machine.names(directories[1]))
  end)

  -- The lease -----------------------------------------------------------------------------------------

  it("another machine that builds is awaited", function()
    origin.held = true
    local rounds = 0
    local lease = origin.lease
    function origin.lease(...)
      rounds = rounds + 1
      if rounds == 5 then -- it publishes
        origin.held = false
        assert(a:cache("x", number(1)))
      end
      return lease(...)
    end
    assert.equal(1, assert(b:cache("x", error))(0))
  end)

  it("which is awaited for as long as timeout says", function()
    origin.held = true
    local value, text, code = a:cache("x", error, { timeout = 0.1 })
    assert.is_nil(value)
    assert.equal("timeout", code)
    assert.truthy(text:find "timed out after 0.1 s: another machine is building it")
    assert.same({}, machine.names(directories[1]))
  end)

  it("a function that raises, or gives nothing, gives the lease back", function()
    local reason = {}
    local _, problem, code = a:cache("x", function() error(reason) end)
    assert.equal(reason, problem)
    assert.equal("callback", code)
    assert.is_nil(origin.holder)
    _, problem = a:cache("x", function() return nil, "no data" end)
    assert.equal("no data", problem)
    _, problem = a:cache("x", function() return 1 end)
    assert.truthy(problem:find "origin_spec.lua:%d+%) returned a number")
    assert.is_nil(origin.holder)
    assert.equal(1, assert(b:cache("x", number(1)))(0))
  end)

  it("a source may call alive where there is none", function()
    local function source(_, alive)
      alive()
      return sharearray.array { 1 }
    end
    directories[#directories + 1] = machine.directory()
    local alone = sharearray.new { shm_path = directories[#directories] }
    assert.equal(1, assert(alone:cache("without", source))(0))
    assert.equal(1, assert(a:cache("with", source))(0))
  end)

  it("the lease is renewed by alloc, by alive, and by the collector", function()
    assert(a:cache("x", function(alloc)
      alloc("int8", 1)
      assert.is_true(origin.renewed > 0)
      return alloc("int8", 1)
    end))
    assert(a:cache("y", function(_, alive)
      origin.renewed = 0
      alive()
      assert.equal(1, origin.renewed)
      return sharearray.array { 1 }
    end))
    assert(a:cache("z", function()
      origin.renewed = 0
      local garbage
      for i = 1, 3e6 do garbage = { i } end
      assert.is_true(origin.renewed > 2)
      return sharearray.array(garbage)
    end))
    origin.renewed = 0
    collectgarbage()
    collectgarbage()
    assert.equal(0, origin.renewed)
  end)

  it("what is built without the lease is not published", function()
    local lease = origin.lease
    function origin.lease(...)
      local result = lease(...)
      origin.holder = "another one"
      return result
    end
    assert.equal(1, assert(a:cache("x", number(1)))(0))
    assert_said "'x': not given to the origin: refused"
  end)

  -- Faults ----------------------------------------------------------------------------------------------

  local function damage(title, pattern, harm)
    it(title .. ": thrown away, said, rebuilt once for all", function()
      assert(a:cache("x", number(1)))
      harm(origin.entries.sharearray_x)
      assert.equal(2, assert(b:cache("x", number(2)))(0))
      assert_said("'x': the origin's version %d+ is damaged and thrown away: " .. pattern)
      assert.equal(2, assert(store():cache("x", error))(0))
      eventually(2, nil, a)
      assert.same({ "sharearray_x.npy" }, machine.names(directories[2]))
    end)
  end

  damage("a wrong digest", "its CRC%-32 is %x+, not %x+", function(entry) entry.crc = entry.crc + 1 end)

  damage("a byte that changed", "its CRC%-32 is", function(entry)
    entry.data = entry.data:sub(1, -2) .. "!"
  end)

  damage("what is no NumPy file", "the file of 'x' is not usable", function(entry)
    entry.data = ("x"):rep(5000)
    entry.crc = require("sharearray.draft").crc32("x", 0, entry.data, 5000)
  end)

  for _, version in ipairs { "12", "0000000000", "0795616120884834700", "9999999999999999999" } do
    damage("a version that is no date, " .. version, "its version is no date", function(entry)
      entry.version = version
    end)
  end

  damage("an array of Python objects", "the file of 'x' is not usable: .*object", function(entry)
    entry.data = entry.data:gsub("<f8", "|O ", 1):gsub("'|O ',", "'|O', ", 1)
    entry.crc = require("sharearray.draft").crc32("x", 0, entry.data, #entry.data)
  end)

  it("a bundle with a bad form: thrown away, said, rebuilt, and never gets the entry's name", function()
    assert(a:cache("x", { w = sharearray.array { 1 } }))
    local entry = origin.entries.sharearray_x
    entry.data = entry.data:gsub("%$members", "$numbers", 1)
    entry.crc = require("sharearray.draft").crc32("x", 0, entry.data, #entry.data)
    assert.equal(2, assert(b:cache("x", { w = sharearray.array { 2 } })).w(0))
    assert_said "'x': the origin's version %d+ is damaged and thrown away: "
    assert.equal(2, assert(store():cache("x", error)).w(0))
  end)

  it("damage that a look for a newer version meets leaves this machine with what it has", function()
    assert(a:cache("x", number(1)))
    assert(b:cache("x", error))
    assert(a:refresh("x", number(2)))
    origin.entries.sharearray_x.crc = 1
    local deadline = machine.now() + 60
    repeat until assert(b:cache("x", error))(0) ~= 1 or #said > 0 or machine.now() > deadline
    assert_said "damaged and thrown away"
    for _ = 1, 1000 do assert.equal(1, assert(b:cache("x", error))(0)) end
    assert.equal(1, #said) -- and is not tried again at every call
  end)

  it("too few bytes, too many, and a fetch that breaks off leave nothing behind", function()
    local whole = origin.fetch
    for what, fetch in pairs {
      ["a number of bytes is wanted"] = function(_, _, _, open) return open() end,
      ["it is shorter"] = function(_, _, _, open)
        local write = open(5000)
        write("x", 1)
        return "1795616120884834700", 1
      end,
      ["more bytes than were announced"] = function(_, _, _, open)
        local write = open(5000)
        write(("x"):rep(6000), 6000)
      end,
      ["the cable"] = function(_, _, _, open)
        local write = open(5000)
        write("x", 1)
        error "the cable"
      end,
    } do
      origin.fetch = function(...)
        if origin.holder then return whole(...) end
        return fetch(...)
      end
      said = {}
      assert.equal(1, assert(a:cache("x", number(1)))(0))
      assert_said(what)
      assert.same({ "sharearray_x.npy" }, machine.names(directories[1]))
      origin.fetch = whole
      a:free "x"
    end
  end)

  for _, method in ipairs { "fetch", "lease", "publish", "remove" } do
    it(("whose %s raises: the machine goes on by itself, unless it must not"):format(method), function()
      origin[method] = function() error("the client raises", 0) end
      assert.equal(1, assert(a:cache("x", number(1)))(0))
      assert.is_true(a:free "x")
      assert_said "the client raises"
      assert.is_nil(origin.holder)
      origin.required = true
      local x, text, code = b:cache("x", number(1))
      if method == "fetch" or method == "lease" then
        assert.is_nil(x)
        assert.equal("origin", code)
        assert.truthy(text:find "'x': the origin .-: the client raises")
        assert.same({}, machine.names(directories[2]))
      else
        assert.equal(1, x(0))
      end
      if method == "remove" then assert.equal("origin", select(3, b:free "x")) end
    end)
  end

  it("one that cannot be asked is not asked for each id in turn: it may take its time to say so", function()
    for i = 1, 10 do assert(a:cache("x" .. i, number(i))) end
    local calls = 0
    function origin.fetch()
      calls = calls + 1
      return nil, "timeout"
    end
    for _ = 1, 3 do
      machine.shell "sleep 0.02" -- past the memo
      for i = 1, 10 do assert.equal(i, assert(a:cache("x" .. i, error))(0)) end
    end
    assert.equal(1, calls)
    assert_said "'x1': the origin cannot be asked for a newer version: timeout"
  end)

  it("a publication that may succeed soon is tried again", function()
    local publish, tries = origin.publish, 0
    function origin.publish(...)
      tries = tries + 1
      if tries < 3 then return nil, "it is being restarted", true end
      return publish(...)
    end
    assert(a:cache("x", number(1)))
    assert.equal(3, tries)
    assert.equal(1, assert(b:cache("x", error))(0))
    assert.same({}, said)
  end)

  it("what this machine has no room for is no_space", function()
    function origin.fetch(_, _, _, open) return open(2 ^ 50) end
    local _, text, code = a:cache("x", number(1))
    assert.equal("no_space", code, text)
    assert.is_nil(origin.holder)
  end)

  it("must have the four methods", function()
    for _, wrong in ipairs { 1, "redis", {}, { fetch = print, publish = print, lease = print } } do
      assert.error_matches(function() sharearray.new { origin = wrong } end,
        "option 'origin' must be an origin: a table with the methods fetch, publish, lease and remove")
    end
  end)
end)
