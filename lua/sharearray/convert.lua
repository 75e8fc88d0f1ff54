--- Which Lua values a dtype takes, and the numbers that neither C nor LuaJIT has.
--
-- A writer is a function `value -> element`, or `nil, message`; there is one per dtype. Numbers of half
-- precision are looked up, and NaNs that LuaJIT must not load replaced (see sharearray.readers). A process that
-- reads float32 needs none of this, and does not load it.
-- @module sharearray.convert

local bit = require "bit"
local ffi = require "ffi"

-- This file may be read long after sharearray.readers was, whose pieces call `quiet`.
require("sharearray.library").check(7)

local type, tonumber, floor = type, tonumber, math.floor
local band, lshift, rshift = bit.band, bit.lshift, bit.rshift

local int64, uint64 = ffi.typeof("int64_t"), ffi.typeof("uint64_t")
local complex64, complex128 = ffi.typeof("complex float"), ffi.typeof("complex double")
local floats, doubles = ffi.typeof("const float *"), ffi.typeof("const double *")

local convert = {}

--- NaN whose bits are LuaJIT's own.
convert.nan = 0 / 0

local function describe(value)
  if type(value) == "cdata" then return tostring(ffi.typeof(value)) end
  return type(value)
end

local function is_int64(value) return ffi.istype(int64, value) or ffi.istype(uint64, value) end

-- ffi.istype takes float[2] for complex; that has no member, though.
local function has_re(value) return value.re ~= nil end
local function is_complex(value)
  return (ffi.istype(complex128, value) or ffi.istype(complex64, value)) and pcall(has_re, value)
end

local function to_bool(value)
  if type(value) == "boolean" then return value end
  return nil, "a boolean expected, got " .. describe(value)
end

local function to_real(value)
  if type(value) == "number" then return value end
  if is_int64(value) then return tonumber(value) end
  return nil, "a number expected, got " .. describe(value)
end

local function to_complex(value)
  if is_complex(value) then return value end
  return to_real(value)
end

local function no_integer(value, name)
  if type(value) ~= "number" and not is_int64(value) then
    return nil, "a number expected, got " .. describe(value)
  end
  if type(value) == "number" and floor(value) ~= value then
    return nil, ("%.14g is not an integer, as %s needs"):format(value, name)
  end
  local digits = type(value) == "number" and ("%.14g"):format(value) or tostring(value):gsub("U?LL$", "")
  return nil, ("%s is out of range for %s"):format(digits, name)
end

local function integer(name, min, max)
  return function(value)
    if type(value) == "number" then
      if value >= min and value <= max and floor(value) == value then return value end
    elseif ffi.istype(int64, value) then
      if value >= min and value <= max then return tonumber(value) end
    elseif ffi.istype(uint64, value) then
      if value <= max then return tonumber(value) end
    end
    return no_integer(value, name)
  end
end

local function to_int64(value)
  if type(value) == "number" then
    if value >= -0x1p63 and value < 0x1p63 and floor(value) == value then return int64(value) end
  elseif ffi.istype(int64, value) then
    return value
  elseif ffi.istype(uint64, value) then
    if value <= 0x7fffffffffffffffULL then return int64(value) end
  end
  return no_integer(value, "int64")
end

local function to_uint64(value)
  if type(value) == "number" then
    if value >= 0 and value < 0x1p64 and floor(value) == value then return uint64(value) end
  elseif ffi.istype(uint64, value) then
    return value
  elseif ffi.istype(int64, value) then
    if value >= 0 then return uint64(value) end
  end
  return no_integer(value, "uint64")
end

-- Half precision: 1 sign bit, 5 of exponent, 10 of mantissa (IEEE 754 binary16). bfloat16 is the upper
-- half of a float32: 8 of exponent, 7 of mantissa.

