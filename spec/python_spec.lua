-- One id, Python and Lua processes: one builder, equal arrays, whoever is killed.
local machine = require "support.machine"
local sharearray = require "sharearray"

local SIZE = 200000

local function peer(directory, ...)
  return machine.python("peer.py", { "cache", directory, "x", ... })
end

local LUA = [[
  say "ready"
  hear()
  local view = assert(sharearray.cache("x", function(alloc)
    say "building"
    local x = alloc("float32", 200000)
    x:fill(2)
    return x
  end))
  for i = 0, #view - 1 do assert(view(i) == view(0), "partial") end
  say("value", view(0), #view)
]]

describe("Python and Lua", function()
  local directory, env

  before_each(function()
    directory = machine.directory()
    env = { SHAREARRAY_SHM_PATH = directory }
  end)

  after_each(function() machine.remove(directory) end)

  it("starting together run one builder and get equal arrays, whichever wins", function()
    local winners = {}
    for round = 1, 12 do
      local workers = {}
      for i = 1, 4 do workers[i] = machine.worker(LUA, {}, env) end
      for i = 1, 4 do workers[i]:expect("ready") end
      -- Python starts slowly: the Lua workers are let go when one Python process holds the lock, or at once.
      local pythons = { peer(directory, "1", tostring(SIZE), round % 2 == 0 and "locked" or ""),
        peer(directory, "1", tostring(SIZE)) }
      if round % 2 == 0 then assert.truthy(({ locked = 1, waiting = 1 })[pythons[1]:line()]) end
      for i = 1, 4 do workers[i]:tell() end
      pythons[1]:tell()
      local builders, values = 0, {}
      for _, process in ipairs { workers[1], workers[2], workers[3], workers[4], pythons[1], pythons[2] } do
        local said = process:finish()
        if said:find("building") then builders = builders + 1 end
        values[said:match("value (%d)")] = true
      end
      assert.equal(1, builders)
      assert.is_true(next(values) ~= nil and next(values, next(values)) == nil)
      winners[next(values)] = true
      assert.is_true(sharearray.free("x", { shm_path = directory }))
      assert.same({}, machine.names(directory))
    end
    assert.same({ ["1"] = true, ["2"] = true }, winners)
  end)

  it("reads what Python wrote, and Python what Lua wrote", function()
    peer(directory, "5", "3"):finish()
    assert.same({ 5, 5, 5 }, assert(sharearray.get("x", { shm_path = directory })):totable())
    sharearray.cache("y", sharearray.array({ { 1, 2 }, { 3, 4 } }, "int16"), { shm_path = directory })
    assert.equal("int16 (2, 2) [1, 2, 3, 4]\n",
      machine.python("peer.py", { "read", directory, "y" }):finish())
  end)

  for _, stage in ipairs { "locked", "half", "written", "closed" } do
    it("a Python builder killed when " .. stage .. " does not stop Lua", function()
      local python = peer(directory, "1", tostring(SIZE), stage)
      repeat until assert(python:line()) == stage
      local _, _, code = sharearray.get("x", { shm_path = directory })
      local waiter = machine.worker(LUA, {}, env)
      waiter:expect("ready")
      waiter:tell()
      python:kill()
      python:wait()
      local said = waiter:finish()
      if stage == "locked" or stage == "half" then
        assert.equal("absent", code)
        assert.truthy(said:find("value 2 200000"))
      else
        assert.truthy(said:find("value 1 200000"))
      end
      assert(sharearray.list { shm_path = directory })
      assert.same({ "sharearray_x.npy" }, machine.names(directory))
      assert.truthy(peer(directory, "1", "1"):finish():find("(200000,)", 1, true))
    end)
  end

  it("a short file that grows beside a live Python is waited for", function()
    local python = peer(directory, "1", tostring(SIZE), "half")
    repeat until assert(python:line()) == "half"
    local view, err, code = sharearray.cache("x", error, { shm_path = directory, timeout = 0.5 })
    assert.is_nil(view)
    assert.equal("timeout", code)
    assert.truthy(err:find("python", 1, true), err)
    python:tell()
    python:finish()
    assert.equal(1, assert(sharearray.cache("x", error, { shm_path = directory }))(SIZE - 1))
  end)

  it("Python's free in the middle of a build, which unlinks the lock too, gives no wrong data", function()
    local program = [[
      local value, timeout = ...
      local view, err, code = sharearray.cache("x", function(alloc)
        say "building"
        hear()
        return sharearray.array({tonumber(value), 7})
      end, {timeout = tonumber(timeout)})
      say(view and view(0) or code .. ": " .. err)
    ]]
    local hasty = machine.worker(program, { 1, 0.3 }, env)
    hasty:expect("building")
    machine.python("peer.py", { "free", directory, "x" }):finish()
    assert.same({}, machine.names(directory))
    local patient = machine.worker(program, { 2, -1 }, env)
    patient:expect("building")
    -- Another one builds now: the first must not publish under it, and waits until its time is over.
    hasty:tell()
    assert.truthy(hasty:finish():find("\ntimeout: sharearray: 'x': timed out after 0.3 s: somebody removed the lock", 1,
      true), hasty.seen)
    assert.same({ "sharearray_x.npy.lock" }, machine.names(directory))
    local third = machine.worker(program, { 3, -1 }, env)
    patient:tell()
    assert.equal("2\n", patient:finish():match("%d\n$"))
    assert.equal("2\n", third:finish():match("%d\n$"))
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("a builder whose lock Python's free took away sleeps while another one builds", function()
    local settings = { shm_path = directory }
    assert(sharearray.cache("x", sharearray.array({ 1 }), settings)) -- the counter of the id is not 0 any more
    assert.is_true(sharearray.free("x", settings))
    local program = [[
      local began
      assert(sharearray.cache("x", function()
        say "building"
        hear()
        began = os.clock()
        return sharearray.array({1})
      end))
      say("slept", os.clock() - began < 0.25) -- processor time
    ]]
    local robbed = machine.worker(program, {}, env)
    robbed:expect("building")
    machine.python("peer.py", { "free", directory, "x" }):finish()
    local other = machine.worker(program, {}, env)
    other:expect("building")
    robbed:tell()
    machine.shell("sleep 1") -- time in which it could be busy
    other:tell()
    other:finish()
    robbed:expect("slept true")
    robbed:finish()
  end)

  it("Python's free of a lock that nobody takes again: the build publishes", function()
    local builder = machine.worker([[
      local view = assert(sharearray.cache("x", function()
        say "building"
        hear()
        return sharearray.array({7, 7, 7})
      end))
      say("value", view(0), #view)
    ]], {}, env)
    builder:expect("building")
    machine.python("peer.py", { "free", directory, "x" }):finish()
    builder:tell()
    assert.truthy(builder:finish():find("value 7 3"))
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("list removes a dead Python builder's lock and says that its file is partial", function()
    local python = peer(directory, "1", tostring(SIZE), "half")
    repeat until assert(python:line()) == "half"
    local info = assert(sharearray.stat("x", { shm_path = directory }))
    assert.equal("building", info.state)
    assert.equal("python", info.builder.program)
    python:kill()
    python:wait()
    local list = assert(sharearray.list { shm_path = directory })
    assert.equal("partial", list[1].state)
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
    assert.is_true(sharearray.free("x", { shm_path = directory }))
    assert.same({}, machine.names(directory))
  end)
end)

describe("every dtype", function()
  local directory

  setup(function() directory = machine.directory() end)
  teardown(function() machine.remove(directory) end)

  local NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
  local PROGRAM = [[
import numpy, sys
directory = sys.argv[1]
for name in sys.argv[2].split():
    values = numpy.array([0, 1, 1, 0, 1, 1] if name == "bool" else [0, 1, 2, 3, 100, 127]).astype(name).reshape(2, 3)
    numpy.save(directory + "/sharearray_c." + name + ".npy", values)
    numpy.save(directory + "/sharearray_f." + name + ".npy", numpy.asfortranarray(values))
]]

  it("written by NumPy reads right, in C and in Fortran order, and goes back byte for byte", function()
    local script = directory .. "/write.py"
    local file = assert(io.open(script, "w"))
    file:write(PROGRAM)
    file:close()
    machine.start({ "/usr/bin/python3", script, directory, NAMES }):finish()
    os.remove(script)
    local store = sharearray.new { shm_path = directory }
    local count = 0
    for name in NAMES:gmatch("%S+") do
      local c, f = assert(store:get("c." .. name)), assert(store:get("f." .. name))
      assert.equal(name, tostring(c.dtype))
      assert.same({ 2, 3 }, f.shape)
      local values = name == "bool" and { 0, 1, 1, 0, 1, 1 } or { 0, 1, 2, 3, 100, 127 }
      for i = 0, 1 do
        for j = 0, 2 do
          local expected = values[i * 3 + j + 1]
          for _, view in ipairs { c, f } do
            local got = view(i, j)
            if name == "bool" then assert.equal(expected == 1, got)
            elseif name:find("complex") then assert.equal(expected, got.re)
            else assert.equal(expected, tonumber(got)) end
            assert.equal(tostring(got), tostring(view[i](j)))
          end
        end
      end
      assert.equal(c:string(), f:string())
      assert(store:cache("back." .. name, f))
      local back = directory .. "/sharearray_back." .. name .. ".npy"
      local same = machine.start({ "/usr/bin/python3", "-c", "import numpy, sys; a, b = map(numpy.load, sys.argv[1:])\n"
        .. "assert a.dtype == b.dtype and a.tobytes() == b.tobytes()", back,
        directory .. "/sharearray_c." .. name .. ".npy" })
      same:finish()
      count = count + 1
    end
    assert.equal(14, count)
  end)
end)
