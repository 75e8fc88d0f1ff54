--- How an element is read: Lua source, one reader per dtype, spliced into the accessors that
-- `sharearray.element` generates.
--
-- Why reading a float takes a look at its bits first: LuaJIT keeps type tags in the NaN space of a
-- double, and a load through an FFI pointer does not canonicalize. `ffi.cast("float *", bits)[0]`
-- with the bits 0xffffffff is not NaN but nil, other bits are a table at an address of the file's
-- choice. Only after the bits are known to be harmless may the value be loaded at all.
-- @module sharearray.readers

local lazy = require "sharearray.lazy"

local convert = lazy "sharearray.convert"

-- Every NaN, without its sign: one of the other sign is a negation away from those tags, and a signalling one is
-- made quiet, which sets a bit more, by any calculation. For a double the high word decides: what has its payload in
-- the low word alone stays below the tags, whatever happens to it.
local FLOAT_TAGGED = "band(bits[%s], 0x7fffffff) > 0x7f800000"
local DOUBLE_TAGGED = "band(bits[%s], 0x7fffffff) > 0x7ff00000"

local element = "elements[k]"

-- A reader: `guard`, statements run before the load, which may return; `value`, the expression of
-- the element `elements[k]`; `number`, the same as a Lua number, nil where it is none. They may use the
-- names that element.lua passes in. With `bits` set, `bits` is the same memory as int32; `takes`, members of the view's
-- struct that they use besides; `make` is a function that gives, when first needed, what the pieces know as `read`.
local function plain(value, number)
  return { guard = "", value = value, number = number }
end

local function float(tagged)
  return { guard = "if " .. tagged .. " then return nan end", value = element, number = element, bits = true }
end

local function complex(re, im, words_per)
  return {
    guard = ("if %s or %s then return read(elements[k], bits, k, %d) end"):format(re, im, words_per),
    value = element,
    bits = true,
    make = function() return convert.quiet end,
  }
end

-- Through a table of all numbers.
local function tabulated(make)
  return { guard = "", value = "read[elements[k]]", number = "read[elements[k]]", make = make }
end

local function whole() return plain(element, element) end
local function boxed() return plain(element, "tonumber(elements[k])") end

local makers = {
  bool = function() return plain(element, "(elements[k] and 1 or 0)") end,
  int8 = whole, int16 = whole, int32 = whole, int64 = boxed,
  uint8 = whole, uint16 = whole, uint32 = whole, uint64 = boxed,
  float16 = function() return tabulated(function() return convert.halves() end) end,
  bfloat16 = function() return tabulated(function() return convert.bfloats() end) end,
  float32 = function() return float(FLOAT_TAGGED:format("k")) end,
  float64 = function() return float(DOUBLE_TAGGED:format("2 * k + 1")) end,
  complex64 = function() return complex(FLOAT_TAGGED:format("2 * k"), FLOAT_TAGGED:format("2 * k + 1"), 1) end,
  complex128 = function()
    return complex(DOUBLE_TAGGED:format("4 * k + 1"), DOUBLE_TAGGED:format("4 * k + 3"), 2)
  end,
}

--- The readers of what C and LuaJIT know, by dtype; each is made when first asked for.
return setmetatable({}, { __index = function(readers, name)
  readers[name] = makers[name]()
  return readers[name]
end })
