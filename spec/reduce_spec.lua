-- Sums, dot products and copies of whole views.

local ffi = require "ffi"
local machine = require "support.machine"
local views = require "support.views"
local array = require "sharearray.array"

local raises = views.raises

-- Values of every size from none to a few steps of the core's loop and its rest.
local function filled(dtype, n, value)
  local x = array.new(dtype, { n })
  for i = 0, n - 1 do x[i] = value(i) end
  return x
end

local function loop(n, value)
  local sum = 0
  for i = 0, n - 1 do sum = sum + value(i) end
  return sum
end

local SIZES = { 0, 1, 7, 8, 31, 32, 33, 64, 100, 1000 }

describe("sum and dot", function()
  for _, dtype in ipairs { "int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64" } do
    local signed = not dtype:find "^u"
    local function value(i) return i * 7 % 23 - (signed and 11 or 0) end

    it("are a loop's, of " .. dtype, function()
      for _, n in ipairs(SIZES) do
        local x = filled(dtype, n, value)
        assert.equal(loop(n, value), x:sum())
        assert.equal(loop(n, function(i) return value(i) ^ 2 end), x:dot(x))
      end
    end)
  end

  -- The core takes a MiB at a time, of each array.
  it("are a loop's, of several MiB and a rest", function()
    for dtype, n in pairs { uint8 = 2 ^ 21 + 2 ^ 19 + 77, float32 = 2 ^ 20 + 3, float64 = 2 ^ 17 + 2 ^ 16 + 33 } do
      local function value(i) return i % 251 end
      local x, y = filled(dtype, n, value), array.new(dtype, { n })
      y[n - 1], y[n - 100], y[2 ^ 17] = 2, 3, 1
      assert.equal(loop(n, value), x:sum())
      assert.equal(2 * value(n - 1) + 3 * value(n - 100) + value(2 ^ 17), x:dot(y))
    end
  end)

  it("are the same in registers of every width that the processor has", function()
    local said = {}
    for i, without in ipairs { "", "-AVX512F", "-AVX512F,-AVX2" } do
      said[i] = machine.worker([[
        for _, dtype in ipairs { "int8", "int16", "int32", "int64", "uint8", "uint64", "float32", "float64" } do
          for _, n in ipairs { 0, 1, 31, 32, 33, 1000 } do
            local list = {}
            for i = 1, n do list[i] = i * 7 % 23 end
            local x = sharearray.array(list, dtype)
            say(dtype, n, x:sum(), x:dot(x))
          end
        end
      ]], {}, { GLIBC_TUNABLES = "glibc.cpu.hwcaps=" .. without }):finish()
    end
    assert.truthy(said[1]:find("float64 1000 10%d+ %d+"), said[1])
    assert.equal(said[1], said[2])
    assert.equal(said[1], said[3])
  end)

  it("of 64-bit integers are such, modulo 2^64", function()
    for _, n in ipairs(SIZES) do
      local x = filled("int64", n, function(i) return -i end)
      assert.equal("cdata", type(x:sum()))
      assert.is_true(x:sum() == -loop(n, function(i) return i end))
      assert.is_true(x:dot(x) == loop(n, function(i) return i * i end))
    end
    local big = array.array({ 2 ^ 63, 2 ^ 63, 5 }, "uint64")
    assert.is_true(big:sum() == 5ULL)
    assert.is_true(ffi.istype("uint64_t", big:sum()))
    assert.is_true(array.array({ -1LL, -2LL }):sum() == -3LL)
  end)

  it("count booleans", function()
    assert.equal(3, array.array({ true, false, true, true }):sum())
    -- Any byte but 0 is true.
    for _, n in ipairs { 0, 1, 10, 11, 100, 400000 } do
      local x = array.array(("\2\0\255"):rep(n), "bool")
      local y = array.array(("\7\9\0"):rep(n), "bool")
      assert.same({ 2 * n, 2 * n, n }, { x:sum(), x:dot(x), x:dot(y) })
    end
  end)

  it("hold more than an element can", function()
    assert.equal(255 * 1000, filled("uint8", 1000, function() return 255 end):sum())
    local most = filled("uint32", 1, function() return 2 ^ 32 - 1 end)
    assert.equal((2 ^ 32 - 1) ^ 2, most:dot(most)) -- more than an int64 holds
    assert.equal(-128 * 128 * -1000, (filled("int8", 1000, function() return -128 end)):dot(
      filled("int8", 1000, function() return -128 end)))
    assert.equal(2 ^ 24 + 100, filled("float32", 101, function(i) return i == 0 and 2 ^ 24 or 1 end):sum())
  end)

  it("see strides", function()
    local x = array.array({ { 1, 2, 3 }, { 4, 5, 6 } }, "float32")
    local t = x:transpose()
    assert.equal(21, t:sum())
    assert.equal(91, t:dot(t))
    assert.equal(1 + 2 * 2 + 3 * 3, x[0]:dot(x[0]))
    assert.equal(7, t[1]:sum())
    assert.equal(2 * 1 + 5 * 4, t[1]:dot(t[0]))
    local big = filled("int32", 300000, function(i) return i % 5 end):reshape { 300, 1000 }:transpose()
    assert.equal(600000, big:sum())
  end)

  it("of nothing are 0, of dimension 0 the element", function()
    assert.equal(0, array.new("float32", { 3, 0 }):sum())
    assert.equal(5, array.array(5):sum())
  end)

  it("give a NaN that is LuaJIT's own", function()
    for _, bits in ipairs { 0xffffffff, 0xfff90000, 0x7fffffff } do
      local x = array.new("float32", { 40 })
      for _, at in ipairs { 0, 39 } do
        x:fill(1)
        ffi.cast("uint32_t *", x.data)[at] = bits
        assert.equal("number", type(x:sum()))
        assert.is_true(x:sum() ~= x:sum() and x:dot(x) ~= x:dot(x))
      end
    end
  end)

  it("refuse what cannot be added, or does not match", function()
    local x = array.array({ 1, 2 }, "float32")
    raises("sum: elements of dtype complex64 cannot be added", function() array.new("complex64", 2):sum() end)
    raises("sum: elements of dtype float16 cannot be added", function() array.new("float16", 2):sum() end)
    raises("sum: elements of dtype float16 cannot", function() array.new("float16", { 2, 3 }):transpose():sum() end)
    raises("dot: elements of dtype S3 cannot be added", function() array.new("S3", 2):dot(array.new("S3", 2)) end)
    raises("dot: the dtypes float32 and float64 differ", function() x:dot(array.array({ 1, 2 })) end)
    raises("dot: the shapes %(2,%) and %(2, 1%) differ", function() x:dot(x:reshape { 2, 1 }) end)
    raises("dot: another array expected", function() x:dot(3) end)
    local y = x:copy()
    y:close()
    raises("dot: another array expected", function() x:dot(y) end)
    raises("closed", function() y:sum() end)
  end)
end)

describe("copy", function()
  it("is private, writable, and in C order", function()
    local x = views.read_only(array.array({ { 1, 2, 3 }, { 4, 5, 6 } }, "int16"))
    local y = x:transpose():copy()
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, y:totable())
    assert.same({ 4, 2 }, y.strides)
    y:set(0, 0, 9)
    assert.equal(1, x(0, 0))
    assert.equal(9, y(0, 0))
  end)
end)
