-- Private arrays from Lua values, strings, FFI cdata and views.

local array = require "sharearray.array"
local dtype = require "sharearray.dtype"
local ffi = require "ffi"
local instance = require "sharearray.instance"
local layout = require "sharearray.layout"
local view = require "sharearray.view"
local raises = require("support.views").raises

local function check(x, name, shape, list)
  assert.is_true(view.is(x) and instance.is_writable(x) and layout.contiguous(x))
  assert.equal(name, tostring(x.dtype))
  assert.same(shape, x.shape)
  assert.same(list, x:totable())
end

describe("array of lists", function()
  it("takes shape and dtype from the elements", function()
    check(array.array { 1, 2.5 }, "float64", { 2 }, { 1, 2.5 })
    check(array.array { { 1, 2, 3 }, { 4, 5, 6 } }, "float64", { 2, 3 }, { { 1, 2, 3 }, { 4, 5, 6 } })
    check(array.array { { { true } }, { { false } } }, "bool", { 2, 1, 1 }, { { { true } }, { { false } } })
    check(array.array { 1LL, -2LL }, "int64", { 2 }, { 1LL, -2LL })
    check(array.array { 1ULL }, "uint64", { 1 }, { 1ULL })
    check(array.array {}, "float64", { 0 }, {})
    check(array.array { {}, {} }, "float64", { 2, 0 }, { {}, {} })
    for _, z in ipairs { ffi.new("complex", 1, 2), ffi.new("complex float", 1, 2) } do
      local x = array.array { 3, z }
      assert.equal("complex128", tostring(x.dtype))
      assert.same({ 3, 0, 1, 2 }, { x[0].re, x[0].im, x[1].re, x[1].im })
      assert.equal("complex128", tostring(array.array({ z, 3 }).dtype))
    end
  end)

  it("takes the dtype asked for, and checks that it fits", function()
    check(array.array({ { 1, 2 } }, "int8"), "int8", { 1, 2 }, { { 1, 2 } })
    check(array.array({ 1, 2LL, 3ULL }, "<i2"), "int16", { 3 }, { 1, 2, 3 })
    check(array.array({ 1LL, 2 }, dtype.of("float32")), "float32", { 2 }, { 1, 2 })
    check(array.array({}, "uint8"), "uint8", { 0 }, {})
    raises("array: %[2%]%[1%]: 300 is out of range for uint8", function()
      array.array({ { 1 }, { 300 } }, "uint8")
    end)
    raises("%[3%]: a number expected, got string", function() array.array({ 1, 2, "3" }, "int8") end)
    raises("%[1%]: a boolean expected", function() array.array({ 1 }, "bool") end)
    raises("unknown dtype 'float31'", function() array.array({ 1 }, "float31") end)
    raises("a dtype or its name expected, got number", function() array.array({ 1 }, 4) end)
  end)

  it("refuses ragged lists, and says where", function()
    raises("inhomogeneous shape: %[2%] has 3 elements, 2 expected", function()
      array.array { { 1, 2 }, { 1, 2, 3 } }
    end)
    raises("inhomogeneous shape: %[2%]%[1%] has 1 elements, 2 expected", function()
      array.array { { { 1, 2 } }, { { 1 } } }
    end)
    raises("inhomogeneous shape: %[2%] is no list, others are", function() array.array { { 1 }, 2 } end)
    raises("inhomogeneous shape: %[2%] is a list, others are not", function() array.array { 1, { 2 } } end)
    raises("inhomogeneous shape: %[2%] has 1 elements, 0 expected", function() array.array { {}, { 1 } } end)
  end)

  it("refuses what is no list, and what has no dtype", function()
    raises("the value is no list: it has the key x", function() array.array { x = 1 } end)
    raises("%[1%] is no list: it has the key x", function() array.array { { 1, x = 1 } } end)
    raises("%[2%] is no list", function() array.array { { 1, 2 }, { 1, [3] = 2 } } end)
    raises("no dtype for string", function() array.array { "a" } end)
    raises("no dtype for ctype<", function() array.array { ffi.new("float[2]") } end)
    raises("dtype float64 and int64 are mixed: name the dtype", function() array.array { 1, 2LL } end)
    raises("dtype float64 and bool are mixed", function() array.array { 1, true } end)
    local endless = {}
    endless[1] = endless
    raises("nested more than 32 deep", function() array.array(endless) end)
  end)

  it("of 32 dimensions works", function()
    local value = 5
    for _ = 1, 32 do value = { value } end
    local x = array.array(value)
    assert.equal(32, x.ndim)
    assert.same(value, x:totable())
  end)
end)

