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
  --- The dtypes that were made so far, by name.
  by_name = {},
}

local by_name, by_object, by_kind = dtype.by_name, {}, {}

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

--- Makes a dtype whose elements C and LuaJIT know.
function dtype.define(name, kind, itemsize, ctype, descr)
  return dtype.register(setmetatable({
    name = name,
    kind = kind,
    itemsize = itemsize,
    descr = descr,
    ctype = ctype,
    constant = "const " .. ctype,
    reader = readers[name],
  }, plain))
end

-- NumPy's name and the C type of the plain dtypes, by kind and itemsize.
local PLAIN = {
  b1 = { "bool", "bool" },
  i1 = { "int8", "int8_t" }, i2 = { "int16", "int16_t" }, i4 = { "int32", "int32_t" }, i8 = { "int64", "int64_t" },
  u1 = { "uint8", "uint8_t" }, u2 = { "uint16", "uint16_t" }, u4 = { "uint32", "uint32_t" },
  u8 = { "uint64", "uint64_t" },
  f2 = { "float16", "uint16_t" }, f4 = { "float32", "float" }, f8 = { "float64", "double" },
  c8 = { "complex64", "complex float" }, c16 = { "complex128", "complex double" },
}

--- The plain dtypes by code, "f4"; each is made when first asked for.
dtype.by_code = setmetatable({}, { __index = function(by_code, code)
  local known = PLAIN[code]
  if not known then return nil end
  local kind, itemsize = code:sub(1, 1), tonumber(code:sub(2))
  by_code[code] = dtype.define(known[1], kind, itemsize, known[2], (itemsize == 1 and "|" or "<") .. code)
  return by_code[code]
end })

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
  if not of_kind then
    of_kind = {}
    by_kind[kind] = of_kind
  end
  of_kind[itemsize] = of_kind[itemsize] or dtype.by_code[string.char(kind) .. itemsize]
  return of_kind[itemsize]
end

--- The dtype whose elements are of the C type `name`, in any spelling that LuaJIT reads: "float",
-- "unsigned char", "long". Never float16, which C stores as an integer.
-- @return the dtype, or nil
function dtype.from_ctype(name) return naming.from_ctype(name) end

return dtype
