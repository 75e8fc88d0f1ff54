-- Elements that are strings, dates and time spans, and bfloat16.

local ffi = require "ffi"
local views = require "support.views"
local array = require "sharearray.array"
local dtype = require "sharearray.dtype"
local text = require "sharearray.text"

local read_only, raises = views.read_only, views.raises

describe("a dtype with a size or a unit", function()
  local NAMES = { -- name, kind, itemsize, descr, unit, other names
    { "S10", "S", 10, "|S10", nil, "|S10", "<S10" }, { "S0", "S", 0, "|S0", nil, "|S0" },
    { "U5", "U", 20, "<U5", nil, "<U5", "=U5" }, { "U0", "U", 0, "<U0", nil, ">U0" },
    { "V2", "V", 2, "|V2", nil, "|V2" },
    { "datetime64[ns]", "M", 8, "<M8[ns]", "ns", "M8[ns]", "<M8[1ns]" },
    { "datetime64[25s]", "M", 8, "<M8[25s]", "25s", "<M8[025s]" }, { "datetime64", "M", 8, "<M8", nil, "M8" },
    { "timedelta64[D]", "m", 8, "<m8[D]", "D", "=m8[D]" }, { "timedelta64", "m", 8, "<m8", nil, "m8" },
  }
  for _, row in ipairs(NAMES) do
    it(row[1] .. " has one object under all its names", function()
      local d = assert(dtype.of(row[1]))
      assert.same({ row[1], row[2], row[3], row[4], row[5] }, { d.name, d.kind, d.itemsize, d.descr, d.unit })
      assert.equal(row[1], tostring(d))
      assert.equal(row[3], ffi.sizeof(d.ctype))
      for i = 4, 7 do
        if row[i] and i ~= 5 then assert.equal(d, dtype.of(row[i])) end
      end
      assert.equal(d, dtype.from_descr(row[4], 1))
      assert.is_false(pcall(function() d.unit = "s" end))
    end)
  end

  it("is refused by name where there is none", function()
    for _, name in ipairs { "S", "S-1", "Sx", "s10", "U1.5", "V", "M8[]", "M8[xs]", "M8[0s]", "M8[s", "M8[s]x", "M4[s]",
      "datetime64[]", "datetime64[9999999999s]", "float64[s]", "bytes10" } do
      local d, message = dtype.of(name)
      assert.is_nil(d)
      assert.matches("unknown dtype .*complex128", message)
    end
    for _, name in ipairs { ">U1", ">M8[s]", ">m8" } do
      assert.matches("big%-endian dtype", select(2, dtype.of(name)))
    end
    assert.matches("more than 2^30 bytes", select(2, dtype.of("S1073741825")), 1, true)
    assert.matches("more than 2^30 bytes", select(2, dtype.of("U268435457")), 1, true)
  end)
end)

