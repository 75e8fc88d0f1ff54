-- Dtype objects: their fields, their names, what they refuse.

local dtype = require "sharearray.dtype"
local ffi = require "ffi"

local ALL = {
  -- name, kind, itemsize, descr
  { "bool", "b", 1, "|b1" },
  { "int8", "i", 1, "|i1" }, { "int16", "i", 2, "<i2" }, { "int32", "i", 4, "<i4" }, { "int64", "i", 8, "<i8" },
  { "uint8", "u", 1, "|u1" }, { "uint16", "u", 2, "<u2" }, { "uint32", "u", 4, "<u4" }, { "uint64", "u", 8, "<u8" },
  { "float16", "f", 2, "<f2" }, { "float32", "f", 4, "<f4" }, { "float64", "f", 8, "<f8" },
  { "complex64", "c", 8, "<c8" }, { "complex128", "c", 16, "<c16" },
}

describe("a dtype", function()
  for _, row in ipairs(ALL) do
    local name, kind, itemsize, descr = unpack(row)

    it(name .. " has NumPy's terms, and one object under all its names", function()
      local d = assert(dtype.of(name))
      assert.same({ name, kind, itemsize, descr }, { d.name, d.kind, d.itemsize, d.descr })
      assert.equal(name, tostring(d))
      assert.equal(itemsize, ffi.sizeof(d.ctype))
      assert.equal(d, dtype.of(d))
      assert.equal(d, dtype.of(descr))
      assert.equal(d, dtype.of(kind .. itemsize))
      assert.equal(d, dtype.from_npy(kind:byte(), itemsize))
    end)
  end

  it("differs from every other", function()
    local seen = {}
    for _, row in ipairs(ALL) do
      local d = dtype.of(row[1])
      assert.is_nil(seen[d])
      seen[d] = true
    end
  end)

  it("cannot be changed", function()
    local d = dtype.of("float32")
    local ok, message = pcall(function() d.itemsize = 1 end)
    assert.is_false(ok)
    assert.matches("dtype_spec%.lua:%d+: dtype float32 is read%-only: cannot set 'itemsize'", message)
    assert.is_false(pcall(function() d.new = 1 end))
    assert.is_false(pcall(setmetatable, d, {}))
    assert.equal(4, d.itemsize)
  end)
end)

describe("dtype.of", function()
  it("knows ? and one-byte types in any byte order", function()
    assert.equal(dtype.of("bool"), dtype.of("?"))
    for _, order in ipairs { "<", ">", "=", "|", "" } do
      assert.equal(dtype.of("uint8"), dtype.of(order .. "u1"))
    end
  end)

  it("refuses big-endian types by that name", function()
    local d, message = dtype.of(">f4")
    assert.is_nil(d)
    assert.matches("big%-endian dtype '>f4' is unsupported; convert to '<f4'", message)
  end)

  it("refuses everything else with a list of what there is", function()
    for _, x in ipairs { "float", "f3", "<", "", "f", "O", "float32 ", 4, true, {} } do
      local d, message = dtype.of(x)
      assert.is_nil(d)
      assert.matches("bool, int8, .*complex128", message)
    end
    assert.is_nil((dtype.of(nil)))
    assert.is_nil((dtype.of(0 / 0)))
  end)
end)

describe("dtype.from_npy and from_ctype", function()
  it("give nil for what is none", function()
    assert.is_nil(dtype.from_npy(("f"):byte(), 16))
    assert.is_nil(dtype.from_npy(("V"):byte(), 8))
    assert.is_nil(dtype.from_ctype("struct nothing"))
    assert.is_nil(dtype.from_ctype("float *"))
    assert.is_nil(dtype.from_ctype("void"))
    assert.is_nil(dtype.from_ctype("]]"))
  end)

  it("takes C's names and LuaJIT's own spelling of them", function()
    local names = {
      bool = "bool", char = "int8", ["signed char"] = "int8", int8_t = "int8", ["unsigned char"] = "uint8",
      short = "int16", ["unsigned short"] = "uint16", int = "int32", ["unsigned int"] = "uint32",
      long = "int64", ["long long"] = "int64", size_t = "uint64", uint64_t = "uint64", float = "float32",
      double = "float64", ["complex float"] = "complex64", complex = "complex128", ["complex double"] = "complex128",
      ["const float"] = "float32", ["volatile int"] = "int32", ["const volatile double"] = "float64",
    }
    for c, name in pairs(names) do
      assert.equal(dtype.of(name), dtype.from_ctype(c))
      local spelling = tostring(ffi.typeof(c)):match("^ctype<(.*)>$")
      assert.equal(dtype.of(name), dtype.from_ctype(spelling))
    end
  end)
end)
