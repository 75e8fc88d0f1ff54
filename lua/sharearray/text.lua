--- Elements that are Lua strings: NumPy's S (bytes), U (unicode, as UTF-8) and V (raw bytes).
--
-- S and U are of a fixed size, filled up with NULs; as in NumPy, the ones at the end are not part of
-- the string. V is all of its bytes.
-- @module sharearray.text

local bit = require "bit"
local convert = require "sharearray.convert"
local ctypes = require "sharearray.ctypes"
local ffi = require "ffi"

local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift

local text = {}

-- UTF-8 (RFC 3629) ------------------------------------------------------------------------------------

local REPLACEMENT = 0xfffd -- for what is no character

local scratch, room = ffi.new("uint8_t[?]", 256), 256

local function put(at, code)
  if code < 0 or code > 0x10ffff or code >= 0xd800 and code <= 0xdfff then code = REPLACEMENT end
  if code < 0x80 then
    scratch[at] = code
    return at + 1
  elseif code < 0x800 then
    scratch[at] = bor(0xc0, rshift(code, 6))
  else
    if code < 0x10000 then
      scratch[at] = bor(0xe0, rshift(code, 12))
    else
      scratch[at] = bor(0xf0, rshift(code, 18))
      at = at + 1
      scratch[at] = bor(0x80, band(rshift(code, 12), 63))
    end
    at = at + 1
    scratch[at] = bor(0x80, band(rshift(code, 6), 63))
  end
  scratch[at + 1] = bor(0x80, band(code, 63))
  return at + 2
end

--- The UTF-8 of `count` code points; U+FFFD stands for what is none.
-- @param codes anything that codes[0] to codes[count - 1] may be read of
function text.encode(codes, count)
  if 4 * count > room then
    room = 4 * count
    scratch = ffi.new("uint8_t[?]", room)
  end
  local at = 0
  for i = 0, count - 1 do at = put(at, codes[i]) end
  return ffi.string(scratch, at)
end

local least = { 0, 0x80, 0x800, 0x10000 } -- that a sequence of so many bytes may stand for

--- The code points of a UTF-8 string, one at each step: `for at, code in text.codes(s) do`. An error
-- stands as code -1, and ends it.
function text.codes(s)
  local at = 1
  return function()
    local first = s:byte(at)
    if not first then return nil end
    local size = first < 0x80 and 1 or first < 0xc2 and 0 or first < 0xe0 and 2 or first < 0xf0 and 3
      or first < 0xf5 and 4 or 0
    local from, code = at, size == 1 and first or band(first, rshift(0x7f, size))
    for i = at + 1, at + size - 1 do
      local byte = s:byte(i)
      if not byte or band(byte, 0xc0) ~= 0x80 then size = 0 break end
      code = bor(lshift(code, 6), band(byte, 0x3f))
    end
    if size == 0 or code < least[size] or code > 0x10ffff or code >= 0xd800 and code <= 0xdfff then
      at = #s + 1
      return from, -1
    end
    at = at + size
    return from, code
  end
end

-- Dtypes ----------------------------------------------------------------------------------------------

local function describe(value) return "a string expected, got " .. convert.describe(value) end

local makers = {}

function makers.S(name, n, new)
  local function read(element)
    local bytes, length = ffi.cast("const char *", element), n
    while length > 0 and bytes[length - 1] == 0 do length = length - 1 end
    return ffi.string(bytes, length)
  end
  return read, function(value)
    if type(value) ~= "string" then return nil, describe(value) end
    if #value > n then return nil, ("%d bytes do not fit %s"):format(#value, name) end
    local element = new()
    ffi.copy(element, value, #value)
    return element
  end
end

function makers.V(name, n, new)
  return function(element) return ffi.string(ffi.cast("const char *", element), n) end, function(value)
    if type(value) ~= "string" then return nil, describe(value) end
    if #value ~= n then return nil, ("%s is exactly %d bytes, got %d"):format(name, n, #value) end
    local element = new()
    ffi.copy(element, value, n)
    return element
  end
end

function makers.U(name, n, new)
  local function read(element)
    local codes, length = ffi.cast("const int32_t *", element), n
    while length > 0 and codes[length - 1] == 0 do length = length - 1 end
    return text.encode(codes, length)
  end
  return read, function(value)
    if type(value) ~= "string" then return nil, describe(value) end
    local element, count = new(), 0
    local codes = ffi.cast("uint32_t *", element)
    for at, code in text.codes(value) do
      if code < 0 then return nil, ("the string is not UTF-8 at byte %d"):format(at) end
      if count == n then return nil, ("'%.40s' has more than %d characters, as %s has"):format(value, n, name) end
      codes[count] = code
      count = count + 1
    end
    return element
  end
end

local MEMBERS = { S = "char bytes", U = "uint32_t characters", V = "uint8_t bytes" }

--- The fields of the dtype of `n` bytes (S, V) or characters (U).
-- @return[1] a table: name, kind, itemsize, descr, ctype, constant, reader, writer
-- @return[2] nil, message
function text.dtype(kind, n)
  local name = kind .. n
  local descr = (kind == "U" and "<" or "|") .. name
  local itemsize = kind == "U" and 4 * n or n
  local ctype, member = MEMBERS[kind]:match("(%S+) (%S+)")
  local writable, constant = ctypes.struct(descr,
    { { name = member, ctype = ctype, constant = "const " .. ctype, dims = "[" .. n .. "]" } }, itemsize)
  if not writable then return nil, constant end
  local read, write = makers[kind](name, n, ffi.typeof(writable))
  return {
    name = name, kind = kind, itemsize = itemsize, descr = descr, ctype = writable, constant = constant,
    reader = { guard = "", value = "read(elements + k)", make = function() return read end },
    writer = write,
  }
end

return text
