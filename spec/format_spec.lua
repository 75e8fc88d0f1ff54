-- tostring of views.

local array = require "sharearray.array"
local ffi = require "ffi"

local function text(value, dtype) return tostring(array.array(value, dtype)) end

describe("tostring", function()
  it("shows rows in brackets, aligned, with dtype and shape", function()
    assert.equal("array([[0, 1, 2],\n       [3, 4, 5]], dtype=float32, shape=(2, 3))",
      text({ { 0, 1, 2 }, { 3, 4, 5 } }, "float32"))
    assert.equal("array([[  -1,    2],\n       [1000,    3]], dtype=int32, shape=(2, 2))",
      text({ { -1, 2 }, { 1000, 3 } }, "int32"))
  end)

  it("sets the planes of a cube apart by an empty line", function()
    assert.equal("array([[[1],\n        [2]],\n\n       [[3],\n        [4]]], dtype=uint8, shape=(2, 2, 1))",
      text({ { { 1 }, { 2 } }, { { 3 }, { 4 } } }, "uint8"))
  end)

  it("writes shapes as Python's tuples", function()
    assert.equal("array(5, dtype=int8, shape=())", text(5, "int8"))
    assert.equal("array([5], dtype=int8, shape=(1,))", text({ 5 }, "int8"))
    assert.equal("array([], dtype=float64, shape=(0,))", text({}))
    assert.equal("array([], dtype=float64, shape=(2, 0))", text({ {}, {} }))
  end)

  it("shows no digits that the type does not have", function()
    assert.equal("array([ 0.1, 0.25], dtype=float32, shape=(2,))", text({ 0.1, 0.25 }, "float32"))
    assert.equal("array(0.1, dtype=float16, shape=())", text(0.1, "float16"))
    assert.equal("array(0.33333333, dtype=float64, shape=())", text(1 / 3))
    assert.equal("array(16777216, dtype=float32, shape=())", text(2 ^ 24, "float32"))
    assert.equal("array(1e+300, dtype=float64, shape=())", text(1e300))
    assert.equal("array(-1.5e-07, dtype=float64, shape=())", text(-1.5e-7))
  end)

  it("knows nan, infinities, booleans, 64-bit and complex elements", function()
    assert.equal("array([ nan,  inf, -inf,   -0], dtype=float64, shape=(4,))", text { 0 / 0, 1 / 0, -1 / 0, -0.0 })
    assert.equal("array([ true, false], dtype=bool, shape=(2,))", text { true, false })
    assert.equal("array([9223372036854775807], dtype=int64, shape=(1,))", text { 0x7fffffffffffffffLL })
    assert.equal("array([18446744073709551615], dtype=uint64, shape=(1,))", text { -1ULL })
    assert.equal("array(1-2.5i, dtype=complex128, shape=())", text(ffi.new("complex", 1, -2.5)))
    assert.equal("array(0.1+nani, dtype=complex64, shape=())", text(ffi.new("complex", 0.1, 0 / 0), "complex64"))
  end)

  it("summarises more than 1000 elements, three at either end", function()
    local x = array.new("int32", 1001)
    x[0], x[3], x[997], x[1000] = 7, 9, 9, 12
    assert.equal("array([ 7,  0,  0, ...,  0,  0, 12], dtype=int32, shape=(1001,))", tostring(x))
    local y = array.new("int8", { 500, 4 })
    assert.equal("array([[0, 0, 0, 0],\n       [0, 0, 0, 0],\n       [0, 0, 0, 0],\n       ...,\n"
      .. "       [0, 0, 0, 0],\n       [0, 0, 0, 0],\n       [0, 0, 0, 0]], dtype=int8, shape=(500, 4))", tostring(y))
  end)

  it("shows 1000 elements in full, in lines of at most 75 characters", function()
    local shown = tostring(array.new("int32", 1000)):match("^array(%(.*%]), dtype=int32, shape=%(1000,%)%)$")
    assert.equal(1000, select(2, shown:gsub("0[,%]]", "")))
    local lines = 0
    for line in ("array" .. shown .. "\n"):gmatch("(.-)\n") do
      lines = lines + 1
      assert.is_true(#line <= 75)
      if lines > 1 then assert.matches("^       0", line) end
    end
    assert.is_true(lines > 30)
  end)

  it("of a closed array says so", function()
    local x = array.array { 1, 2 }
    x:close()
    assert.equal("array(closed)", tostring(x))
  end)
end)
