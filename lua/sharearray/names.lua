--- What dtypes are called: names and type codes, sizes and units, lists of fields, descrs of .npy headers,
-- C types. Dtypes with a size, a unit or fields are made when first asked for. Loaded when a dtype is named.
-- @module sharearray.names

local dtype = require "sharearray.dtype"
local ffi = require "ffi"
local lazy = require "sharearray.lazy"
local readers = require "sharearray.readers"

local convert = lazy "sharearray.convert"
local descr = lazy "sharearray.descr"
local struct = lazy "sharearray.struct"
local text = lazy "sharearray.text"

local by_name, register = dtype.by_name, dtype.register

local names = {}

local plain = {} -- their names, in order
for code in ("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16"):gmatch "%S+" do
  plain[#plain + 1] = dtype.by_code[code].name
end

-- NumPy has no such type: in a file it is raw bytes.
plain[#plain + 1] = dtype.define("bfloat16", "V", 2, "uint16_t", "|V2").name

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
    if type(x) == "table" and not dtype.is(x) then return struct_of(x, depth + 1) end
    return names.of(x)
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
  local found, message = by_name[x] or dtype.by_code[code], nil
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
  return "there are " .. table.concat(plain, ", ")
    .. ", S10, U10, V10 and such, datetime64[ns], timedelta64[ns], and lists of {name, dtype, shape}"
end

--- See `dtype.of`.
function names.of(x)
  if dtype.is(x) then return x end
  if type(x) == "table" and x[1] ~= nil then return struct_of(x, 0) end
  if type(x) ~= "string" then
    return nil, ("a dtype or its name expected, got %s; %s"):format(type(x), there_are())
  end
  local found, message = named(x)
  if found then return found end
  return nil, message or ("unknown dtype '%s'; %s"):format(x, there_are())
end

--- See `dtype.from_descr`.
function names.from_descr(s, version)
  if s:sub(1, 1) ~= "[" then return names.of(s) end
  local list = descr.parse(s, version)
  if list then return struct_of(list, 0) end
  return nil, "its descr is no dtype"
end

-- LuaJIT has several names for one C type and prints the one it likes: int8_t comes back as "char",
-- "long" as "int64_t". Its own spelling of each of ours is the key.
local by_ctype = {}
for _, name in ipairs(plain) do
  local object = by_name[name]
  if not name:find("float16") then by_ctype[tostring(ffi.typeof(object.ctype)):match("^ctype<(.*)>$")] = object end
end

--- See `dtype.from_ctype`.
function names.from_ctype(name)
  local ok, ctype = pcall(ffi.typeof, name)
  if not ok then return nil end
  local spelling = tostring(ctype):gsub("%f[%w]const ", ""):gsub("%f[%w]volatile ", "")
  return by_ctype[spelling:match("^ctype<(.*)>$")]
end

return names
