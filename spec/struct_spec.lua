-- Structured dtypes and their records.

local ffi = require "ffi"
local machine = require "support.machine"
local views = require "support.views"
local array = require "sharearray.array"
local dtype = require "sharearray.dtype"
local sharearray = require "sharearray"
local instance = require "sharearray.instance"
local C = require("sharearray.cdefs").C

local read_only, raises, references, collect = views.read_only, views.raises, views.references, views.collect

local FORM = { { "price", "float32" }, { "volume", "int64" }, { "levels", "float32", { 2, 3 } },
  { "inner", { { "a", "uint8" }, { "my field", "S3" } } } }
local DESCR = "[('price', '<f4'), ('volume', '<i8'), ('levels', '<f4', (2, 3)), "
  .. "('inner', [('a', '|u1'), ('my field', '|S3')])]"

local function one()
  return { price = 1.5, volume = 7, levels = { { 1, 2, 3 }, { 4, 5, 6 } }, inner = { a = 9, ["my field"] = "xyz" } }
end

local function events()
  local x = array.new(FORM, 2)
  x[0] = one()
  return x
end

describe("a structured dtype", function()
  it("is packed, and one object for one description", function()
    local d = assert(sharearray.dtype(FORM))
    assert.equal(DESCR, tostring(d))
    assert.same({ "V", 40, DESCR }, { d.kind, d.itemsize, d.descr })
    assert.same({ "price", "volume", "levels", "inner" }, d.names)
    assert.equal(d, sharearray.dtype(FORM))
    assert.equal(d, dtype.from_descr(DESCR, 1))
    assert.equal(d, dtype.of(d))
    assert.equal(40, ffi.sizeof(d.ctype))
    assert.equal(12, ffi.offsetof(d.ctype, "levels"))
  end)

  it("has gaps and titles as NumPy writes them", function()
    local d = assert(dtype.of { { "a", "u1" }, { "", "V3" }, { { "the b", "b" }, "i4" }, { "", "V8" } })
    assert.equal("[('a', '|u1'), ('', '|V3'), (('the b', 'b'), '<i4'), ('', '|V8')]", d.name)
    assert.same({ 16, 4 }, { d.itemsize, ffi.offsetof(d.ctype, "b") })
    assert.same({ "a", "b" }, d.names)
  end)

  it("spells names as Python reads them", function()
    local d = assert(dtype.of { { "it's", "u1" }, { "größe\\\n", "u1" }, { "名\240\159\152\128", "u1" },
      { "*/", "u1" } })
    assert.equal("[('it\\'s', '|u1'), ('gr\\xf6\\xdfe\\\\\\n', '|u1'), ('\\u540d\\U0001f600', '|u1'), ('*/', '|u1')]",
      d.name)
    assert.equal(d, dtype.from_descr(d.name, 1))
    assert.equal("gr\195\182", dtype.from_descr("[('gr\246', '|u1')]", 1).names[1])
    assert.equal("gr\195\182", dtype.from_descr("[('gr\195\182', '|u1')]", 3).names[1])
    assert.is_nil((dtype.from_descr("[('gr\246', '|u1')]", 3)))
    assert.equal(0, array.new(d, 1):field("*/")(0)) -- no end of a comment
  end)

  it("is refused where it is none", function()
    local refused = {
      { { 1 }, "a field is a table" }, { { { 1, "u1" } }, "must be a string, got number" },
      { { { "a" } }, "field 'a': a dtype or its name expected" }, { { { "a", "x" } }, "field 'a': unknown dtype 'x'" },
      { { { "a", ">i4" } }, "big%-endian" }, { { { "a", "u1" }, { "a", "u1" } }, "two fields 'a'" },
      { { { "", "u1" } }, "no name" }, { { { "a", "u1", { -1 } } }, "must be an integer" },
      { { { "a", "f4", { 2 ^ 20, 2 ^ 20 } } }, "more than 2^30" }, { { { "a\255", "u1" } }, "not UTF%-8" },
    }
    for _, case in ipairs(refused) do
      local d, message = dtype.of(case[1])
      assert.is_nil(d)
      assert.matches(case[2]:gsub("%^", "%%^"), message)
    end
    local deep = { { "a", "u1" } }
    for _ = 1, 16 do deep = { { "a", deep } } end
    assert.matches("nested more than 16 deep", select(2, dtype.of(deep)))
    for _, s in ipairs { "[", "[('a'", "[('a', '<f4')", "[('a', '<f4')] x", "[('a' '<f4')]", "[a]", "[('a', '<f4\\" } do
      assert.is_nil((dtype.from_descr(s, 1)))
    end
  end)
end)

