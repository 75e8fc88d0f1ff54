-- Sizes, names and space at their ends.
local machine = require "support.machine"
local sharearray = require "sharearray"

describe("arrays and ids at their limits", function()
  local directory, store

  before_each(function()
    directory = machine.directory()
    store = sharearray.new { shm_path = directory }
  end)

  after_each(function() machine.remove(directory) end)

  it("size 0, 0 dimensions, 1 element", function()
    local empty = assert(store:cache("empty", function(alloc) return alloc("float32", { 0, 5 }) end))
    assert.same({ { 0, 5 }, 0, 0, 0 }, { empty.shape, #empty, empty.size, empty.nbytes })
    local scalar = assert(store:cache("scalar", function(alloc)
      local x = alloc("float64", {})
      x:set(2.5)
      return x
    end))
    assert.same({ {}, 2.5, 1 }, { scalar.shape, scalar(), scalar.size })
    local one = assert(store:cache("one", sharearray.array({ 7 }, "uint8")))
    assert.same({ { 1 }, 7 }, { one.shape, one(0) })
    for id, expected in pairs { empty = "float32 (0, 5) []", scalar = "float64 () [2.5]", one = "uint8 (1,) [7]" } do
      assert.equal(expected .. "\n", machine.python("peer.py", { "read", directory, id }):finish())
    end
  end)

  it("32 dimensions", function()
    local shape = {}
    for i = 1, 32 do shape[i] = i % 10 == 0 and 2 or 1 end
    local view = assert(store:cache("deep", function(alloc) return alloc("int8", shape) end))
    assert.same(shape, view.shape)
    assert.equal(32, view.ndim)
  end)

  it("an id of the greatest length", function()
    local id = ("i"):rep(255 - #"sharearray_" - #".npy.lock")
    assert.equal(1, assert(store:cache(id, sharearray.array({ 1 })))(0))
    assert.equal(2, assert(store:refresh(id, sharearray.array({ 2 })))(0))
    assert.equal(id, assert(store:list())[1].id)
    assert.is_true(store:free(id))
    assert.has_error(function() store:get(id .. "i") end)
  end)

  it("an empty prefix", function()
    local bare = sharearray.new { shm_path = directory, prefix = "" }
    assert(bare:cache("x", sharearray.array({ 1 })))
    assert.equal("x", assert(bare:list())[1].id)
    assert.same({ "x.npy" }, machine.names(directory))
  end)

  it("a file that is no array is corrupt, and refresh repairs it", function()
    local file = assert(io.open(directory .. "/sharearray_bad.npy", "w"))
    file:write("this is no array")
    file:close()
    for _, call in ipairs { "cache", "get" } do
      local view, err, code = store[call](store, "bad", call == "cache" and error or nil)
      assert.is_nil(view)
      assert.equal("corrupt", code)
      assert.truthy(err:find("no .npy file", 1, true) and err:find("refresh or free", 1, true), err)
    end
    assert.equal("corrupt", assert(store:stat("bad")).state)
    assert.equal(1, assert(store:refresh("bad", sharearray.array({ 1 })))(0))
  end)

  it("a file of elements larger than LuaJIT can have is refused, and disturbs no list", function()
    local header = "{'descr': '<U200000000', 'fortran_order': False, 'shape': (0,), }"
    local file = assert(io.open(directory .. "/sharearray_wide.npy", "wb"))
    file:write("\147NUMPY\1\0", string.char(118, 0), header, (" "):rep(117 - #header), "\n")
    file:close()
    assert.equal("wide", assert(store:list())[1].id)
    local view, err, code = store:get("wide")
    assert.is_nil(view)
    assert.equal("unsupported", code)
    assert.truthy(err:find("LuaJIT cannot declare dtype <U200000000", 1, true), err)
  end)

  it("elements of no bytes are counted, and more than a number can count are refused", function()
    local shapes = { ["(3, 1000000)"] = true, ["(3, 9223372036854775)"] = false, ["(9007199254740993,)"] = false }
    for shape, fits in pairs(shapes) do
      local header = ("{'descr': '<U0', 'fortran_order': False, 'shape': %s, }"):format(shape)
      local file = assert(io.open(directory .. "/sharearray_nothing.npy", "wb"))
      file:write("\147NUMPY\1\0", string.char(118, 0), header, (" "):rep(117 - #header), "\n")
      file:close()
      local view, err, code = store:get("nothing")
      if fits then
        assert.matches("^array%(", tostring(view))
      else
        assert.same({ nil, "unsupported" }, { view, code })
        assert.truthy(err:find("it has more elements than a number can count", 1, true), err)
      end
      store:free("nothing")
    end
  end)

  -- LuaJIT can declare 65,536 of them, and a dtype of its own takes some.
  it("a bundle of more dtypes than a process has C types for is refused", function()
    machine.shell(([[/usr/bin/python3 - <<'END'
import numpy, zipfile
with zipfile.ZipFile("%s/sharearray_many.npy", "w") as bundle:
    for i in range(3, 5000):
        with bundle.open("m%%d.npy" %% i, "w") as member:
            numpy.lib.format.write_array(member, numpy.zeros((), "V%%d" %% i))
END]]):format(directory))
    for before = 0, 9 do -- so that they end at another point each time
      local said = machine.worker(([[
        for i = 1, %d do require "ffi".typeof("struct { char c; } /* " .. i .. " */") end
        local view, err, code = sharearray.get "many"
        say(view, code, err)
      ]]):format(before), {}, { SHAREARRAY_SHM_PATH = directory }):finish()
      assert.truthy(said:find "^nil unsupported sharearray: 'many': .*LuaJIT cannot ", said)
    end
  end)

  -- A hole, but for its ends: the member's header, and the directory (APPNOTE.TXT, 4.3).
  it("a bundle whose form is larger than a string may be is refused", function()
    machine.shell(([[/usr/bin/python3 - <<'END'
import struct
name, size = b"sharearray.json", 2**31 + 5
common = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, 0, size, size, len(name), 0)
local = b"PK\3\4" + common + name
central = b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + size, 0)
with open("%s/sharearray_form.npy", "wb") as file:
    file.write(local)
    file.seek(size, 1)
    file.write(central + end)
END]]):format(directory))
    local view, err, code = store:get("form")
    assert.same({ nil, "corrupt" }, { view, code })
    assert.truthy(err:find("its form is larger than a string may be", 1, true), err)
  end)

  it("the environment names the directory", function()
    store:cache("x", sharearray.array({ 5 }))
    local said = machine.worker([[say(assert(sharearray.get("x"))(0))]], {}, { SHAREARRAY_SHM_PATH = directory })
    assert.equal("5\n", said:finish())
  end)
end)

describe("a tmpfs of 8 MB", function()
  local directory, store

  setup(function() directory = machine.directory("/tmp") end)

  before_each(function()
    local output, ok = machine.shell("mount -t tmpfs -o size=8m tmpfs " .. directory)
    store = ok and sharearray.new { shm_path = directory }
    if not ok then print("mount -t tmpfs is not permitted here: " .. output) end
  end)

  after_each(function()
    store = nil
    collectgarbage()
    machine.shell("umount " .. directory)
  end)

  teardown(function() machine.remove(directory) end)

  local function used()
    return tonumber((machine.shell("df --output=used -B1024 " .. directory .. " | tail -n 1")))
  end

  local function assert_no_space(view, err, code)
    assert.is_nil(view)
    assert.equal("no_space", code, tostring(err))
    assert.truthy(err:find("bytes needed") and err:find("of 8388608") and err:find("shm%-size"), err)
    assert.same({}, machine.names(directory))
    assert.is_true(used() <= 8)
  end

  it("does not hold 16 MB from alloc", function()
    if not store then pending("needs mount") return end
    assert_no_space(store:cache("x", function(alloc) return alloc("uint8", 16 * 2 ^ 20) end))
    assert(store:cache("y", sharearray.array({ 1 }))) -- and goes on working
  end)

  it("does not hold 16 MB that lie in memory", function()
    if not store then pending("needs mount") return end
    assert_no_space(store:cache("x", sharearray.array(("x"):rep(16 * 2 ^ 20))))
  end)

  it("keeps what was reserved when another process takes the rest", function()
    if not store then pending("needs mount") return end
    local view = assert(store:cache("x", function(alloc)
      local x = alloc("uint8", 5 * 2 ^ 20)
      machine.shell("dd if=/dev/zero of=" .. directory .. "/filler bs=64k")
      x:fill(7) -- touches every page: a page that was not reserved would be SIGBUS
      return x
    end))
    assert.equal(7, view(5 * 2 ^ 20 - 1))
    assert.same({ "filler", "sharearray_x.npy" }, machine.names(directory))
  end)

  it("says no_space with the figures when it is full to the last byte, and when it has no inode left", function()
    if not store then pending("needs mount") return end
    machine.shell("dd if=/dev/zero of=" .. directory .. "/filler bs=4k")
    local view, err, code = store:cache("x", sharearray.array({ 1 }))
    assert.is_nil(view)
    assert.equal("no_space", code, tostring(err))
    assert.truthy(err:find("bytes needed, 0 free of 8388608") and err:find("shm%-size"), err)
    assert.same({ "filler" }, machine.names(directory))
    machine.shell(("cd %s && rm filler && mount -o remount,nr_inodes=20 . && touch $(seq 20)"):format(directory))
    view, err, code = store:cache("x", sharearray.array({ 1 }))
    assert.is_nil(view)
    assert.equal("no_space", code, tostring(err))
    assert.truthy(err:find("all of its 20 inodes are used", 1, true), err)
  end)

  it("says no_space when another process takes the rest before a copy", function()
    if not store then pending("needs mount") return end
    local data = sharearray.array(("x"):rep(5 * 2 ^ 20))
    local view, err, code = store:cache("x", function()
      machine.shell("dd if=/dev/zero of=" .. directory .. "/filler bs=64k count=100")
      return data
    end)
    assert.is_nil(view)
    assert.equal("no_space", code, tostring(err))
    assert.same({ "filler" }, machine.names(directory))
  end)
end)
