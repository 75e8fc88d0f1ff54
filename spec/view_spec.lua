-- Views: elements by index, rows, properties, slices and other shapes, what leaves a view.

local ffi = require "ffi"
local machine = require "support.machine"
local views = require "support.views"
local array = require "sharearray.array"
local dtype = require "sharearray.dtype"
local instance = require "sharearray.instance"
local layout = require "sharearray.layout"
local view = require "sharearray.view"

local read_only, counting, raises, collect = views.read_only, views.counting, views.raises, views.collect

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
    local v = instance.new(dtype.of("int16"), { 2, 3 }, { 1, 2 }, instance.pointer(x), view.map(x), false)
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
    raises("too many indices: the array has dimension 32, but got 33", function()
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
    raises("must be a number, got cdata; tonumber", function() local _ = v[1LL] end)
    raises("must be a number, got cdata$", function() local _ = v[ffi.new "int[1]"] end)
    raises("must be a number, got nil", function() local _ = v[nil] end)
    raises("must be a number, got table", function() local _ = v[{}] end)
    raises("must be a number, got nil", function() local _ = m(nil, 1) end)
    raises("too few indices: the array has dimension 2, but got 1", function() local _ = m(1) end)
    raises("too few indices: the array has dimension 1, but got 0", function() local _ = v() end)
    raises("too few indices", function() local _ = v(nil) end)
    raises("too many indices: the array has dimension 1, but got 2", function() local _ = v(0, 0) end)
    raises("too many indices: the array has dimension 2, but got 3", function() local _ = m(0, 0, 0) end)
  end)

  -- Where the bounds of int32, of uint64 and of what a double holds exactly are near.
  it("exists for integers from 0 to the size alone, in interpreted and in compiled code", function()
    local SIZE = 100
    local indices = { 0.5, -0.5, 98.5, 1e-300, 1e300, -1e300, math.huge, -math.huge, 0 / 0 }
    for _, near in ipairs { 0, SIZE, 2 ^ 31, 2 ^ 32, 2 ^ 52, 2 ^ 53, 2 ^ 63, 2 ^ 64 } do
      for _, by in ipairs { 0, 1, 2, 50, SIZE, 4096, 8192 } do
        for _, sign in ipairs { 1, -1 } do
          indices[#indices + 1], indices[#indices + 2] = sign * (near + by), sign * (near - by)
        end
      end
    end
    local x = counting("float32", { SIZE, SIZE })
    local row, column, m, turned = x[0], x:transpose()[0], x, x:transpose()
    local ways = {
      [function(i) return row(i) end] = 1, [function(i) return row[i] end] = 1,
      [function(i) return row:tonumber(i) end] = 1,
      [function(i) row:set(i, i); return i end] = 1, [function(i) row[i] = i; return i end] = 1,
      [function(i) return column(i) end] = SIZE, [function(i) return column[i] end] = SIZE,
      [function(i) column:set(i, i * SIZE); return i * SIZE end] = SIZE,
      [function(i) return m(i, 0) end] = SIZE, [function(i) return m(0, i) end] = 1,
      [function(i) return m[i](0) end] = SIZE, [function(i) return turned[i](0) end] = 1,
    }
    for way, step in pairs(ways) do
      local function count_wrong(times)
        local wrong = 0
        for _ = 1, times do
          for k = 1, #indices do
            local i = indices[k]
            local found, value = pcall(way, i)
            local exists = i >= 0 and i < SIZE and i % 1 == 0
            if found ~= exists or found and value ~= i * step then wrong = wrong + 1 end
          end
        end
        return wrong
      end
      assert.equal(0, count_wrong(30))
      jit.off(count_wrong)
      jit.off(way)
      assert.equal(0, count_wrong(1))
    end
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

-- The core fills the structs of attached views in, see sharearray_view() in core/sharearray.h.
describe("a view that another process attaches", function()
  it("has its sizes and its bounds, in every layout", function()
    local directory = machine.directory()
    local every = [[
      local shapes = { {}, { 5 }, { 4, 5 }, { 3, 4, 5 }, { 2, 3, 4, 5 }, { 2, 1, 2, 1, 2, 3 } }
      local dtypes = { "bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64", "complex64" }
      local function each(use)
        for _, dtype in ipairs(dtypes) do
          for ndim, shape in ipairs(shapes) do use(dtype .. ndim, dtype, shape) end
        end
      end
    ]]
    local function run(text)
      return machine.worker(every .. text, {}, { SHAREARRAY_SHM_PATH = directory }):finish()
    end
    assert.equal("built\n", run [[
      each(function(id, dtype, shape)
        assert(sharearray.cache(id, function(alloc) return alloc(dtype, shape) end))
      end)
      say "built"
    ]])
    local said = run [[
      local right, wrong = 0, 0
      local function expect(found) if found then right = right + 1 else wrong = wrong + 1 end end
      each(function(id, _, shape)
        local v, last, size = assert(sharearray.get(id)), {}, 1
        for axis, n in ipairs(shape) do
          expect(v.shape[axis] == n)
          last[axis], size = n - 1, size * n
        end
        expect(v.size == size and pcall(v, unpack(last)))
        for axis, n in ipairs(shape) do
          for _, i in ipairs { n, -1 } do
            local beside = { unpack(last) }
            beside[axis] = i
            expect(not pcall(v, unpack(beside)))
          end
        end
      end)
      say(right, wrong)
    ]]
    machine.remove(directory)
    assert.equal("486 0\n", said)
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
    raises("one size of a shape may be %-1", function() v:reshape { -1, -1 } end)
    raises("axis 0 must be", function() v:reshape { -2, -6 } end)
    raises("axis 0 must be", function() v:reshape { 1.5, 8 } end)
    raises("axis 0 must be", function() v:reshape { "12" } end)
    raises("axis 0 must be", function() v:reshape { 0 / 0 } end)
    raises("list of sizes", function() v:reshape() end)
    raises("given as a list", function() v:reshape(3, 4) end)
    raises("reverses the axes", function() v:transpose(1, 0) end)
    raises("list of sizes", function() v:reshape("12") end)
    raises("too large", function() v:reshape { 2 ^ 40, 2 ^ 40 } end)
  end)

  it("needs C order, or says to copy", function()
    local v = read_only(counting("int32", { 2, 6 }))
    raises("v:copy%(%)", function() v:transpose():reshape { 12 } end)
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
        for pointer, bytes in layout.pieces(v, limit) do
          assert.is_true(bytes > 0 and bytes <= math.max(limit, 2))
          parts[#parts + 1] = ffi.string(pointer, bytes)
        end
        assert.equal(v:string(), table.concat(parts))
      end
    end
    for _ in layout.pieces(array.new("int8", { 0, 3 }), 10) do error("a piece of nothing") end
    local scalar = {}
    for pointer, bytes in layout.pieces(array.array(1, "int16"), 10) do scalar[1] = ffi.string(pointer, bytes) end
    assert.same({ "\1\0" }, scalar)
  end)

  it("pieces: go on when the view is closed meanwhile", function()
    local x = counting("int8", 10)
    local parts = {}
    for pointer, bytes in layout.pieces(x, 4) do
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
