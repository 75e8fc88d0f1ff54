--- Dtypes: what the elements of an array are.
-- There is one object per dtype, so `==` compares them, and none can be changed. `tostring` gives
-- NumPy's name. Fields:
--
--   name      NumPy's name, "float32"; "S10", "datetime64[ns]", "[('price', '<f4'), ('volume', '<i8')]"
--   kind      "b" boolean, "i" signed, "u" unsigned, "f" floating, "c" complex, "M" date, "m" time span,
--             "S" bytes, "U" unicode, "V" raw bytes and structured
--   itemsize  bytes of one element
--   descr     how an .npy header spells it, "<f4"
--   ctype     the C type of one element in memory (float16 is stored as uint16_t)
--   unit      of a date or a time span, "ns"
--   names     of a structured dtype, its fields' in order
--
-- and, for the modules that make views, `constant` (that C type, const throughout), `reader` (see
-- sharearray.readers) and `writer` (see sharearray.convert). A dtype of a new kind brings its own pair;
-- nothing else asks what kind it is.
--
-- Here are the dtypes that C and LuaJIT know; sharearray.names has what they, and all others, are called.
-- @module sharearray.dtype

local lazy = require "sharearray.lazy"
local readers = require "sharearray.readers"

local convert = lazy "sharearray.convert"
local naming = lazy "sharearray.names"

local dtype = {
  --- The dtypes there are by now, by name; and the plain ones by code, "f4".
  by_name = {}, by_code = {},
  --- The names of the plain ones, in order.
  names = {},
}

local by_name, by_code, by_kind, by_object = dtype.by_name, dtype.by_code, {}, {}

--- Makes a dtype, the only one of its name.
-- @tparam table fields see above
function dtype.register(fields)
  local name = fields.name
  local object = setmetatable({}, {
    __index = fields,
    __newindex = function(_, key) error(("dtype %s is read-only: cannot set '%s'"):format(name, tostring(key)), 2) end,
    __tostring = function() return name end,
    __metatable = "dtype",
  })
  by_name[name], by_object[object] = object, object
  return object
end

-- The writer of a dtype is found when first needed.
local plain = {
  __index = function(fields, key)
    if key ~= "writer" then return nil end
    fields.writer = convert.writers[fields.name]
    return fields.writer
  end,
}

-- A dtype whose elements C and LuaJIT know.
local function define(name, kind, itemsize, ctype, spelling)
  local object = dtype.register(setmetatable({
    name = name,
    kind = kind,
    itemsize = itemsize,
    descr = spelling or (itemsize == 1 and "|" or "<") .. kind .. itemsize,
    ctype = ctype,
    constant = "const " .. ctype,
    reader = readers[name],
  }, plain))
  if not spelling then
    local byte = kind:byte()
    by_kind[byte] = by_kind[byte] or {}
    by_kind[byte][itemsize], by_code[kind .. itemsize] = object, object
  end
  dtype.names[#dtype.names + 1] = name
end

define("bool", "b", 1, "bool")
define("int8", "i", 1, "int8_t")
define("int16", "i", 2, "int16_t")
define("int32", "i", 4, "int32_t")
define("int64", "i", 8, "int64_t")
define("uint8", "u", 1, "uint8_t")
define("uint16", "u", 2, "uint16_t")
define("uint32", "u", 4, "uint32_t")
define("uint64", "u", 8, "uint64_t")
define("float16", "f", 2, "uint16_t")
define("float32", "f", 4, "float")
define("float64", "f", 8, "double")
define("complex64", "c", 8, "complex float")
define("complex128", "c", 16, "complex double")
define("bfloat16", "V", 2, "uint16_t", "|V2") -- NumPy has no such type: in a file it is raw bytes

--- Whether `x` is a dtype.
function dtype.is(x) return by_object[x] ~= nil end

--- The dtype that `x` names.
-- @param x a dtype, NumPy's name ("float32", "datetime64[ns]"), a type code ("f4", "<f4", "|u1", "?", "S10",
--   "M8[ns]"), or a list of fields {name, dtype, shape}, each behind the one before it; {"", "V4"} is a gap
-- @return the dtype; or nil and a message that lists what there is
function dtype.of(x)
  if by_object[x] then return x end
  return naming.of(x)
end

--- The dtype of an .npy header's descr.
-- @tparam string s without the quotes of a plain type
-- @tparam number version of the file's format
-- @return the dtype; or nil and a message
function dtype.from_descr(s, version) return naming.from_descr(s, version) end

--- The plain dtype of a kind and an itemsize, `from_npy(("f"):byte(), 4)`: a number of `sharearray_npy`.
-- @return the dtype, or nil
function dtype.from_npy(kind, itemsize)
  local of_kind = by_kind[kind]
  return of_kind and of_kind[itemsize]
end

--- The dtype whose elements are of the C type `name`, in any spelling that LuaJIT reads: "float",
-- "unsigned char", "long". Never float16, which C stores as an integer.
-- @return the dtype, or nil
function dtype.from_ctype(name) return naming.from_ctype(name) end

return dtype