describe("array of a single value", function()
  it("has dimension 0", function()
    check(array.array(2.5), "float64", {}, 2.5)
    check(array.array(true), "bool", {}, true)
    check(array.array(5LL), "int64", {}, 5LL)
    check(array.array(5, "uint8"), "uint8", {}, 5)
    assert.equal(2, array.array(ffi.new("complex", 1, 2))().im)
    raises("array: the value: 300 is out of range for uint8", function() array.array(300, "uint8") end)
  end)

  it("refuses what is no value", function()
    raises("cannot make an array of a nil", function() array.array(nil) end)
    raises("cannot make an array of a function", function() array.array(print) end)
    raises("cannot make an array of a userdata", function() array.array(io.stdout) end)
  end)
end)

describe("array of a string", function()
  it("has its bytes, in the dtype asked for", function()
    check(array.array("\0\1\255"), "uint8", { 3 }, { 0, 1, 255 })
    check(array.array("\0\0\128\63\0\0\0\64", "float32"), "float32", { 2 }, { 1, 2 })
    check(array.array("", "float64"), "float64", { 0 }, {})
    raises("7 bytes are no multiple of float32's 4", function() array.array("1234567", "float32") end)
  end)
end)

describe("array of FFI cdata", function()
  it("has shape and dtype of the C type", function()
    local vla = ffi.new("float[?]", 3, { 1, 2, 3 })
    check(array.array(vla), "float32", { 3 }, { 1, 2, 3 })
    local matrix = ffi.new("int16_t[2][3]", { { 1, 2, 3 }, { 4, 5, 6 } })
    check(array.array(matrix), "int16", { 2, 3 }, { { 1, 2, 3 }, { 4, 5, 6 } })
    check(array.array(matrix[1]), "int16", { 3 }, { 4, 5, 6 }) -- a reference
    local rows = ffi.new("double[?][2]", 3, { { 1, 2 }, { 3, 4 }, { 5, 6 } })
    check(array.array(rows), "float64", { 3, 2 }, { { 1, 2 }, { 3, 4 }, { 5, 6 } })
    check(array.array(rows[2]), "float64", { 2 }, { 5, 6 })
    check(array.array(ffi.new("const uint8_t[2]", { 7, 8 })), "uint8", { 2 }, { 7, 8 })
    check(array.array(ffi.new("bool[2]", { true, false })), "bool", { 2 }, { true, false })
    check(array.array(ffi.new("int64_t[1]", { 5 })), "int64", { 1 }, { 5LL })
    check(array.array(ffi.new("unsigned int[1]", { 2 ^ 32 - 1 })), "uint32", { 1 }, { 2 ^ 32 - 1 })
    check(array.array(ffi.new("float[?]", 0)), "float32", { 0 }, {})
    assert.equal("complex64", tostring(array.array(ffi.new("complex float[2]")).dtype))
    assert.equal("complex128", tostring(array.array(ffi.new("complex[2][2]")).dtype))
  end)

  it("is a copy, converted where a dtype is given", function()
    local source = ffi.new("float[2]", { 1, 2 })
    local x = array.array(source)
    source[0] = 9
    assert.equal(1, x(0))
    check(array.array(source, "int32"), "int32", { 2 }, { 9, 2 })
    source[1] = 0.5
    raises("element 1: 0.5 is not an integer", function() array.array(source, "int32") end)
  end)

  it("refuses pointers and structs, and says what to do", function()
    raises("pointer %(float %*%) does not know its size: copy it into ffi.new", function()
      array.array(ffi.cast("float *", 0))
    end)
    raises("pointer", function() array.array(ffi.new("float *[2]")) end)
    raises("pointer", function() array.array(ffi.cast("float(*)[3]", 0)) end)
    raises("is no array of numbers: pass ffi.new", function() array.array(ffi.new("struct { int a; }")) end)
    raises("is no array of numbers", function() array.array(ffi.new("struct { int a; }[2]")) end)
    raises("is a C type, no object", function() array.array(ffi.typeof("float[3]")) end)
    raises("is a C type, no object", function() array.array(ffi.typeof("int64_t")) end)
    raises("is no array of numbers", function() array.array(ffi.new("int")) end)
  end)

  it("from_cdata gives pointer, dtype and shape without a copy", function()
    local source = ffi.new("float[3][4]")
    local pointer, of, shape = array.from_cdata(source)
    assert.is_true(ffi.istype("const float *", pointer))
    assert.equal(dtype.of("float32"), of)
    assert.same({ 3, 4 }, shape)
    source[0][1] = 7
    assert.equal(7, pointer[1])
    for _, x in ipairs { 1, "x", {}, ffi.new("int"), ffi.cast("int *", 0), array.array { 1 } } do
      local nothing, message = array.from_cdata(x)
      assert.is_nil(nothing)
      assert.equal("string", type(message))
    end
  end)
end)

