-- Views: elements, rows, properties, methods; and that nothing a user may try breaks them.

-- busted replaces ffi.typeof by a memo that keeps its arguments alive for ever, views too.
local ffi = require "ffi"
for i = 1, 9 do
  local name, original = debug.getupvalue(ffi.typeof, i)
  if name == "original" then ffi.typeof = original break end
end

local array = require "sharearray.array"
local dtype = require "sharearray.dtype"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

-- The read-only view of an array.
local function read_only(x, strides)
  return view.new(x.dtype, x.shape, strides, view.pointer(x), view.map(x), false)
end

local function counting(name, shape)
  local x = array.new(name, shape)
  for k = 0, x.size - 1 do x.data[k] = k end
  return x
end

-- f raises a message that matches, and blames a line of f itself.
local function raises(pattern, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok, "no error: " .. pattern)
  local line, text = message:match("^[^:]*view_spec%.lua:(%d+): (.*)$")
  assert.is_truthy(line, "blamed on another file: " .. message)
  local info = debug.getinfo(f, "S")
  line = tonumber(line)
  assert.is_true(line >= info.linedefined and line <= info.lastlinedefined, "blamed on another line: " .. message)
  assert.matches(pattern, text)
end

local function private_map(bytes)
  local out = ffi.new("sharearray_map *[1]")
  assert(C.sharearray_private(bytes, out, nil) == 0)
  return out[0]
end

-- The atomic count behind the public struct, for the specs of ownership.
local function references(map)
  local at = math.ceil(ffi.sizeof("sharearray_map") / 4) * 4
  return ffi.cast("uint32_t *", ffi.cast("char *", map) + at)[0]
end

local function collect()
  collectgarbage() collectgarbage() collectgarbage()
end