local function half_to_number(bits)
  local exponent, mantissa = band(rshift(bits, 10), 31), band(bits, 1023)
  local value
  if exponent == 31 then value = mantissa == 0 and math.huge or convert.nan
  elseif exponent == 0 then value = mantissa * 0x1p-24
  else value = (mantissa + 1024) * 2 ^ (exponent - 25)
  end
  return bits >= 0x8000 and value == value and -value or value
end

-- A union: LuaJIT takes stores and loads of different types to be of different memory, but for one.
local scratch = ffi.new("union { double number; int32_t words[2]; }")

-- Straight from the double: a stop at float32 would round twice.
-- @param digits bits of the mantissa
-- @param least exponent of normal numbers; as always, the largest is 1 - least
local function rounder(digits, least)
  local limit, infinity = (2 - 2 ^ (-digits - 1)) * 2 ^ (1 - least), lshift(3 - 2 * least, digits)
  return function(value)
    if type(value) ~= "number" then
      local number, message = to_real(value)
      if message then return nil, message end
      value = number
    end
    if value ~= value then return infinity + lshift(1, digits - 1) end
    local sign = (value < 0 or 1 / value < 0) and 0x8000 or 0
    local magnitude = math.abs(value)
    if magnitude >= limit then return sign + infinity end
    scratch.number = magnitude
    local exponent = math.max(rshift(scratch.words[1], 20) - 1023, least)
    -- In units of the last place; 2^52 leaves no room for fractions, so that adding it rounds, and to
    -- even. A carry moves into the exponent as it should.
    local units = magnitude * 2 ^ (digits - exponent) + 0x1p52 - 0x1p52
    return sign + lshift(exponent - least, digits) + units
  end
end

local halves, bfloats

--- The numbers of all 65536 half precision patterns, made when first asked for (256 KiB).
function convert.halves()
  if not halves then
    halves = ffi.new("float[65536]")
    for bits = 0, 65535 do halves[bits] = half_to_number(bits) end
  end
  return halves
end

--- The same of bfloat16.
function convert.bfloats()
  if not bfloats then
    bfloats = ffi.new("float[65536]")
    local patterns = ffi.cast("int32_t *", bfloats)
    for bits = 0, 65535 do
      patterns[bits] = band(bits, 0x7fff) > 0x7f80 and 0x7fc00000 or lshift(bits, 16)
    end
  end
  return bfloats
end

--- A complex element of which a component is a NaN: a copy with LuaJIT's NaN in its place. Only a component whose bits
-- are harmless is loaded: LuaJIT keeps what it loaded for the next read, even if integers were stored there meanwhile,
-- which for its compiler change no float.
-- @param at where it is
-- @param bits its words, as int32
-- @param words of a component: 1 for complex64, 2 for complex128
function convert.quiet(at, bits, words)
  local infinity = words == 1 and 0x7f800000 or 0x7ff00000
  local parts = ffi.cast(words == 1 and floats or doubles, at)
  local re = band(bits[words - 1], 0x7fffffff) > infinity and convert.nan or parts[0]
  local im = band(bits[2 * words - 1], 0x7fffffff) > infinity and convert.nan or parts[1]
  return (words == 1 and complex64 or complex128)(re, im)
end

convert.writers = {
  bool = to_bool,
  int64 = to_int64,
  uint64 = to_uint64,
  float16 = rounder(10, -14),
  bfloat16 = rounder(7, -126),
  float32 = to_real,
  float64 = to_real,
  complex64 = to_complex,
  complex128 = to_complex,
}

for bits = 8, 32, 8 do
  if bits ~= 24 then
    local int, uint = "int" .. bits, "uint" .. bits
    convert.writers[int] = integer(int, -2 ^ (bits - 1), 2 ^ (bits - 1) - 1)
    convert.writers[uint] = integer(uint, 0, 2 ^ bits - 1)
  end
end

--- Whether `value` is a complex cdata of either precision.
convert.is_complex = is_complex
--- What `value` is, for messages: its Lua type, or its C type.
convert.describe = describe

return convert
