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

-- Every NaN, of either sign: one of the other sign is a negation away from those tags, and a signalling one is made
-- quiet, which sets a bit more, by any calculation. For a double the high word decides: what has its payload in the low
-- word alone stays below the tags, whatever happens to it.
--
-- Rotated so that the sign comes last, and unsigned, the words above an infinity's are the NaNs'. Compiled, that is a
-- load that rotates (x86 with BMI2) and a comparison; a mask in the place of the rotation is one instruction more. The
-- casts are none: that to int64 makes the other one defined for a negative number, which interpreted code has.
local TAGGED = "cast(uint32, cast(int64, rol(%s, 1))) > 0x%xULL"
local function float_tagged(word) return TAGGED:format(word, 0xff000001) end
local function double_tagged(high) return TAGGED:format(high, 0xffe00001) end

local element = "elements[k]"

-- A reader: `guard`, statements run before the load, which may return; `value`, the expression of
-- the element `elements[k]`; `number`, the same as a Lua number, nil where it is none. They may use the
-- names that element.lua passes in. With `bits`, the declaration of an element as int32 with %s for its name, there is
-- also a pointer `bits` to the same memory as such; `takes`, members of the view's struct that they use besides; `make`
-- is a function that gives, when first needed, what the pieces know as `read`.
local function plain(value, number)
  return { guard = "", value = value, number = number }
end

local function float(tagged, bits)
  return { guard = ("if %s then return nan end"):format(tagged), value = element, number = element, bits = bits }
end

-- Each component has so many words, the last of which tells.
local function complex(tagged, words)
  local re, im = tagged(("bits[k][%d]"):format(words - 1)), tagged(("bits[k][%d]"):format(2 * words - 1))
  return {
    guard = ("if %s or %s then return read(elements + k, bits[k], %d) end"):format(re, im, words),
    value = element,
    bits = ("int32_t %%s[%d]"):format(2 * words),
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
  float32 = function() return float(float_tagged "bits[k]", "int32_t %s") end,
  float64 = function() return float(double_tagged "bits[k][1]", "int32_t %s[2]") end,
  complex64 = function() return complex(float_tagged, 1) end,
  complex128 = function() return complex(double_tagged, 2) end,
}

--- The readers of what C and LuaJIT know, by dtype; each is made when first asked for.
return setmetatable({}, { __index = function(readers, name)
  readers[name] = makers[name]()
  return readers[name]
end })
