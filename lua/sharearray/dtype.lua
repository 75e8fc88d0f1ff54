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
-- @module sharearray.dtype

local ffi = require "ffi"
local lazy = require "sharearray.lazy"
local readers = require "sharearray.readers"

local convert = lazy "sharearray.convert"
local descr = lazy "sharearray.descr"
local struct = lazy "sharearray.struct"
local text = lazy "sharearray.text"

local dtype = {}

local by_name, by_descr, by_kind, by_object, names = {}, {}, {}, {}, {}

local function register(fields)
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
  local object = register(setmetatable({
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
    by_kind[byte][itemsize], by_descr[kind .. itemsize] = object, object
  end
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
define("bfloat16", "V", 2, "uint16_t", "|V2") -- NumPy has no such type: in a file it is raw bytes

-- LuaJIT has several names for one C type and prints the one it likes: int8_t comes back as "char",
-- "long" as "int64_t". Its own spelling of each of ours is the key.
local by_ctype = {}
for _, name in ipairs(names) do
  local object = by_name[name]
  if not name:find("float16") then by_ctype[tostring(ffi.typeof(object.ctype)):match("^ctype<(.*)>$")] = object end
end

-- Dtypes with a size or a unit, made when first asked for ----------------------------------------------

local MAX_ITEM = 2 ^ 30 -- bytes of an element, as in core/npy.c

local function text_of(kind, n)
  if n * (kind == "U" and 4 or 1) > MAX_ITEM then return nil, "an element has more than 2^30 bytes" end
  local known = by_name[kind .. ("%d"):format(n)]
  if known then return known end
  local fields, message = text.dtype(kind, n)
  if not fields then return nil, message end
  if fields.name == "V2" then fields.reader.bfloat16 = by_name.bfloat16 end
  return register(fields)
end

local TIMES = { M = "datetime64", m = "timedelta64", datetime64 = "datetime64", timedelta64 = "timedelta64" }
local UNITS = {}
for unit in ("Y M W D h m s ms us ns ps fs as"):gmatch("%a+") do UNITS[unit] = true end

-- `rest`: "[ns]", "[25s]", or "" for a generic one.
local function time_of(word, rest)
  local multiple, unit = rest:match("^%[(%d*)(%a+)%]$")
  if rest ~= "" and (not UNITS[unit] or multiple:find("^0+$")) or #(multiple or "") > 9 then return nil end
  if unit then
    if multiple ~= "" and tonumber(multiple) > 1 then unit = ("%d"):format(multiple) .. unit end
    rest = "[" .. unit .. "]"
  end
  local name = TIMES[word] .. rest
  return by_name[name] or register {
    name = name, kind = name:sub(1, 1) == "d" and "M" or "m", itemsize = 8, unit = unit,
    descr = (name:sub(1, 1) == "d" and "<M8" or "<m8") .. rest,
    ctype = "int64_t", constant = "const int64_t", reader = readers.int64, writer = convert.writers.int64,
  }
end

local function struct_of(list, depth)
  if depth == 16 then return nil, "it is nested more than 16 deep" end
  local fields, message = struct.dtype(list, function(x)
    if type(x) == "table" and not by_object[x] then return struct_of(x, depth + 1) end
    return dtype.of(x)
  end)
  if not fields then return nil, message end
  return by_name[fields.name] or register(fields)
end

-- nil: `x` is the name of none. nil, message: of one that cannot be had.
local function named(x)
  if x == "?" then return by_name.bool end
  local order, code = x:match("^([<>=|]?)(%a.*)$")
  if not code then return nil end
  local kind, n = code:match("^([SUV])(%d+)$")
  local found, message = by_name[x] or by_descr[code], nil
  if kind and not found then found, message = text_of(kind, tonumber(n)) end
  local word, rest = code:match("^([Mm])8(.*)$")
  if not word then word, rest = x:match("^(%l+64)(.*)$") end
  if TIMES[word] and not found then found = time_of(word, rest) end
  if found and order == ">" and found.itemsize > 1 and kind ~= "S" and kind ~= "V" then
    return nil, ("big-endian dtype '%s' is unsupported; convert to '%s'"):format(x, found.descr)
  end
  return found, message
end

local function there_are()
  return "there are " .. table.concat(names, ", ")
    .. ", S10, U10, V10 and such, datetime64[ns], timedelta64[ns], and lists of {name, dtype, shape}"
end

--- The dtype that `x` names.
-- @param x a dtype, NumPy's name ("float32", "datetime64[ns]"), a type code ("f4", "<f4", "|u1", "?", "S10",
--   "M8[ns]"), or a list of fields {name, dtype, shape}, each behind the one before it; {"", "V4"} is a gap
-- @return the dtype; or nil and a message that lists what there is
function dtype.of(x)
  if by_object[x] then return x end
  if type(x) == "table" and x[1] ~= nil then return struct_of(x, 0) end
  if type(x) ~= "string" then
    return nil, ("a dtype or its name expected, got %s; %s"):format(type(x), there_are())
  end
  local found, message = named(x)
  if found then return found end
  return nil, message or ("unknown dtype '%s'; %s"):format(x, there_are())
end

--- The dtype of an .npy header's descr.
-- @tparam string s without the quotes of a plain type
-- @tparam number version of the file's format
-- @return the dtype; or nil and a message
function dtype.from_descr(s, version)
  if s:sub(1, 1) ~= "[" then return dtype.of(s) end
  local list = descr.parse(s, version)
  if list then return struct_of(list, 0) end
  return nil, "its descr is no dtype"
end

--- The plain dtype of a kind and an itemsize, `from_npy(("f"):byte(), 4)`: a number of `sharearray_npy`.
-- @return the dtype, or nil
function dtype.from_npy(kind, itemsize)
  local of_kind = by_kind[kind]
  return of_kind and of_kind[itemsize]
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