describe("a record", function()
  it("gives numbers, strings, records and views by name", function()
    for _, x in ipairs { events(), read_only(events()) } do
      assert.equal(1.5, x[0].price)
      assert.equal(1.5, x(0).price)
      assert.is_true(x[0].volume == 7LL)
      assert.equal(9, x[0].inner.a)
      assert.equal("xyz", x[0].inner["my field"])
      assert.equal(5, x[0].levels[1][1])
      assert.equal(6, x[0].levels(1, 2))
      assert.same(one().levels, x[0].levels:totable())
      assert.equal("(1.5, 7, [[1, 2, 3], [4, 5, 6]], (9, 'xyz'))", tostring(x[0]))
      raises("no field 'prize' in", function() local _ = x[0].prize end)
      raises("no field 'nil' in", function() local _ = x[0][nil] end)
      raises("out of bounds", function() local _ = x[2].price end)
      raises("no Lua number", function() local _ = x:tonumber(0) end)
    end
    local expected = one()
    expected.volume = 7LL
    assert.same(expected, events():totable()[1])
  end)

  it("is written while its memory may be, each field checked", function()
    local x = events()
    x[1].price = 2.5
    x[1].inner.a = 4
    x[1].inner["my field"] = "q"
    x[1].levels[0][2] = 8
    x[1].volume = 2 ^ 40
    assert.equal("(2.5, 1099511627776, [[0, 0, 8], [0, 0, 0]], (4, 'q'))", tostring(x[1]))
    x[0].inner = x[1].inner
    x[0].levels = x[1].levels
    x[1] = x[0]
    assert.equal("(1.5, 7, [[0, 0, 8], [0, 0, 0]], (4, 'q'))", tostring(x[1]))
    raises("field 'a': 256 is out of range for uint8", function() x[0].inner.a = 256 end)
    raises("no field 'b' in", function() x[0].b = 1 end)
    raises("field 'levels': a list of 2 expected, got number", function() x[0].levels = 1 end)
    raises("field 'levels': a list of 3 expected, got one of 2", function() x[0].levels = { { 1, 2, 3 }, { 4, 5 } } end)
    raises("field 'price': a number expected, got nil", function() x[0].price = nil end)
    assert.same({ { 0, 0, 8 }, { 0, 0, 0 } }, x[0].levels:totable()) -- wholly or not at all
    raises("a table of fields expected, got number", function() x[0] = 1 end)
    raises("the field 'volume' is missing", function() x[0] = { price = 1 } end)
    local more, wrong = one(), one()
    more.extra, wrong.inner.a = 1, "a"
    raises("there is no field 'extra'", function() x[0] = more end)
    raises("field 'inner': field 'a': a number expected, got string", function() x:set(0, wrong) end)
    assert.equal(1.5, x[0].price)
  end)

  it("cannot be written in any part once its memory is published", function()
    local x = events()
    local record, levels, inner = x[0], x[0].levels, x[0].inner
    instance.freeze(x)
    for _, v in ipairs { x, read_only(x) } do
      raises("read%-only", function() v[0] = one() end)
      raises("read%-only: cannot set 'price'", function() v[0].price = 1 end)
      raises("read%-only", function() v[0].levels = one().levels end)
      raises("read%-only", function() v[0].levels[0][0] = 1 end)
      raises("read%-only", function() v[0].inner.a = 1 end)
      raises("read%-only", function() v:field("price")[0] = 1 end)
      raises("constant", function() v.data[0].price = 1 end)
      raises("constant", function() v.data[0].levels[1][2] = 1 end)
      raises("constant", function() v.data[0].inner.a = 1 end)
      assert.is_false(pcall(function() v.data[0].inner = v.data[0].inner end))
      assert.is_false(pcall(function() v.data[0].levels = v.data[0].levels end))
    end
    raises("read%-only", function() record.price = 1 end)
    raises("read%-only", function() levels[0][0] = 1 end)
    raises("read%-only", function() inner.a = 1 end)
    assert.same(one().levels, x[0].levels:totable())
  end)

  it("has C's names in data, where the array is writable in every part", function()
    local x = events()
    x.data[0].levels[1][2], x.data[0].inner.a, x.data[1].price = 1, 2, 3
    assert.same({ 1, 2, 3 }, { x[0].levels(1, 2), x[0].inner.a, x[1].price })
  end)

  it("keeps its memory alive, as do its parts", function()
    local map = views.private_map(80)
    local x = instance.new(dtype.of(FORM), { 2 }, nil, map.base, map, true)
    local parts = { x[0], x[0].inner, x[0].levels, x:field "price" }
    x:close()
    collect()
    assert.equal(5, references(map))
    parts[1].price = 4
    assert.equal(4, parts[4](0))
    parts = nil
    collect()
    assert.equal(1, references(map))
    assert.is_nil(parts)
    C.sharearray_unref(map)
  end)

  it("is never a tagged value, whatever the bits", function()
    local form = { { "f", "float32" }, { "d", "float64" }, { "z", "complex64" }, { "fs", "float32", { 2 } } }
    local x = array.array(("\255"):rep(28 * 100), form)
    for i = 0, 99 do
      for _, value in ipairs { x[i].f, x[i].d, x[i].z.re, x[i].fs[1], x:field("d")(i), x:field("fs")(i, 0) } do
        assert(type(value) == "number" and value ~= value)
      end
    end
  end)

  it("may have fields of any name", function()
    local names = { "map", "_map", "__map", "sealed", "_pointer", "int", "end", "1st", "a b", "__index", "shape",
      "price" }
    local form, values = {}, {}
    for i, name in ipairs(names) do form[i], values[name] = { name, "uint8" }, i end
    local x = array.array({ values }, form)
    for i, name in ipairs(names) do
      assert.equal(i, x[0][name])
      assert.equal(i, x:field(name)(0))
      assert.equal(i, x:totable()[1][name])
    end
    assert.equal(12, x.data[0].price)
  end)

  it("may have no fields, and no bytes", function()
    local d = assert(dtype.from_descr("[]", 1))
    assert.equal(0, d.itemsize)
    local x = array.new(d, 2)
    assert.same({ {}, {} }, x:totable())
    assert.equal("()", tostring(x[0]))
    assert.equal(0, array.new({ { "a", "f4", { 0 } }, { "b", "S0" } }, 2).nbytes)
  end)
end)