describe("strings", function()
  it("of S are bytes without the NULs at the end", function()
    local x = array.array({ "ab", "a\0b", "", "\255\0\0", "abc" }, "S3")
    assert.equal("ab\0a\0b\0\0\0\255\0\0abc", x:string())
    assert.same({ "ab", "a\0b", "", "\255", "abc" }, read_only(x):totable())
    x[4] = "z"
    assert.equal("z", x(4))
    raises("4 bytes do not fit S3", function() x[0] = "abcd" end)
    raises("a string expected, got number", function() x[0] = 1 end)
    raises("S3 is no Lua number", function() local _ = x:tonumber(0) end)
    assert.equal("ab", x[0])
  end)

  it("of U are UTF-8 here and UTF-32 there", function()
    local x = array.array({ "äb", "中\240\159\152\128!", "" }, "U3")
    assert.equal("\228\0\0\0b\0\0\0\0\0\0\0", x:slice(0, 1):string())
    assert.same({ "äb", "中\240\159\152\128!", "" }, read_only(x):totable())
    raises("'abcd' has more than 3 characters", function() x[0] = "abcd" end)
    raises("not UTF%-8 at byte 2", function() x[0] = "a\255" end)
    for _, bad in ipairs { "\128", "\192\128", "\193\191", "\224\159\191", "\237\160\128", "\240\143\191\191",
      "\244\144\128\128", "\245\128\128\128", "\228", "\228\184", "\240\159\152", "\228a" } do
      assert.is_false(pcall(x.set, x, 0, bad))
    end
    assert.equal("äb", x[0])
  end)

  it("of U with code points that are none show U+FFFD", function()
    local words = array.array({ 0xd800, 0x110000, 0xffffffff, 0x10ffff }, "uint32")
    local x = array.array(words:string(), "U4")
    assert.equal("\239\191\189\239\191\189\239\191\189\244\143\191\191", x(0))
  end)

  it("of U go through every code point", function()
    local count = 0
    for code = 1, 0x10ffff, 37 do
      if code < 0xd800 or code > 0xdfff then
        local s, found = text.encode({ [0] = code }, 1), nil
        for _, c in text.codes(s) do found = c end
        assert(found == code)
        count = count + 1
      end
    end
    assert.is_true(count > 30000)
  end)

  it("of V are all of the bytes", function()
    local x = array.array({ "\0\0\0", "a\0\0" }, "V3")
    assert.same({ "\0\0\0", "a\0\0" }, x:totable())
    raises("V3 is exactly 3 bytes, got 2", function() x[0] = "ab" end)
  end)

  it("of no length are empty", function()
    local x = array.new("S0", 3)
    assert.same({ "", "", "" }, x:totable())
    assert.equal("", x:string())
    assert.equal(0, x.nbytes)
    raises("do not fit S0", function() x[0] = "a" end)
    for _ in require("sharearray.layout").pieces(x, 10) do end
    assert.is_false(pcall(array.array, "abc", "S0"))
  end)

  it("are sliced, turned, filled, copied and shown as other elements are", function()
    local x = array.array({ { "a", "b" }, { "c", "d" }, { "e", "it's\n" } }, "S5")
    assert.same({ { "a", "c", "e" }, { "b", "d", "it's\n" } }, x:transpose():totable())
    assert.same({ "c", "d" }, x[1]:totable())
    assert.equal(array.array(x:transpose()):string(), x:transpose():string())
    assert.equal("array([['a', 'b'],\n       ['c', 'd']], dtype=S5, shape=(2, 2))", tostring(x:slice(0, 2)))
    assert.matches("'it\\'s\\x0a'", tostring(x), 1, true)
    -- What commands a terminal, ends a line or turns the order of what follows; the others are shown as they are.
    local codes = array.array({ 0x41, 0x9b, 0x2028, 0x202e, 0x2069, 0xa1, 0x2030, 0xe9 }, "uint32"):string()
    assert.matches("'A\\x9b\\u2028\\u202e\\u2069\194\161\226\128\176\195\169'",
      tostring(array.array(codes, "<U8")), 1, true)
    x:transpose():slice(0, 1):fill("q")
    assert.same({ "q", "b", "q", "d", "q", "it's\n" }, x:reshape({ 6 }):totable())
  end)

  it("cannot be written through a view's data", function()
    local x = read_only(array.array({ "ab" }, "S3"))
    raises("constant", function() x.data[0].bytes[1] = 1 end)
    raises("constant", function() read_only(array.new("U2", 1)).data[0].characters[0] = 1 end)
    raises("read%-only", function() x[0] = "b" end)
    array.new("S3", 1).data[0].bytes[1] = 1
  end)
end)

describe("dates and time spans", function()
  it("are int64 with the unit in the dtype", function()
    local x = array.array({ 1LL, -5 }, "datetime64[ns]")
    assert.is_true(ffi.istype("int64_t", x[0]) and x[1] == -5LL)
    assert.equal("ns", x.dtype.unit)
    assert.equal("array([ 1, -5], dtype=datetime64[ns], shape=(2,))", tostring(x))
    assert.equal(-5, x:tonumber(1))
    assert.equal(dtype.of("int64"), array.array(x, "int64").dtype)
  end)
end)

describe("bfloat16", function()
  local raw = array.array({ "\128\63", "\0\192", "\128\127", "\192\255", "\255\255", "\1\0" }, "V2")

  it("is bytes, and numbers by :bfloat16(), of the same memory", function()
    local v = read_only(raw)
    assert.equal("\128\63", v(0))
    local numbers = v:bfloat16()
    assert.same({ 1, -2, math.huge }, numbers:slice(0, 3):totable())
    for i = 3, 4 do assert.is_true(type(numbers(i)) == "number" and numbers(i) ~= numbers(i)) end
    assert.equal(2 ^ -133, numbers(5))
    assert.equal(-2, numbers:tonumber(1))
    assert.equal(ffi.cast("const void *", v.data), ffi.cast("const void *", numbers.data))
    assert.same({ 1, -2 }, array.array(numbers:slice(0, 2), "float32"):totable())
    raises("V2 expected, got float32", function() array.new("float32", 1):bfloat16() end)
    raises("read%-only", function() numbers[0] = 1 end)
  end)

  it("is made from numbers too, and is V2 in a file", function()
    local x = array.array({ 1, 3.14159, 2 ^ 127 * 2, 0 / 0, 1 + 2 ^ -8, 1 + 3 * 2 ^ -8, -2 ^ -133 }, "bfloat16")
    assert.equal("|V2", x.dtype.descr)
    assert.same({ 0x3f80, 0x4049, 0x7f80, 0x7fc0, 0x3f80, 0x3f82, 0x8001 },
      array.array(x:string(), "uint16"):totable())
    for bits = 0, 65535, 7 do
      x.data[0] = bits
      local value = x(0)
      if value == value then
        x[0] = value
        assert(x.data[0] == bits)
      end
    end
  end)
end)
