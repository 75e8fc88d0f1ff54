--- Dtypes: what the elements of an array are.
-- There is one object per dtype, so `==` compares them, and none can be changed. `tostring` gives
-- NumPy's name. Fields:
--
--   name      NumPy's name, "float32"
--   kind      "b" boolean, "i" signed, "u" unsigned, "f" floating, "c" complex
--   itemsize  bytes of one element
--   descr     how an .npy header spells it, "<f4"
--   ctype     the C type of one element in memory (float16 is stored as uint16_t)
--
-- and, for the modules that make views, `reader` and `writer` (see sharearray.convert). A dtype of a
-- new kind brings its own pair; nothing else asks what kind it is.
-- @module sharearray.dtype

local convert = require "sharearray.convert"
local ffi = require "ffi"

local dtype = {}

local by_name, by_descr, by_object, names = {}, {}, {}, {}

local function define(name, kind, itemsize, ctype)
  local fields = {
    name = name,
    kind = kind,
    itemsize = itemsize,
    descr = (itemsize == 1 and "|" or "<") .. kind .. itemsize,
    ctype = ctype,
    reader = convert.readers[name],
    writer = convert.writers[name],
  }
  local object = setmetatable({}, {
    __index = fields,
    __newindex = function(_, key) error(("dtype %s is read-only: cannot set '%s'"):format(name, tostring(key)), 2) end,
    __tostring = function() return name end,
    __metatable = "dtype",
  })
  by_name[name], by_descr[kind .. itemsize], by_object[object] = object, object, object
  names[#names + 1] = name
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

-- LuaJIT has several names for one C type and prints the one it likes: int8_t comes back as "char",
-- "long" as "int64_t". Its own spelling of each of ours is the key.
local by_ctype = {}
for _, name in ipairs(names) do
  local object = by_name[name]
  if name ~= "float16" then by_ctype[tostring(ffi.typeof(object.ctype)):match("^ctype<(.*)>$")] = object end
end

--- The dtype that `x` names.
-- @param x a dtype, NumPy's name ("float32"), or a type code ("f4", "<f4", "|u1", "?")
-- @return the dtype; or nil and a message that lists what there is
function dtype.of(x)
  if by_object[x] then return x end
  if type(x) ~= "string" then
    return nil, ("a dtype or its name expected, got %s; there are %s"):format(type(x), table.concat(names, ", "))
  end
  if x == "?" then return by_name.bool end
  local order, code = x:match("^([<>=|]?)(%l%d+)$")
  local found = by_name[x] or by_descr[code]
  if found and order == ">" and found.itemsize > 1 then
    return nil, ("big-endian dtype '%s' is unsupported; convert to '%s'"):format(x, found.descr)
  end
  if found then return found end
  return nil, ("unknown dtype '%s'; there are %s"):format(x, table.concat(names, ", "))
end

--- The dtype of an .npy header's kind and itemsize: `from_npy("f", 4)`.
-- @return the dtype, or nil
function dtype.from_npy(kind, itemsize)
  return by_descr[kind .. itemsize]
end

--- The dtype whose elements are of the C type `name`, in any spelling that LuaJIT reads: "float",
-- "unsigned char", "long". Never float16, which C stores as an integer.
-- @return the dtype, or nil
function dtype.from_ctype(name)
  local ok, ctype = pcall(ffi.typeof, name)
  if not ok then return nil end
  local spelling = tostring(ctype):gsub("%f[%w]const ", ""):gsub("%f[%w]volatile ", "")
  return by_ctype[spelling:match("^ctype<(.*)>$")]
end

return dtype