describe("an array of records", function()
  it("is made of lists of tables", function()
    local form = { { "a", "uint8" }, { "b", "float32" } }
    local x = array.array({ { { a = 1, b = 2 }, { a = 3, b = 4 } } }, form)
    assert.same({ 1, 2 }, x.shape)
    assert.same({ { { a = 1, b = 2 }, { a = 3, b = 4 } } }, x:totable())
    assert.equal(5, array.array({ a = 5, b = 6 }, form)().a)
    assert.equal(x:string(), array.array(x):string())
    local other = array.array(x, { { "b", "float64" }, { "a", "int16" } }) -- by name
    assert.same({ a = 3, b = 4 }, other[0][1] and other:totable()[1][2])
    raises("%[1%]%[2%]: the field 'b' is missing", function()
      array.array({ { { a = 1, b = 2 }, { a = 3 } } }, form)
    end)
  end)

  it("is sliced, turned, filled, iterated", function()
    local x = array.new({ { "a", "uint8" }, { "b", "float32" } }, { 2, 3 })
    x:fill { a = 1, b = 2 }
    x:transpose()[1][0].a = 7
    assert.same({ 1, 7, 1 }, x:field("a")[0]:totable())
    local sum = 0
    for _, row in x:iter() do
      for _, record in row:iter() do sum = sum + record.a end
    end
    assert.equal(12, sum)
    assert.equal(x:transpose():string(), array.array(x:transpose()):string())
  end)

  it("gives a field of all as a view, wherever it lies", function()
    local x = events()
    x[1].volume = -2
    local volume = x:field "volume"
    assert.same({ { 40 }, 8, dtype.of "int64" }, { volume.strides, volume.nbytes / 2, volume.dtype })
    assert.is_true(volume(0) == 7LL and volume[1] == -2LL)
    volume[0] = 5
    assert.is_true(x[0].volume == 5LL)
    assert.same({ 2, 2, 3 }, x:field("levels").shape)
    assert.same(one().levels, x:field("levels")[0]:totable())
    assert.same({ "xyz", "" }, x:field("inner"):field("my field"):totable())
    assert.same({ 1.5, 0 }, array.array(x:field "price"):totable())
    assert.equal("\9\0", x:field("inner"):field("a"):string())
    raises("there is no field 'x' in", function() x:field "x" end)
    raises("has no fields", function() volume:field "x" end)
    x:close()
    raises("closed", function() x:field "price" end)
    assert.equal(5, volume:tonumber(0))
  end)

  it("goes through alloc, bundles and stat", function()
    local store = sharearray.new { shm_path = machine.directory() }
    local v = assert(store:cache("x", function(alloc)
      local x = alloc(FORM, 3)
      x:set(1, one())
      return x
    end))
    assert.equal(1.5, v[1].price)
    assert.equal(DESCR, store:stat("x").dtype)
    raises("read%-only", function() v[1].price = 2 end)
    local bundle = assert(store:cache("b", function(alloc)
      local b = alloc { x = { FORM, 2 }, s = { "U3", { 2, 2 } }, t = { "M8[ns]", 1 } }
      b.x[0].price = 3
      b.s:set(1, 1, "äöü")
      return b
    end))
    assert.same({ 3, "äöü", "ns" }, { bundle.x[0].price, bundle.s(1, 1), bundle.t.dtype.unit })
    local long = {}
    for i = 1, 1000 do long[i] = { "a long name " .. i, "u1" } end
    local _, message, code = store:cache("long", function(alloc) return alloc(long, 1) end)
    assert.equal("unsupported", code)
    assert.matches("does not fit a header that NumPy reads", message)
    machine.remove(store.settings.shm_path)
  end)
end)
