-- Torch7: memory that tensors may write, tensors over views, tensors as sources. Where Torch is not
-- installed, what needs it is pending, and the adapter works beside a stand-in.

local ffi = require "ffi"
local machine = require "support.machine"
local views = require "support.views"
local sharearray = require "sharearray"
local instance = require "sharearray.instance"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

local has_torch, torch = pcall(require, "torch")
local raises, references, collect = views.raises, views.references, views.collect

describe("Torch:", function()
  local directory, store

  before_each(function()
    directory = machine.directory()
    store = sharearray.new { shm_path = directory }
  end)

  after_each(function() machine.remove(directory) end)

  local function counting(shape, dtype)
    return function(alloc)
      local x = alloc(dtype or "float32", shape)
      for k = 0, x.size - 1 do x.data[k] = k end
      return x
    end
  end

  -- What another process finds under the id.
  local function elsewhere(id)
    local text = 'say(table.concat(assert(sharearray.get("%s")):reshape({ -1 }):totable(), " "))'
    return (machine.worker(text:format(id), {}, { SHAREARRAY_SHM_PATH = directory }):finish():gsub("\n$", ""))
  end

  describe("memory lent", function()
    local function lend(x)
      local map, lent, bytes = view.map(x), ffi.new("sharearray_map *[1]"), ffi.new("void *[1]")
      local offset = ffi.cast("const char *", instance.pointer(x)) - ffi.cast("const char *", map.base)
      assert.equal(0, C.sharearray_lend(map, offset, x.nbytes, lent, bytes, nil))
      return ffi.cast("float *", bytes[0]), lent[0]
    end

    -- Bytes of the mapping at `address` that this process has made its own.
    local function private_bytes(address)
      local wanted, inside = tonumber(ffi.cast("uintptr_t", address)), false
      for line in io.lines("/proc/self/smaps") do
        local from, to = line:match("^(%x+)%-(%x+) ")
        if from then inside = tonumber(from, 16) <= wanted and wanted < tonumber(to, 16) end
        local size = inside and line:match("^Anonymous: +(%d+) kB")
        if size then return tonumber(size) * 1024 end
      end
    end

    it("is a private copy of a published entry, page by page as it is written", function()
      local size = 2 ^ 20
      local x = assert(store:cache("x", counting { size }))
      local data, map = lend(x)
      assert.equal(size - 1, data[size - 1])
      assert.equal(0, private_bytes(data))
      data[5] = 42
      local mine = private_bytes(data)
      assert.is_true(mine > 0 and mine < x.nbytes)
      assert.equal(5, x(5))
      assert.equal(1, references(map))
      assert.is_true(store:free("x"))
      assert.equal(42, data[5])
      C.sharearray_unref(map)
    end)

    it("is a plain copy once the entry was replaced or removed", function()
      local old = assert(store:cache("x", counting { 4 }))
      assert(store:refresh("x", function() return sharearray.array({ 9 }, "float32") end))
      local data, map = lend(old:slice(1, 3))
      assert.same({ 1, 2 }, { data[0], data[1] })
      assert.equal(2 * 4, tonumber(map.length))
      data[0] = 42
      assert.equal(1, old(1))
      C.sharearray_unref(map)
    end)

    it("is a private array's own", function()
      local x = sharearray.array({ 1, 2, 3 }, "float32")
      local data, map = lend(x:slice(1, 3))
      data[0] = 42
      assert.equal(42, x(1))
      assert.equal(view.map(x), map)
      x:close()
      collect()
      assert.equal(42, data[0])
      C.sharearray_unref(map)
    end)

    it("of a build fills the array, and is the borrower's own after the publication", function()
      local data, map
      local x = assert(store:cache("x", function(alloc)
        local y = alloc("float32", { 3 })
        data, map = lend(y)
        data[0], data[1], data[2] = 7, 8, 9
        return y
      end))
      assert.same({ 7, 8, 9 }, x:totable())
      data[1] = 42
      assert.same({ 7, 8, 9 }, x:totable())
      assert.equal("7 8 9", elsewhere("x"))
      C.sharearray_unref(map)
    end)

    it("of a bundle's build as well", function()
      local data, map
      local bundle = assert(store:cache("x", function(alloc)
        local all = alloc { a = { "float32", 2 }, b = { "float32", 2 } }
        data, map = lend(all.a)
        data[0], all.b[1] = 7, 8
        return all
      end))
      data[0] = 42
      assert.same({ { 7, 0 }, { 0, 8 } }, { bundle.a:totable(), bundle.b:totable() })
      C.sharearray_unref(map)
    end)

    it("of a build that came to nothing stays what it was", function()
      local data, map
      store:cache("x", function(alloc)
        data, map = lend(alloc("float32", { 3 }))
        return nil, "no"
      end)
      collect()
      data[0] = 42
      assert.equal(42, data[0])
      C.sharearray_unref(map)
    end)

    it("lies inside the map", function()
      local x = sharearray.array { 1, 2 }
      local lent, bytes = ffi.new("sharearray_map *[1]"), ffi.new("void *[1]")
      assert.equal(C.SHAREARRAY_EINVAL, C.sharearray_lend(view.map(x), 8, 9, lent, bytes, nil))
      assert.equal(C.SHAREARRAY_EINVAL, C.sharearray_lend(view.map(x), 17, 0, lent, bytes, nil))
      assert.equal(C.SHAREARRAY_EINVAL, C.sharearray_lend(view.map(x), 8, 2 ^ 63, lent, bytes, nil))
    end)
  end)

  if not has_torch then
    it("says that it is not installed", function()
      raises("torch: Torch7 cannot be loaded: .*torch", function() sharearray.array({ 1 }):torch() end)
    end)

    describe("beside a stand-in", function()
      local standin

      setup(function() standin = require "support.torch" end)
      before_each(function() package.loaded.torch = standin end)
      after_each(function() package.loaded.torch = nil end)

      it("a tensor has the view's type, sizes, strides and memory", function()
        local x = assert(store:cache("x", counting { 4, 3, 2 }))
        local t = x:slice(1, 3):transpose():torch()
        assert.equal("torch.FloatTensor", standin.typename(t))
        assert.same({ 2, 3, 2, 1, 2, 6 }, { t:size(1), t:size(2), t:size(3), t:stride(1), t:stride(2), t:stride(3) })
        assert.same(x:slice(1, 3):transpose():totable(), t:totable())
        t:data()[0] = 42
        assert.same({ 42, 6 }, { t:data()[0], x(1, 0, 0) })
        for dtype, name in pairs { uint8 = "Byte", int8 = "Char", int16 = "Short", int32 = "Int", int64 = "Long",
          float64 = "Double" } do
          local y = assert(store:cache(dtype, counting({ 2, 2 }, dtype))):torch()
          assert.equal("torch." .. name .. "Tensor", standin.typename(y))
          assert.same({ { 0, 1 }, { 2, 3 } }, y:totable())
        end
      end)

      it("a tensor holds one reference, until it is gone", function()
        local x = sharearray.array({ 1, 2, 3 }, "float32")
        local map = view.map(x)
        C.sharearray_ref(map)
        local t = x:torch()
        t:data()[1] = 42
        assert.equal(42, x(1))
        x:close()
        collect()
        assert.equal(2, references(map))
        assert.same({ 1, 42, 3 }, t:totable())
        t = nil -- luacheck: ignore
        collect()
        assert.equal(1, references(map))
        C.sharearray_unref(map)
      end)

      it("what Torch has none for is refused", function()
        raises("no tensors of dtype uint16; convert to int32", function() sharearray.array({ 1 }, "uint16"):torch() end)
        raises("dtype complex64; convert to float32", function() sharearray.array({ 1 }, "complex64"):torch() end)
        raises("dtype float16; convert to float32", function() sharearray.array({ 1 }, "float16"):torch() end)
        raises("dimension 0: reshape", function() sharearray.array(1):torch() end)
        raises("axis 1 has size 0", function() sharearray.array({ {}, {} }):torch() end)
      end)

      it("tensors are sources, in any order, and members of bundles", function()
        local storage = standin.IntStorage(6)
        for i = 0, 5 do storage:cdata().data[i] = i end
        local t = standin.IntTensor(storage, 1, { 3, 2 }, { 1, 3 })
        local expected = { { 0, 3 }, { 1, 4 }, { 2, 5 } }
        assert.same(expected, assert(store:cache("x", t)):totable())
        assert.same(expected, assert(store:cache("y", function() return { w = t, n = 1 } end)).w:totable())
        assert.same(expected, sharearray.array(t, "float64"):totable())
        assert.same({ 0 }, sharearray.array(standin.IntTensor(storage, 1, {}, {})).shape)
        raises("got a userdata", function() store:cache("z", storage) end)
      end)
    end)

    pending("with Torch7 itself: there is none here (require \"torch\")")
    return
  end

  describe("a tensor of a view", function()
    it("has its type, shape and elements", function()
      local expected = {
        uint8 = "Byte", int8 = "Char", int16 = "Short", int32 = "Int", int64 = "Long",
        float32 = "Float", float64 = "Double",
      }
      for dtype, type_ in pairs(expected) do
        local t = assert(store:cache(dtype, counting({ 2, 3 }, dtype))):torch()
        assert.equal("torch." .. type_ .. "Tensor", torch.typename(t))
        assert.same({ 2, 3 }, t:size():totable())
        assert.same({ { 0, 1, 2 }, { 3, 4, 5 } }, t:totable())
      end
      local half = sharearray.array({ 1, -2.5 }, "float16"):torch()
      assert.equal("torch.HalfTensor", torch.typename(half))
      assert.same({ 1, -2.5 }, half:float():totable())
      local bool = sharearray.array { true, false, true }
      assert.equal("torch.ByteTensor", torch.typename(bool:torch()))
      assert.same({ 1, 0, 1 }, bool:torch():totable())
    end)

    it("has its strides", function()
      local x = assert(store:cache("x", counting { 4, 3, 2 }))
      local t = x:slice(1, 3):transpose():torch()
      assert.same({ 2, 3, 2 }, t:size():totable())
      assert.same({ 1, 2, 6 }, t:stride():totable())
      assert.same(x:slice(1, 3):transpose():totable(), t:totable())
      assert.same(x[2]:totable(), x[2]:torch():totable())
    end)

    it("is written without reaching the view or other processes", function()
      local x = assert(store:cache("x", counting { 4 }))
      local t = x:torch()
      t:fill(42)
      assert.same({ 42, 42, 42, 42 }, t:totable())
      assert.same({ 0, 1, 2, 3 }, x:totable())
      assert.same({ 0, 1, 2, 3 }, x:torch():totable())
      assert.equal("0 1 2 3", elsewhere("x"))
    end)

    it("shares the memory of a private array", function()
      local x = sharearray.array({ 1, 2, 3 }, "float64")
      local t = x:torch()
      t[1] = 42
      x[1] = 43
      assert.same({ 42, 43, 3 }, x:totable())
      assert.same({ 42, 43, 3 }, t:totable())
    end)

    it("holds one reference, until the last tensor is gone", function()
      local x = sharearray.array({ 1, 2, 3 }, "float32")
      local map = view.map(x)
      C.sharearray_ref(map)
      local part = x:torch():narrow(1, 2, 2)
      x:close()
      collect()
      assert.equal(2, references(map))
      assert.same({ 2, 3 }, part:totable())
      part = nil -- luacheck: ignore
      collect()
      assert.equal(1, references(map))
      C.sharearray_unref(map)
    end)

    it("fills what alloc gave", function()
      local t
      local x = assert(store:cache("x", function(alloc)
        local y = alloc("float32", { 2, 2 })
        t = y:torch()
        t:copy(torch.FloatTensor { { 1, 2 }, { 3, 4 } })
        return y
      end))
      t:zero()
      assert.same({ { 1, 2 }, { 3, 4 } }, x:totable())
      assert.equal("1 2 3 4", elsewhere("x"))
    end)

    it("cannot be resized past its memory", function()
      local t = assert(store:cache("x", counting { 4 })):torch()
      assert.is_false(pcall(t.resize, t, 5))
      assert.same({ 2, 2 }, t:resize(2, 2):size():totable())
    end)

    it("is refused where Torch has none", function()
      raises("no tensors of dtype uint16; convert to int32", function() sharearray.array({ 1 }, "uint16"):torch() end)
      raises("dtype uint32; convert to int64", function() sharearray.array({ 1 }, "uint32"):torch() end)
      raises("dtype uint64; convert to int64 or float64", function() sharearray.array({ 1 }, "uint64"):torch() end)
      raises("dtype complex64; convert to float32", function() sharearray.array({ 1 }, "complex64"):torch() end)
      raises("dimension 0: reshape", function() sharearray.array(1):torch() end)
      raises("axis 1 has size 0", function() sharearray.array({ {}, {} }):torch() end)
      local dtype = sharearray.dtype { { "a", "uint8" }, { "b", "float32" } }
      local x = sharearray.array({ { a = 1, b = 2 }, { a = 3, b = 4 } }, dtype)
      raises("multiples of their size: copy", function() x:field("b"):torch() end)
      assert.same({ 2, 4 }, sharearray.array(x:field("b")):torch():totable())
      raises("no tensors of dtype", function() x:torch() end)
      dtype = sharearray.dtype { { "a", "uint8" }, { "b", "float32" }, { "c", "uint8", 3 } }
      local y = sharearray.array({ { a = 1, b = 2, c = { 3, 4, 5 } } }, dtype)
      raises("multiples of their size: copy", function() y:field("b"):torch() end)
      assert.same({ { 3, 4, 5 } }, y:field("c"):torch():totable())
      x:close()
      raises("closed", function() x:torch() end)
    end)
  end)

  describe("a tensor as a source", function()
    local t = torch.range(0, 23):float():resize(4, 3, 2)

    it("is published", function()
      local x = assert(store:cache("x", t))
      assert.equal("float32", x.dtype.name)
      assert.same(t:totable(), x:totable())
      assert.same(t:totable(), assert(store:cache("y", function() return t end)):totable())
    end)

    it("need not be contiguous", function()
      local sources = {
        t:transpose(1, 3), t:narrow(2, 2, 2), t:select(3, 2), torch.IntTensor({ 7 }):expand(3), t[2]:t():byte(),
        torch.LongTensor { 2 ^ 53 }, torch.HalfTensor(2):copy(torch.FloatTensor { 1, 2 }),
      }
      for i, source in ipairs(sources) do
        local like = torch.typename(source):find("Half") and source:float() or source
        assert.same(like:totable(), assert(store:cache("x" .. i, source):torch():double():totable()))
        assert.same(source:size():totable(), sharearray.array(source).shape)
        assert.same(like:totable(), sharearray.array(source, "float64"):totable())
      end
    end)

    it("is a member of a bundle", function()
      local bundle = assert(store:cache("x", { weight = t:transpose(1, 2), name = "w", list = { t[1], t[1] } }))
      assert.same(t:transpose(1, 2):totable(), bundle.weight:totable())
      assert.same(t[1]:totable(), bundle.list[2]:totable())
      assert.equal("w", bundle.name)
    end)

    it("may be empty, as one axis", function()
      assert.same({ 0 }, sharearray.array(torch.FloatTensor()).shape)
      assert.same({ 0 }, assert(store:cache("x", torch.ByteTensor())).shape)
    end)

    it("is refused where it is none", function()
      raises("cannot make an array of a userdata", function() sharearray.array(torch.FloatStorage(3)) end)
      raises("got a userdata", function() store:cache("x", torch.Timer()) end)
    end)
  end)
end)