describe("an element", function()
  it("is found by its indices, from 0, in C order", function()
    local x = counting("int32", { 2, 3, 4 })
    local v = read_only(x)
    for i = 0, 1 do
      for j = 0, 2 do
        for k = 0, 3 do
          assert.equal((i * 3 + j) * 4 + k, v(i, j, k))
          assert.equal((i * 3 + j) * 4 + k, v[i][j][k])
          assert.equal((i * 3 + j) * 4 + k, v[i](j, k))
        end
      end
    end
  end)

  it("is found through strides", function()
    local v = read_only(counting("float64", { 2, 3, 4 })):transpose()
    assert.same({ 4, 3, 2 }, v.shape)
    for i = 0, 3 do
      for j = 0, 2 do
        for k = 0, 1 do
          assert.equal((k * 3 + j) * 4 + i, v(i, j, k))
          assert.equal((k * 3 + j) * 4 + i, v[i][j][k])
        end
      end
    end
  end)

  it("of Fortran order is found by strides that the caller gives", function()
    local x = counting("int16", 6)
    local v = view.new(dtype.of("int16"), { 2, 3 }, { 1, 2 }, view.pointer(x), view.map(x), false)
    assert.same({ { 0, 2, 4 }, { 1, 3, 5 } }, v:totable())
    assert.same({ 2, 4 }, v.strides)
  end)

  it("of dimension 0 needs no index", function()
    local v = read_only(array.array(2.5))
    assert.equal(2.5, v())
    assert.equal(2.5, v:tonumber())
    raises("too many indices", function() local _ = v(0) end)
    raises("v%(%)", function() local _ = v[0] end)
    raises("no length", function() local _ = #v end)
    raises("cannot be sliced", function() local _ = v:slice(0) end)
    raises("cannot be iterated", function() local _ = v:iter() end)
  end)

  it("of 32 dimensions is found", function()
    local shape, zeros, ones = {}, {}, {}
    for axis = 1, 32 do shape[axis], zeros[axis], ones[axis] = axis > 28 and 2 or 1, 0, axis > 28 and 1 or 0 end
    local v = read_only(counting("uint8", shape))
    assert.equal(0, v(unpack(zeros)))
    assert.equal(15, v(unpack(ones)))
    assert.equal(15, v:transpose()(1, 1, 1, 1, unpack(zeros, 1, 28)))
    raises("too many indices: the array has dimension 32, but 33", function()
      local _ = v(0, unpack(zeros))
    end)
  end)

  it("at a wrong index is an error, as NumPy words it, on the caller's line", function()
    local v, m = read_only(counting("float32", 3)), read_only(counting("float32", { 2, 3 }))
    raises("^index 3 is out of bounds for axis 0 with size 3$", function() local _ = v(3) end)
    raises("^index 3 is out of bounds for axis 0 with size 3$", function() local _ = v[3] end)
    raises("^index %-1 is out of bounds for axis 0 with size 3$", function() local _ = v(-1) end)
    raises("^index %-1 is out of bounds for axis 0 with size 3$", function() local _ = v[-1] end)
    raises("^index 5 is out of bounds for axis 1 with size 3$", function() local _ = m(1, 5) end)
    raises("^index 2 is out of bounds for axis 0 with size 2$", function() local _ = m(2, 5) end)
    raises("^index 2 is out of bounds for axis 0 with size 2$", function() local _ = m[2] end)
    raises("^index inf is out of bounds", function() local _ = v(math.huge) end)
    raises("^index %-inf is out of bounds", function() local _ = v(-math.huge) end)
    raises("out of bounds", function() local _ = v(2 ^ 53) end)
    raises("out of bounds", function() local _ = v(2 ^ 32) end)
    raises("^index 0%.5 is not an integer$", function() local _ = v(0.5) end)
    raises("^index 1%.5 is not an integer$", function() local _ = v[1.5] end)
    raises("^index 1%.5 is not an integer$", function() local _ = m[1.5] end)
    raises("^index %-?nan is not an integer$", function() local _ = v(0 / 0) end)
    raises("^index %-?nan is not an integer$", function() local _ = v[0 / 0] end)
    for _, bad in ipairs { "1", "x", true, {}, print } do
      raises("must be a number, got " .. type(bad), function() local _ = v(bad) end)
      raises("must be a number, got " .. type(bad), function() local _ = m(0, bad) end)
    end
    raises("must be a number, got cdata; tonumber", function() local _ = v(1LL) end)
    raises("must be a number", function() local _ = v[1LL] end)
    raises("must be a number, got nil", function() local _ = v[nil] end)
    raises("must be a number, got table", function() local _ = v[{}] end)
    raises("must be a number, got nil", function() local _ = m(nil, 1) end)
    raises("too few indices: the array has dimension 2, but 1", function() local _ = m(1) end)
    raises("too few indices: the array has dimension 1, but 0", function() local _ = v() end)
    raises("too few indices", function() local _ = v(nil) end)
    raises("too many indices: the array has dimension 1, but 2", function() local _ = v(0, 0) end)
    raises("too many indices: the array has dimension 2, but 3", function() local _ = m(0, 0, 0) end)
  end)

  it("is checked in compiled loops too, whatever was compiled before", function()
    local v = read_only(counting("float32", 100))
    local function sum(from, to, step)
      local s = 0
      for i = from, to, step do s = s + v(i) end
      return s
    end
    for _ = 1, 100 do assert.equal(4950, sum(0, 99, 1)) end
    assert.is_false(pcall(sum, 0, 100, 1))
    assert.is_false(pcall(sum, -1, 99, 1))
    assert.is_false(pcall(sum, 0, 99, 0.5))
    assert.equal(4950, sum(0, 99, 1))
  end)

  it("of an empty array does not exist", function()
    for _, shape in ipairs { { 0 }, { 0, 3 }, { 3, 0 } } do
      local v = read_only(array.new("float32", shape))
      assert.equal(0, v.size)
      assert.same(shape, v.shape)
      raises("out of bounds", function()
        local _ = #shape == 1 and v(0) or v(0, 0)
      end)
      assert.equal("", v:string())
    end
    assert.same({ 0 }, read_only(array.new("int8", { 3, 0 }))[2].shape)
    raises("out of bounds", function()
      local _ = read_only(array.new("int8", { 0, 3 }))[0]
    end)
  end)
end)

describe("a dtype's elements", function()
  local samples = {
    int8 = { -128, 127 }, int16 = { -32768, 32767 }, int32 = { -2147483648, 2147483647 },
    uint8 = { 0, 255 }, uint16 = { 0, 65535 }, uint32 = { 0, 4294967295 },
    float32 = { 0.5, -2 ^ 100 }, float64 = { 0.1, -1e300 }, float16 = { 65504, -2 ^ -24 }, bool = { true, false },
    int64 = { -0x8000000000000000LL, 0x7fffffffffffffffLL }, uint64 = { 0ULL, 0xffffffffffffffffULL },
  }
  for name, values in pairs(samples) do
    it(name .. " come back as they were set", function()
      local x = array.new(name, 2)
      x[0], x[1] = values[1], values[2]
      local v = read_only(x)
      for i = 1, 2 do
        assert.is_true(v(i - 1) == values[i])
        assert.is_true(v[i - 1] == values[i])
        assert.equal(type(values[i]), type(v(i - 1)))
      end
    end)
  end

  it("int64 and uint64 are boxed, and numbers by tonumber", function()
    local v = read_only(counting("int64", { 2, 2 }))
    assert.is_true(ffi.istype("int64_t", v(1, 1)))
    assert.equal(3, v:tonumber(1, 1))
    assert.equal("number", type(v:tonumber(1, 1)))
    raises("out of bounds", function() local _ = v:tonumber(2, 0) end)
    raises("too few indices", function() local _ = v:tonumber() end)
    local one = read_only(counting("uint64", { 1, 1 }))
    assert.equal(0, one:tonumber())
    assert.equal(1, array.array({ true }):tonumber(0))
    assert.equal(1.5, array.array({ 1.5 }, "float16"):tonumber(0))
    raises("complex64 is no Lua number", function() local _ = array.new("complex64", 1):tonumber(0) end)
  end)

  it("complex are copies", function()
    for _, name in ipairs { "complex64", "complex128" } do
      local x = array.new(name, 2)
      x[0] = ffi.new("complex", 1, 2)
      local z = x(0)
      x[0] = ffi.new("complex float", 3, 4)
      x[1] = 5
      assert.same({ 1, 2 }, { z.re, z.im })
      assert.same({ 3, 4 }, { x[0].re, x[0].im })
      assert.same({ 5, 0 }, { x[1].re, x[1].im })
    end
  end)

  it("bool are true for any byte but 0", function()
    local x = array.array("\0\1\2\255")
    local v = view.new(dtype.of("bool"), { 4 }, nil, view.pointer(x), view.map(x), false)
    assert.same({ false, true, true, true }, v:totable())
  end)

  it("float16 are right for all 65536 patterns", function()
    local bits = array.new("uint16", 65536)
    for k = 0, 65535 do bits.data[k] = k end
    local v = view.new(dtype.of("float16"), { 65536 }, nil, view.pointer(bits), view.map(bits), false)
    local x = array.new("float16", 65536)
    assert.equal(1, v(0x3c00))
    assert.equal(65504, v(0x7bff))
    assert.equal(2 ^ -14, v(0x0400))
    assert.equal(2 ^ -24, v(0x0001))
    assert.equal(-2 + 2 ^ -9, v(0xbffe) + 0)
    assert.equal(-math.huge, v(0xfc00))
    assert.equal(-math.huge, 1 / v(0x8000))
    for k = 0, 65535 do
      local value = v(k)
      if value ~= value then
        assert(k % 0x8000 > 0x7c00)
      else
        x.data[k] = 0
        x[k] = value
        assert(x.data[k] == k)
      end
    end
  end)

  it("float16 are rounded to nearest, ties to even, straight from the double", function()
    local x = array.new("float16", {})
    local function bits(value)
      x:set(value)
      return x.data[0]
    end
    assert.equal(0x6800, bits(2049)) -- between 2048 and 2050
    assert.equal(0x6802, bits(2051)) -- between 2050 and 2052
    assert.equal(0x6801, bits(2049.0000001)) -- rounding to float32 first would make it the tie
    assert.equal(0x7bff, bits(65519.99))
    assert.equal(0x7c00, bits(65520))
    assert.equal(0xfc00, bits(-1e300))
    assert.equal(0x7c00, bits(math.huge))
    assert.equal(0x7e00, bits(0 / 0))
    assert.equal(0x0000, bits(2 ^ -25))
    assert.equal(0x0001, bits(2 ^ -25 * 1.0001))
    assert.equal(0x0002, bits(1.5 * 2 ^ -24))
    assert.equal(0x0400, bits(2 ^ -14 - 2 ^ -26))
    assert.equal(0x8000, bits(-0.0))
    assert.equal(0x0000, bits(5e-324))
    assert.equal(0x4000, bits(2 - 2 ^ -30))
  end)

  -- LuaJIT takes some NaNs for tagged values: nil, or a table at an address the file chooses.
  it("with the bits of LuaJIT's type tags are NaN, in compiled code too", function()
    local function reinterpret(words, name)
      local x = array.array(words, "uint32")
      local of = dtype.of(name)
      return view.new(of, { x.nbytes / of.itemsize }, nil, view.pointer(x), view.map(x), false)
    end
    local patterns = { 0xffffffff, 0xffc00001, 0xfff9ffff, 0xffc00000, 0x7fc00000, 0x7fffffff, 0xfffe0000, 0xffff7fff }
    local function all_nan(v, n)
      local found = 0
      for i = 0, n - 1 do
        local x = v(i)
        if type(x) == "number" and x ~= x then found = found + 1 end
        x = v[i]
        if type(x) == "number" and x ~= x then found = found + 1 end
      end
      for _, x in v:iter() do
        if type(x) == "number" and x ~= x then found = found + 1 end
      end
      return found
    end
    local many = {}
    for k = 1, 400 do many[k] = patterns[k % #patterns + 1] end
    assert.equal(3 * 400, all_nan(reinterpret(many, "float32"), 400))
    local doubles = {}
    for k, high in ipairs(many) do
      doubles[2 * k - 1], doubles[2 * k] = 0xdeadbeef, high > 0xfff80000 and high or 0xfff80001
    end
    assert.equal(3 * 400, all_nan(reinterpret(doubles, "float64"), 400))
    for _, x in ipairs(reinterpret(doubles, "float64"):totable()) do assert.is_true(x ~= x) end
    local z = reinterpret({ 0xffffffff, 0x3f800000, 0x3f800000, 0xffffffff }, "complex64")
    assert.is_true(type(z(0).re) == "number" and z(0).re ~= z(0).re)
    assert.same({ 1, 1 }, { z(0).im, z(1).re })
    assert.is_true(type(z(1).im) == "number" and z(1).im ~= z(1).im)
    local w = reinterpret({ 0, 0xffffffff, 0, 0x3ff00000, 0, 0x3ff00000, 0, 0xffffffff }, "complex128")
    assert.is_true(type(w(0).re) == "number" and w(0).re ~= w(0).re)
    assert.same({ 1, 1 }, { w(0).im, w(1).re })
    assert.is_true(type(w(1).im) == "number" and w(1).im ~= w(1).im)
    local negative = reinterpret({ 0xff800000, 0xbf800000, 0x80000000 }, "float32")
    assert.same({ -math.huge, -1, 0 }, negative:totable())
  end)
end)

describe("properties", function()
  it("are NumPy's", function()
    local v = read_only(counting("float32", { 2, 3 }))
    assert.same({ 2, 3 }, v.shape)
    assert.same({ 12, 4 }, v.strides)
    assert.equal(dtype.of("float32"), v.dtype)
    assert.same({ 2, 6, 24 }, { v.ndim, v.size, v.nbytes })
    assert.equal(2, #v)
    for _, n in ipairs { v.ndim, v.size, v.nbytes, #v, v.shape[1], v.strides[1] } do assert.equal("number", type(n)) end
    assert.same({ 4, 12 }, v:transpose().strides)
    assert.same({ 4, 12 }, { v:transpose().strides[1], v:transpose().strides[2] })
  end)

  it("are fresh lists that change nothing", function()
    local v = read_only(counting("float32", { 2, 3 }))
    v.shape[1] = 9
    v.strides[1] = 1000
    assert.same({ 2, 3 }, v.shape)
    assert.same({ 12, 4 }, v.strides)
    assert.equal(5, v(1, 2))
  end)

  it("that do not exist are an error", function()
    local v = read_only(counting("float32", 3))
    raises("no property 'foo'", function() local _ = v.foo end)
    raises("no property '1'", function() local _ = v["1"] end)
    raises("no property 'reshap'", function() local _ = v:reshap { 3 } end)
  end)

  it("data is typed, and const for a view", function()
    for _, name in ipairs { "bool", "int8", "uint16", "int64", "float32", "float64", "complex64" } do
      local x = array.new(name, 4)
      local c = dtype.of(name).ctype
      assert.is_true(ffi.istype(c .. " *", x.data))
      assert.is_true(ffi.istype("const " .. c .. " *", read_only(x).data))
      assert.is_false(pcall(ffi.copy, read_only(x).data, "xxxx", 1))
    end
    local x = counting("float32", { 3, 4 })
    assert.equal(x.data + 4, ffi.cast("float *", x[1].data))
  end)
end)

describe("a read-only view", function()
  it("refuses every way of writing", function()
    local x = counting("float32", 3)
    local m, v = read_only(x:reshape { 3, 1 }), read_only(x)
    raises("read%-only: cannot set %[0%]", function() m[0] = 1 end)
    raises("read%-only", function() v[0] = 1 end)
    raises("read%-only", function() v[7] = 1 end)
    raises("read%-only", function() v:set(0, 1) end)
    raises("read%-only", function() m:set(0, 0, 1) end)
    raises("read%-only", function() v:fill(1) end)
    raises("read%-only: cannot set 'anything'", function() v.anything = 1 end)
    for _, name in ipairs { "data", "shape", "ndim", "strides", "nbytes", "dtype", "iter" } do
      raises("read%-only: cannot set '" .. name .. "'", function() v[name] = 1 end)
    end
    raises("constant", function() v.data[0] = 1 end)
    raises("constant", function() v:slice(0, 2).data[0] = 1 end)
    raises("constant", function() m[0].data[0] = 1 end)
    assert.is_false(pcall(ffi.copy, v.data, "abc", 3))
    assert.is_false(pcall(ffi.fill, v.data, 4))
    assert.same({ 0, 1, 2 }, v:totable())
  end)

  it("has no member that can be written", function()
    local v = read_only(counting("float32", { 2, 3 })):transpose()
    local members = { "map", "sealed", "elements", "bits", "count", "n0", "n1", "s0", "s1" }
    for _, name in ipairs(members) do
      assert.is_true(pcall(function() return v[name] end), name .. " is no member any more")
      for _, value in ipairs { 0, 1e9, ffi.new("char[8]") } do
        local ok = pcall(function() v[name] = value end)
        assert.is_false(ok)
      end
    end
    assert.is_false(pcall(function() v.map = nil end))
    assert.is_false(pcall(function() v.sealed[0] = 0 end))
    assert.is_false(pcall(function() v.elements[0] = 0 end))
    assert.is_false(pcall(function() v.bits[0] = 0 end))
    assert.is_false(pcall(function() v.map.length = 0 end))
    assert.same({ { 0, 3 }, { 1, 4 }, { 2, 5 } }, v:totable())
  end)

  it("has no metatable to be had, and keeps its metatype", function()
    local v = read_only(counting("float32", 3))
    assert.is_false(pcall(ffi.metatype, ffi.typeof(v), {}))
    assert.is_false(pcall(setmetatable, v, {}))
  end)
end)

describe("an array", function()
  it("takes checked values at checked indices", function()
    local x, m = array.new("int32", 3), array.new("float32", { 2, 3 })
    x[1] = 5
    x:set(2, -6)
    m:set(1, 2, 0.5)
    assert.same({ 0, 5, -6 }, x:totable())
    assert.same({ { 0, 0, 0 }, { 0, 0, 0.5 } }, m:totable())
    raises("index 3 is out of bounds for axis 0 with size 3", function() x[3] = 1 end)
    raises("index 3 is out of bounds for axis 1 with size 3", function() m:set(0, 3, 1) end)
    raises("index 0.5 is not an integer", function() x[0.5] = 1 end)
    raises("must be a number, got string", function() x:set("0", 1) end)
    raises("cannot set '0' of an array", function() x["0"] = 1 end)
    raises("cannot set 'shape' of an array", function() x.shape = { 1 } end)
    raises("x:set%(i, ..., value%)", function() m[0] = 1 end)
    raises("2 indices and a value", function() m:set(0, 1) end)
    raises("2 indices and a value", function() m:set(0, 1, 2, 3) end)
    raises("1 indices and a value", function() x:set(0) end)
    raises("indices and a value", function() x[0] = nil end)
    raises("1.5 is not an integer, as int32", function() x[0] = 1.5 end)
    raises("nan", function() x[0] = 0 / 0 end)
    raises("2147483648 is out of range for int32", function() x[0] = 2 ^ 31 end)
    raises("a number expected, got string", function() x[0] = "1" end)
    raises("a number expected, got boolean", function() m:set(0, 0, true) end)
    raises("a number expected, got ctype<complex>", function() m:set(0, 0, ffi.new("complex")) end)
    raises("a number expected, got ctype<float %[2%]>", function()
      array.new("complex64", 1)[0] = ffi.new("float[2]")
    end)
    raises("a boolean expected, got number", function() array.new("bool", 1)[0] = 1 end)
    assert.same({ 0, 5, -6 }, x:totable())
    local b = array.new("bool", 1)
    b[0] = true
    b[0] = false
    assert.same({ false }, b:totable())
    local scalar = array.new("float64", {})
    scalar:set(3)
    assert.equal(3, scalar())
  end)

  local bounds = { -- name, least, most
    { "int8", -128, 127 }, { "uint8", 0, 255 }, { "int16", -32768, 32767 }, { "uint16", 0, 65535 },
    { "int32", -2 ^ 31, 2 ^ 31 - 1 }, { "uint32", 0, 2 ^ 32 - 1 },
  }
  for _, row in ipairs(bounds) do
    it("of " .. row[1] .. " takes what fits and nothing else", function()
      local name, least, most = unpack(row)
      local x = array.new(name, 1)
      for _, value in ipairs { least, most, ffi.cast("int64_t", least), ffi.cast("int64_t", most), 7ULL } do
        x[0] = value
        assert.equal(tonumber(value), x(0))
      end
      for _, value in ipairs { least - 1, most + 1, math.huge, -math.huge, -0x7fffffffffffffffLL,
        0x7fffffffffffffffLL, 0xffffffffffffffffULL } do
        assert.is_false(pcall(x.set, x, 0, value))
      end
    end)
  end

  it("of int64 and uint64 takes numbers and 64-bit cdata that fit", function()
    local i, u = array.new("int64", 1), array.new("uint64", 1)
    i[0] = -2 ^ 63
    assert.equal(-0x8000000000000000LL, i(0))
    i[0] = 5ULL
    assert.equal(5LL, i(0))
    u[0] = 2 ^ 63
    assert.equal(0x8000000000000000ULL, u(0))
    u[0] = 2 ^ 64 - 2048
    assert.equal(0xfffffffffffff800ULL, u(0))
    u[0] = 5LL
    assert.equal(5ULL, u(0))
    raises("9.2233720368548e%+18 is out of range for int64", function() i[0] = 2 ^ 63 end)
    raises("18446744073709551615 is out of range for int64", function() i[0] = -1ULL end)
    raises("%-1 is out of range for uint64", function() u[0] = -1 end)
    raises("%-1 is out of range for uint64", function() u[0] = -1LL end)
    raises("out of range for uint64", function() u[0] = 2 ^ 64 end)
    raises("not an integer", function() i[0] = 0.5 end)
  end)

  it("takes values through rows, slices and transposes", function()
    local x = array.new("int32", { 2, 3 })
    x[1][2] = 1
    x:slice(1)[0][0] = 2
    x:transpose():set(1, 0, 3)
    x:reshape { 6 }[2] = 4
    assert.same({ { 0, 3, 4 }, { 2, 0, 1 } }, x:totable())
  end)

  it("is filled, through strides too", function()
    local x = array.new("float16", { 3, 4 })
    x:fill(1.5)
    assert.same({ 1.5, 1.5, 1.5, 1.5 }, x[2]:totable())
    x:transpose():slice(1, 3):fill(0)
    assert.same({ 1.5, 0, 0, 1.5 }, x[0]:totable())
    assert.same({ 1.5, 0, 0, 1.5 }, x[2]:totable())
    x:transpose()[0]:fill(7)
    assert.same({ 7, 0, 0, 1.5 }, x[1]:totable())
    raises("a number expected", function() x:fill("1") end)
  end)

  it("turns read-only with all that shares its memory when it is frozen", function()
    local x = counting("float32", { 2, 3 })
    local row, part, turned = x[1], x:slice(0, 1), x:transpose()
    assert.is_true(view.is_writable(x) and view.is_writable(row))
    local function write() row[0] = 5 end
    for _ = 1, 200 do write() end -- compiled
    view.freeze(x)
    raises("read%-only", function() row[0] = 1 end)
    assert.is_false(pcall(write))
    raises("read%-only", function() part:set(0, 0, 1) end)
    raises("read%-only", function() turned:set(0, 0, 1) end)
    raises("read%-only", function() x:fill(1) end)
    raises("constant", function() x.data[0] = 1 end)
    raises("constant", function() row.data[0] = 1 end)
    assert.is_false(view.is_writable(x) or view.is_writable(row) or view.is_writable(x[0]))
    assert.same({ { 0, 1, 2 }, { 5, 4, 5 } }, x:totable())
  end)

  it("frozen in the middle of a compiled loop is read-only from then on", function()
    local x = array.new("float32", 1000)
    local done = 0
    local ok = pcall(function()
      for i = 0, 999 do
        if i == 500 then view.freeze(x) end
        x[i] = 1
        done = done + 1
      end
    end)
    assert.is_false(ok)
    assert.equal(500, done)
  end)

  it("is read-only as soon as its map carries a header", function()
    local x = counting("float32", 3)
    local row = x:slice(1)
    view.map(x).array.order = string.byte("<")
    raises("read%-only", function() row[0] = 1 end)
  end)
end)

describe("slice", function()
  it("is half open, to the end by default", function()
    local v = read_only(counting("int32", { 4, 2 }))
    assert.same({ { 2, 3 }, { 4, 5 } }, v:slice(1, 3):totable())
    assert.same({ { 6, 7 } }, v:slice(3):totable())
    assert.same({ 0, 2 }, v:slice(4).shape)
    assert.same({ 0, 2 }, v:slice(2, 2).shape)
    assert.same({ { 1, 3 } }, v:transpose():slice(1):transpose():slice(0, 2):transpose():totable())
  end)

  it("refuses what is no part", function()
    local v = read_only(counting("int32", 4))
    raises("slice 2 to 5 is out of bounds for axis 0 with size 4", function() v:slice(2, 5) end)
    raises("out of bounds", function() v:slice(-1) end)
    raises("out of bounds", function() v:slice(3, 2) end)
    raises("out of bounds", function() v:slice(5) end)
    raises("integers", function() v:slice(0.5) end)
    raises("integers", function() v:slice(0, 0 / 0) end)
    raises("integers", function() v:slice(0, math.huge) end)
    raises("integers", function() v:slice() end)
    raises("integers", function() v:slice("0") end)
    raises("colon", function() v.slice(0, 1) end)
  end)
end)

describe("reshape", function()
  it("gives the same elements another shape, and works one size out", function()
    local v = read_only(counting("int32", { 2, 6 }))
    assert.same({ 3, 4 }, v:reshape({ 3, 4 }).shape)
    assert.equal(11, v:reshape({ 3, 4 })(2, 3))
    assert.same({ 3, 2, 2 }, v:reshape({ 3, -1, 2 }).shape)
    assert.same({ 12 }, v:reshape({ -1 }).shape)
    assert.same({ 12 }, v:reshape(12).shape)
    assert.same({}, v:slice(0, 1):transpose():slice(0, 1):reshape({}).shape)
    assert.same({ 0, 5 }, v:slice(0, 0):reshape({ 0, 5 }).shape)
    assert.same({ 0, 5 }, v:slice(0, 0):reshape({ -1, 5 }).shape)
  end)

  it("refuses what does not hold the same elements", function()
    local v = read_only(counting("int32", { 2, 6 }))
    raises("cannot reshape an array of size 12 into shape %(5,%)", function() v:reshape { 5 } end)
    raises("cannot reshape", function() v:reshape { 5, -1 } end)
    raises("cannot reshape", function() v:reshape { 0, -1 } end)
    raises("cannot reshape", function() v:slice(0, 0):reshape { 0, -1 } end)
    raises("cannot reshape", function() v:reshape {} end)
    raises("axis 1 must be", function() v:reshape { -1, -1 } end)
    raises("axis 0 must be", function() v:reshape { -2, -6 } end)
    raises("axis 0 must be", function() v:reshape { 1.5, 8 } end)
    raises("axis 0 must be", function() v:reshape { "12" } end)
    raises("axis 0 must be", function() v:reshape { 0 / 0 } end)
    raises("list of sizes", function() v:reshape() end)
    raises("list of sizes", function() v:reshape("12") end)
    raises("too large", function() v:reshape { 2 ^ 40, 2 ^ 40 } end)
  end)

  it("needs C order, or says to copy", function()
    local v = read_only(counting("int32", { 2, 6 }))
    raises("sharearray.array%(v%)", function() v:transpose():reshape { 12 } end)
    assert.same({ 0, 6, 1 }, array.array(v:transpose()):reshape({ 12 }):slice(0, 3):totable())
    -- axes of size 1 do not count, and without elements none does
    assert.same({ 0 }, array.new("int8", { 0, 3, 2 }):transpose():reshape({ 0 }).shape)
    assert.same({ 2, 3 }, read_only(counting("int32", { 6, 1 })):transpose():reshape({ 2, 3 }).shape)
  end)
end)

describe("what leaves a view", function()
  it("totable: nested lists from 1", function()
    assert.same({ { { 0, 1 } }, { { 2, 3 } } }, read_only(counting("uint8", { 2, 1, 2 })):totable())
    assert.equal(7, array.array(7):totable())
    assert.same({ {}, {} }, array.new("int8", { 2, 0 }):totable())
    assert.same({}, array.new("int8", { 0, 2 }):totable())
  end)

  it("string: the bytes in C order, for every element size", function()
    for _, name in ipairs { "int8", "int16", "int32", "int64", "complex128" } do
      local x = counting(name, { 3, 4, 5 })
      local turned = x:transpose()
      local size = x.dtype.itemsize
      assert.equal(ffi.string(ffi.cast("char *", x.data), 60 * size), x:string())
      local expected = {}
      for k = 0, 4 do
        for j = 0, 3 do
          for i = 0, 2 do
            local at = (i * 4 + j) * 5 + k
            expected[#expected + 1] = x:string():sub(at * size + 1, (at + 1) * size)
          end
        end
      end
      assert.equal(table.concat(expected), turned:string())
      assert.equal(x:string(), turned:transpose():string())
    end
  end)

  it("string: NaN payloads as they are", function()
    local bytes = ("\1\0\160\127"):rep(4)
    local x = array.array(bytes, "float32")
    assert.equal(bytes, x:string())
    assert.equal(bytes, x:reshape({ 2, 2 }):transpose():string())
    assert.equal(bytes, array.array(x:reshape({ 2, 2 }):transpose()):string())
  end)

  it("pieces: all bytes once, none longer than the limit", function()
    local x = counting("int16", { 4, 3, 5 })
    for _, v in ipairs { x, x:transpose(), x:transpose():slice(1, 4), x:slice(1, 3), x[2]:transpose() } do
      for _, limit in ipairs { 1, 2, 3, 7, 64, 1e6 } do
        local parts = {}
        for pointer, bytes in view.pieces(v, limit) do
          assert.is_true(bytes > 0 and bytes <= math.max(limit, 2))
          parts[#parts + 1] = ffi.string(pointer, bytes)
        end
        assert.equal(v:string(), table.concat(parts))
      end
    end
    for _ in view.pieces(array.new("int8", { 0, 3 }), 10) do error("a piece of nothing") end
    local scalar = {}
    for pointer, bytes in view.pieces(array.array(1, "int16"), 10) do scalar[1] = ffi.string(pointer, bytes) end
    assert.same({ "\1\0" }, scalar)
  end)

  it("pieces: go on when the view is closed meanwhile", function()
    local x = counting("int8", 10)
    local parts = {}
    for pointer, bytes in view.pieces(x, 4) do
      x:close()
      collect()
      parts[#parts + 1] = ffi.string(pointer, bytes)
    end
    assert.equal("\0\1\2\3\4\5\6\7\8\9", table.concat(parts))
  end)

  it("iter: elements of dimension 1, rows of more", function()
    local seen = {}
    for i, x in read_only(counting("int32", 3)):iter() do seen[#seen + 1] = { i, x } end
    assert.same({ { 0, 0 }, { 1, 1 }, { 2, 2 } }, seen)
    local rows = {}
    for i, row in read_only(counting("int32", { 2, 2 })):iter() do rows[i] = row:totable() end
    assert.same({ [0] = { 0, 1 }, { 2, 3 } }, rows)
    for _ in read_only(array.new("int32", 0)):iter() do error("an element of nothing") end
  end)
end)

describe("memory", function()
  it("lives as long as the last view of it", function()
    local map = private_map(24)
    local x = view.new(dtype.of("float32"), { 2, 3 }, nil, map.base, map, true)
    assert.equal(2, references(map))
    local others = { x[1], x:slice(0, 1), x:reshape { 6 }, x:transpose(), x:transpose()[0] }
    collect() -- the transpose that the last row came from
    assert.equal(7, references(map))
    x:set(1, 2, 9)
    x:close()
    assert.equal(6, references(map))
    assert.equal(9, others[1](2))
    assert.equal(9, others[4](2, 1))
    others = nil
    collect()
    assert.equal(1, references(map))
    assert.is_nil(others)
    C.sharearray_unref(map)
  end)

  it("is dropped by rows made in compiled loops", function()
    local map = private_map(4000)
    local x = view.new(dtype.of("float32"), { 100, 10 }, nil, map.base, map, false)
    local s = 0
    for _ = 1, 20 do
      for i = 0, 99 do s = s + x[i](3) end
    end
    for _, row in x:iter() do s = s + row(0) end
    collect()
    assert.equal(2, references(map))
    assert.equal(0, s)
    C.sharearray_unref(map)
  end)
end)

describe("close", function()
  it("makes any later use an error", function()
    for _, v in ipairs { read_only(counting("float32", 3)), counting("float32", 3),
      read_only(counting("int8", { 2, 3 })):transpose(), array.array(5), counting("complex64", { 1, 1 }) } do
      local zeros = {}
      for axis = 1, v.ndim do zeros[axis] = 0 end
      v:close()
      v:close()
      raises("closed", function() local _ = v(unpack(zeros)) end)
      raises("closed", function() local _ = #v end)
      raises("closed", function() v:set(0, 0) end)
      raises("closed", function() v:fill(0) end)
      raises("closed", function() local _ = v:tonumber() end)
      raises("closed", function() local _ = v:string() end)
      for _, name in ipairs { "data", "shape", "strides", "dtype", "ndim", "size", "nbytes" } do
        raises("closed", function() local _ = v[name] end)
        raises("closed", function() v[name] = 1 end)
      end
      for _, name in ipairs { "slice", "reshape", "transpose", "totable", "iter" } do
        raises("closed", function() v[name](v, 0) end)
      end
      if #zeros > 0 then
        raises("closed", function() local _ = v[0] end)
        raises("closed", function() v[0] = 1 end)
      end
      assert.is_true(view.is(v))
      assert.is_false(view.is_writable(v))
      view.freeze(v)
      assert.is_false(pcall(array.array, v))
    end
  end)

  it("in the middle of a compiled loop stops the next access", function()
    local v = read_only(counting("float32", 1000))
    local done = 0
    local ok, message = pcall(function()
      for i = 0, 999 do
        if i == 500 then v:close() end
        done = done + 1 + v(i) * 0
      end
    end)
    assert.is_false(ok)
    assert.matches("closed", message)
    assert.equal(500, done)
  end)

  it("in an iteration ends it with the error", function()
    for _, v in ipairs { counting("int8", 100), counting("int8", { 100, 2 }) } do
      raises("closed", function()
        for _ in v:iter() do v:close() end
      end)
    end
  end)

  it("is safe for what the collector finalizes in any order", function()
    local seen = {}
    for _ = 1, 50 do
      local holder = { v = counting("float32", 3), guard = newproxy(true) }
      getmetatable(holder.guard).__gc = function()
        local ok, result = pcall(function() return holder.v(2) end)
        seen[#seen + 1] = ok and result or result:match("closed")
      end
    end
    collect()
    assert.equal(50, #seen)
    for _, x in ipairs(seen) do assert.is_true(x == 2 or x == "closed") end
  end)
end)

describe("very large arrays", function()
  local function sparse(name, shape)
    local of = dtype.of(name)
    local bytes = of.itemsize
    for _, n in ipairs(shape) do bytes = bytes * n end
    local map = private_map(bytes)
    local x = view.new(of, shape, nil, map.base, map, true)
    C.sharearray_unref(map)
    return x
  end

  it("of more than 2^32 elements are indexed right", function()
    local n = 5 * 2 ^ 30
    local x = sparse("uint8", { n })
    assert.equal(n, #x)
    assert.equal(n, x.size)
    for _, i in ipairs { 0, 2 ^ 31 - 1, 2 ^ 31, 2 ^ 32 - 1, 2 ^ 32, 2 ^ 32 + 1, n - 1 } do x[i] = 1 + i % 251 end
    for _, i in ipairs { 0, 2 ^ 31 - 1, 2 ^ 31, 2 ^ 32 - 1, 2 ^ 32, 2 ^ 32 + 1, n - 1 } do
      assert.equal(1 + i % 251, x(i))
      assert.equal(1 + i % 251, x[i])
    end
    assert.equal(0, x(5))
    raises("index 5368709120 is out of bounds for axis 0 with size 5368709120", function() local _ = x(n) end)
    raises("too many for a Lua string", function() local _ = x:string() end)
    local s = 0
    for i = 2 ^ 32 - 200, 2 ^ 32 + 200 do s = s + x(i) end
    assert.equal(1 + (2 ^ 32 - 1) % 251 + 1 + 2 ^ 32 % 251 + 1 + (2 ^ 32 + 1) % 251, s)
    local tail = x:slice(2 ^ 32)
    assert.same({ n - 2 ^ 32 }, tail.shape)
    assert.equal(1 + 2 ^ 32 % 251, tail(0))
    assert.matches("shape=%(5368709120,%)", tostring(x))
  end)

  it("of two dimensions and wide strides are indexed right", function()
    local x = sparse("float32", { 40000, 30000 })
    x:set(39999, 29999, 2)
    x:set(20000, 7, 3)
    assert.equal(2, x(39999, 29999))
    assert.equal(2, x[39999](29999))
    assert.equal(2, x:transpose()(29999, 39999))
    assert.equal(3, x:transpose()[7][20000])
    assert.equal(2, x:reshape({ -1 })[40000 * 30000 - 1])
    local y = sparse("uint8", { 3, 2 ^ 31 })
    y:set(2, 2 ^ 31 - 1, 9)
    assert.equal(9, y(2, 2 ^ 31 - 1))
    assert.equal(9, y:transpose()(2 ^ 31 - 1, 2))
    assert.equal(9, y[2][2 ^ 31 - 1])
  end)

  it("of few elements far apart are indexed right", function()
    local x = sparse("uint8", { 5 * 2 ^ 30 })
    x[3 * 2 ^ 30] = 7
    local v = view.new(x.dtype, { 2, 1 }, { 3 * 2 ^ 30, 1 }, view.pointer(x), view.map(x), false)
    assert.equal(7, v(1, 0))
    assert.equal(7, v[1][0])
    assert.same({ { 0 }, { 7 } }, v:totable())
    assert.equal("\0\7", v:string())
  end)

  it("with a zero somewhere keep their sizes", function()
    local x = array.new("float32", { 0, 2 ^ 40 })
    assert.same({ 0, 2 ^ 40 }, x.shape)
    assert.same({ 2 ^ 40, 0 }, x:transpose().shape)
    assert.equal(0, x.nbytes)
  end)
end)

describe("view.is", function()
  it("knows views and nothing else", function()
    local x = array.new("int8", { 2, 2 })
    for _, v in ipairs { x, x[0], x:transpose(), read_only(x), array.array(1) } do assert.is_true(view.is(v)) end
    local others = { 1, "x", true, {}, print, ffi.new("float[3]"), ffi.new("int"), 1LL, ffi.typeof("int"),
      ffi.new("struct { int map; }"), ffi.cast("void *", 0), ffi.new("complex"), x.data, C }
    for _, other in pairs(others) do assert.is_false(view.is(other)) end
    assert.is_false(view.is(nil))
  end)

  it("does not take the C type of a view for one", function()
    local ct = ffi.typeof(counting("float32", { 2, 3 }))
    assert.is_false(view.is(ct))
    for _, name in ipairs { "data", "shape", "size", "map" } do
      assert.is_false(pcall(function() return ct[name] end))
    end
    assert.is_false(pcall(function() return ct[0] end))
    assert.is_false(pcall(function() return #ct end))
    assert.is_false(pcall(function() return ct.slice(ct, 0) end))
    assert.is_false(pcall(function() ct[0] = 1 end))
    assert.is_false(pcall(array.array, ct))
    assert.equal("array(closed)", tostring(ct())) -- made of nothing, it is a closed one
  end)

  it("works beside another copy of the library in the same process", function()
    local saved = {}
    for name in pairs(package.loaded) do
      if type(name) == "string" and name:match("^sharearray") then saved[name] = package.loaded[name] end
    end
    for name in pairs(saved) do package.loaded[name] = nil end
    local other = require "sharearray.array"
    local other_view = require "sharearray.view"
    for name in pairs(saved) do package.loaded[name] = saved[name] end
    assert.not_equal(array, other)
    local theirs, ours = other.array { 1, 2, 3 }, array.array { 4, 5 }
    assert.equal(2, theirs(1))
    assert.equal(5, ours(1))
    assert.is_true(other_view.is(theirs))
    assert.is_true(view.is(ours))
    assert.is_false(view.is(theirs))
    theirs:close()
    assert.is_false(pcall(function() return theirs(0) end))
  end)
end)
