-- The elements of every dtype: read, written, and what is refused.

local ffi = require "ffi"
local machine = require "support.machine"
local views = require "support.views"
local array = require "sharearray.array"
local dtype = require "sharearray.dtype"
local instance = require "sharearray.instance"
local view = require "sharearray.view"

local read_only, counting, raises = views.read_only, views.counting, views.raises

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
    raises("complex64 is no Lua number", function()
      local x = array.new("complex64", 1)
      x:set(0, ffi.new("complex", 0 / 0, 1))
      return (x:tonumber(0))
    end)
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
    local v = instance.new(dtype.of("bool"), { 4 }, nil, instance.pointer(x), view.map(x), false)
    assert.same({ false, true, true, true }, v:totable())
  end)

  it("float16 are right for all 65536 patterns", function()
    local bits = array.new("uint16", 65536)
    for k = 0, 65535 do bits.data[k] = k end
    local v = instance.new(dtype.of("float16"), { 65536 }, nil, instance.pointer(bits), view.map(bits), false)
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

  it("float16 are right where two are set in one compiled loop", function()
    local x = array.new("float16", 2)
    for k = 1, 100 do
      local a, b = 2 ^ (k % 20 - 10) * 1.25, 2 ^ ((k * 7) % 20 - 10) * 1.5
      for _ = 1, 100 do
        x[0], x[1] = a, b
        assert(x[0] == a and x[1] == b)
      end
    end
  end)

  -- In compiled code the type of a float that was loaded is a constant: it is for interpreted code to look.
  local function nans_among(list, count)
    local found = 0
    for i = 1, count do
      local x = list[i]
      if type(x) == "number" and x ~= x then found = found + 1 end
    end
    return found
  end
  jit.off(nans_among)

  -- LuaJIT takes some NaNs for tagged values: nil, or a table at an address the file chooses.
  local function reinterpret(words, name)
    local x = array.array(words, "uint32")
    local of = dtype.of(name)
    return instance.new(of, { x.nbytes / of.itemsize }, nil, instance.pointer(x), view.map(x), false)
  end

  it("with the bits of LuaJIT's type tags are NaN, in compiled code too", function()
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
    local infinite = reinterpret({ 0xff800000, 0xbf800000, 0x80000000, 0x7f800000 }, "float32")
    assert.same({ -math.huge, -1, 0, math.huge }, infinite:totable())
    infinite = reinterpret({ 0, 0xfff00000, 0, 0x7ff00000 }, "float64")
    assert.same({ -math.huge, math.huge }, infinite:totable())
  end)

  -- A calculation sets the bit that makes a signalling NaN a quiet one, and a negation the sign: of neither may come
  -- the bits of a tag.
  it("stay NaN, whatever is calculated with them", function()
    local floats, doubles = {}, {}
    for _, sign in ipairs { 0, 0x80000000 } do
      for _, mantissa in ipairs { 1, 2, 0xfff, 0x10000, 0x1fffff, 0x200000, 0x3fffff, 0x400000, 0x400001, 0x7fffff } do
        floats[#floats + 1] = sign + 0x7f800000 + mantissa
      end
      for _, high in ipairs { 0, 1, 0x1ffff, 0x20000, 0x7ffff, 0x80000, 0x80001, 0xfffff } do
        for _, low in ipairs { 1, 0x7fffffff, 0xffffffff } do
          doubles[#doubles + 1], doubles[#doubles + 2] = low, sign + 0x7ff00000 + high
        end
      end
    end
    local calculated = {
      function(x) return x end, function(x) return -x end, function(x) return x + 1 end,
      function(x) return -(x * 2) end, function(x) return -x - 1 end, math.abs, math.sqrt,
      function(x) return -math.floor(x) end,
    }
    local results = {}
    local function all_stay(v, get, n)
      local count = 0
      for i = 0, n - 1 do
        for _, calculate in ipairs(calculated) do
          count = count + 1
          results[count] = calculate(get(v, i))
        end
      end
      assert.equal(count, nans_among(results, count))
    end
    local function call(v, i) return v(i) end
    local function index(v, i) return v[i] end
    local function number(v, i) return v:tonumber(i) end
    local function real(v, i) return v(i).re end
    local function imaginary(v, i) return v(i).im end
    for _ = 1, 20 do -- interpreted, then compiled
      for _, get in ipairs { call, index, number } do
        all_stay(reinterpret(floats, "float32"), get, #floats)
        all_stay(reinterpret(doubles, "float64"), get, #doubles / 2)
      end
      for _, get in ipairs { real, imaginary } do
        all_stay(reinterpret(floats, "complex64"), get, #floats / 2)
        all_stay(reinterpret(doubles, "complex128"), get, #doubles / 4)
      end
    end
  end)
end)

-- LuaJIT takes it that to store a float changes no integer, and the bits of a float are looked at as such.
describe("elements of an array, in compiled code", function()
  local NAN, TIMES = 0 / 0, 3000

  -- How often `again(i, value)`, which reads, writes and reads, does not give back what it wrote.
  local function wrong(again)
    local count = 0
    for i = 1, TIMES do
      local value = (i <= TIMES / 3 or i % 3 == 0) and NAN or i
      local read = again(i, value)
      if not (read == value or read ~= read and value ~= value) then count = count + 1 end
    end
    return count
  end

  for _, name in ipairs { "float32", "float64" } do
    it("are what was written just before, of " .. name, function()
      local x, m = array.new(name, 3), array.new(name, { 2, 3 })
      local turned, data = m:transpose(), m.data
      local sink
      local ways = {
        call = function(_, value) sink = x(1); x[1] = value; return x(1) end,
        index = function(_, value) sink = x[1]; x[1] = value; return x[1] end,
        number = function(_, value) sink = x:tonumber(1); x:set(1, value); return x:tonumber(1) end,
        ["the same index by another name"] = function(i, value)
          local one, other = i % 3, (i + 3) % 3
          sink = x(one)
          x[other] = value
          return x(one)
        end,
        ["two indices"] = function(_, value) sink = m(1, 2); m:set(1, 2, value); return m(1, 2) end,
        row = function(_, value) sink = m(1, 2); m[1][2] = value; return m(1, 2) end,
        transposed = function(_, value) sink = turned(2, 1); m:set(1, 2, value); return turned(2, 1) end,
        data = function(_, value) sink = m(1, 2); data[5] = value; return m(1, 2) end,
        fill = function(_, value) sink = x(1); x:fill(value); return x(1) end,
      }
      for way, again in pairs(ways) do assert.equal(way .. 0, way .. wrong(again)) end
      assert(sink)
    end)
  end

  it("are what was written just before, of records", function()
    local of = dtype.of { { "a", "float32" }, { "b", "float64" } }
    local records = array.array({ { a = 1, b = 2 }, { a = 3, b = 4 } }, of)
    local record, field = records[1], records:field "b"
    local sink
    local ways = {
      record = function(_, value) sink = record.a; record.a = value; return record.a end,
      ["through the field"] = function(_, value) sink = record.b; field[1] = value; return record.b end,
      ["of the field"] = function(_, value) sink = field(1); record.b = value; return field(1) end,
    }
    for way, again in pairs(ways) do assert.equal(way .. 0, way .. wrong(again)) end
    assert(sink)
  end)

  it("are NaN although they were none a moment ago", function()
    assert.equal("0", machine.worker([[
      local ffi = require "ffi"
      local x, bits, after = sharearray.array({ 1, 2 }, "float64"), ffi.new "uint64_t[3000]", {}
      for i = 0, 2999 do bits[i] = i < 1500 and 0x3ff0000000000000ULL or 0xffffffffffffffffULL end
      for i = 0, 2999 do
        local before = x(1)
        ffi.cast("uint64_t *", x.data)[1] = bits[i]
        after[i] = x(1)
      end
      local others = 0
      for i = 0, 2999 do
        if after[i] == nil then others = others + 1 end
      end
      say(others)
    ]]):finish():match "%S+")
  end)

  -- Both components NaNs, then both 1, or the second still a NaN.
  it("are what was stored as integers, of complex numbers", function()
    assert.equal("0 0", machine.worker([[
      local ffi = require "ffi"
      local function other(x) return type(x) ~= "number" or x ~= 1 end -- of what was read when that was right
      jit.off(other)
      local function count(dtype, word, tagged, one)
        local x = sharearray.array({ 0 }, dtype)
        local words, bits, after = ffi.cast(word, x.data), ffi.new("uint64_t[2]", tagged, one), {}
        local function run()
          for i = 1, 3000 do
            words[0], words[1] = bits[0], bits[0]
            local before = x(0)
            words[0], words[1] = bits[1], bits[i % 2]
            after[i] = x(0).re
          end
        end
        run()
        local others = 0
        for i = 1, 3000 do
          if other(after[i]) then others = others + 1 end
        end
        return others
      end
      say(count("complex64", "uint32_t *", 0xffffffff, 0x3f800000) .. " "
        .. count("complex128", "uint64_t *", 0xffffffffffffffffULL, 0x3ff0000000000000ULL))
    ]]):finish():match "%S+ %S+")
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
    raises("must be a number, got cdata; tonumber", function() x[0LL] = 1 end)
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
    assert.is_true(instance.is_writable(x) and instance.is_writable(row))
    local function write() row[0] = 5 end
    for _ = 1, 200 do write() end -- compiled
    instance.freeze(x)
    raises("read%-only", function() row[0] = 1 end)
    assert.is_false(pcall(write))
    raises("read%-only", function() part:set(0, 0, 1) end)
    raises("read%-only", function() turned:set(0, 0, 1) end)
    raises("read%-only", function() x:fill(1) end)
    raises("constant", function() x.data[0] = 1 end)
    raises("constant", function() row.data[0] = 1 end)
    assert.is_false(instance.is_writable(x) or instance.is_writable(row) or instance.is_writable(x[0]))
    assert.same({ { 0, 1, 2 }, { 5, 4, 5 } }, x:totable())
  end)

  it("frozen in the middle of a compiled loop is read-only from then on", function()
    local x = array.new("float32", 1000)
    local done = 0
    local ok = pcall(function()
      for i = 0, 999 do
        if i == 500 then instance.freeze(x) end
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