describe("array of a view", function()
  it("is a copy in C order", function()
    local x = array.array { { 1, 2, 3 }, { 4, 5, 6 } }
    local copy = array.array(x:transpose())
    check(copy, "float64", { 3, 2 }, { { 1, 4 }, { 2, 5 }, { 3, 6 } })
    x:fill(0)
    assert.equal(6, copy(2, 1))
    check(array.array(array.array(5)), "float64", {}, 5)
    check(array.array(x:slice(0, 0)), "float64", { 0, 3 }, {})
    instance.freeze(x)
    check(array.array(x), "float64", { 2, 3 }, { { 0, 0, 0 }, { 0, 0, 0 } })
  end)

  it("is converted where a dtype is given, and has to fit", function()
    local x = array.array { { 1, 2 }, { 3, 4 } }
    check(array.array(x:transpose(), "uint8"), "uint8", { 2, 2 }, { { 1, 3 }, { 2, 4 } })
    check(array.array(array.array({ 1, 0 }, "int64"), "float32"), "float32", { 2 }, { 1, 0 })
    check(array.array(array.array({ 5, 0 }, "int64"), "bool"), "bool", { 2 }, { true, false })
    check(array.array(array.array { true, false }, "float16"), "float16", { 2 }, { 1, 0 })
    check(array.array(array.array({ 0.5, 2 }, "float16"), "float32"), "float32", { 2 }, { 0.5, 2 })
    assert.equal(3, array.array(array.array({ 3 }, "int8"), "complex64")(0).re)
    raises("element 1: 300 is out of range for int8", function() array.array(array.array { 1, 300 }, "int8") end)
    raises("element 0: a number expected", function() array.array(array.new("complex64", 1), "float32") end)
  end)

  it("leaves no view behind that a user holds", function()
    local x = array.array { 1 }
    x:close()
    raises("closed", function() array.array(x) end)
  end)
end)

describe("array.new", function()
  it("gives zeros", function()
    check(array.new("float32", { 2, 2 }), "float32", { 2, 2 }, { { 0, 0 }, { 0, 0 } })
    check(array.new("int8", 3), "int8", { 3 }, { 0, 0, 0 })
    check(array.new(dtype.of("bool"), {}), "bool", {}, false)
    check(array.new("float64", { 0, 3 }), "float64", { 0, 3 }, {})
  end)

  it("refuses what is no shape", function()
    raises("axis 1 must be an integer of 0 or more, got %-1", function() array.new("int8", { 2, -1 }) end)
    raises("axis 0 must be an integer", function() array.new("int8", { 1.5 }) end)
    raises("axis 0 must be an integer", function() array.new("int8", { "2" }) end)
    raises("axis 0 must be an integer", function() array.new("int8", { math.huge }) end)
    raises("a shape is a list", function() array.new("int8") end)
    raises("too large", function() array.new("int8", { 2 ^ 30, 2 ^ 30 }) end)
    raises("unknown dtype", function() array.new("int9", 1) end)
    raises("cannot map", function() array.new("float64", 2 ^ 50) end)
    local shape = {}
    for axis = 1, 33 do shape[axis] = 1 end
    raises("33 dimensions; at most 32", function() array.new("int8", shape) end)
  end)

  it("does not keep the list it was given", function()
    local shape = { 2 }
    local x = array.new("int8", shape)
    shape[1] = 100
    assert.same({ 2 }, x.shape)
  end)
end)
