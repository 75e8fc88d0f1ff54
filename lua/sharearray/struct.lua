--- Structured dtypes: their layout, and records, which are their elements as Lua sees them.
--
-- A record is a place in memory, not a copy: `events[i].price` reads it there, `x[i].price = 5` writes it
-- as long as the memory may be written. It counts as a view does, so no record outlives its memory, and
-- it goes through the same readers and writers as elements do, so what it gives is sound and what it
-- takes is checked. (A reference to an FFI struct would be neither: `view.data[i]` is one.)
-- @module sharearray.struct

local ctypes = require "sharearray.ctypes"
local descr = require "sharearray.descr"
local element = require "sharearray.element"
local ffi = require "ffi"
local format = require "sharearray.format"
local instance = require "sharearray.instance"
local shapes = require "sharearray.shape"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

local cast = ffi.cast

local struct = {}

local MAX_ITEM = 2 ^ 30 -- bytes of an element, as in core/npy.c
local map_p, bytes_p = ffi.typeof("sharearray_map *"), ffi.typeof("uint8_t *")

-- A record answers this key with its dtype's fields.
local FIELDS = {}
local known = {} -- the set of them

local function ask(x) return x[FIELDS] end

local function fields_of(x)
  if type(x) ~= "cdata" then return nil end
  local ok, fields = pcall(ask, x) -- cdata of others has no such key, which is an error
  return ok and known[fields] and fields or nil
end

-- Layout ----------------------------------------------------------------------------------------------

local function field_of(entry, of)
  if type(entry) ~= "table" then return nil, "a field is a table {name, dtype, shape}, got " .. type(entry) end
  local name, title = entry[1], nil
  if type(name) == "table" then title, name = name[1], name[2] end
  if type(name) ~= "string" then return nil, "the name of a field must be a string, got " .. type(name) end
  local quoted, quoted_title = descr.quote(name), title and descr.quote(title)
  if not quoted or title and not quoted_title then return nil, "the name of a field is not UTF-8" end
  local dtype, message = of(entry[2])
  if not dtype then return nil, ("field %s: %s"):format(quoted, message) end
  local shape, size = shapes.check(entry[3] or {})
  if not shape then return nil, ("field %s: %s"):format(quoted, size) end
  if name == "" and (dtype.kind ~= "V" or dtype.reader.fields) then return nil, "a field has no name" end
  if title then quoted = ("(%s, %s)"):format(quoted_title, quoted) end
  return { name = name, title = title, quoted = quoted, dtype = dtype, shape = shape, size = size * dtype.itemsize }
end

local function spell(field)
  if field.name == "" then return ("('', '|V%d')"):format(field.size) end
  local of = field.dtype.descr
  if of:sub(1, 1) ~= "[" then of = "'" .. of .. "'" end
  local shape = #field.shape > 0 and ", " .. descr.tuple(field.shape) or ""
  return ("(%s, %s%s)"):format(field.quoted, of, shape)
end

-- Sets the offsets: the list of the fields that are no padding, their table by name, the size, the descr.
local function lay_out(list, of)
  local fields, by_name, parts, offset = {}, {}, {}, 0
  for _, entry in ipairs(list) do
    local field, message = field_of(entry, of)
    if not field then return nil, message end
    parts[#parts + 1] = spell(field)
    field.offset, offset = offset, offset + field.size
    if offset > MAX_ITEM then return nil, "an element has more than 2^30 bytes" end
    if field.name ~= "" then
      if by_name[field.name] then return nil, ("there are two fields %s"):format(field.quoted) end
      fields[#fields + 1], by_name[field.name] = field, field
    end
  end
  return fields, by_name, offset, "[" .. table.concat(parts, ", ") .. "]"
end

-- The members of the C struct. Fields whose names C has no use for, and gaps, are bytes.
local function members_of(fields, by_name, itemsize)
  local members, at = {}, 0
  local function gap(size)
    if size == 0 then return end
    local name = "bytes_" .. at
    while by_name[name] do name = name .. "_" end
    members[#members + 1] = { name = name, ctype = "uint8_t", constant = "const uint8_t", dims = "[" .. size .. "]" }
  end
  for _, field in ipairs(fields) do
    if field.size > 0 and ctypes.is_member(field.name) then
      gap(field.offset - at)
      at = field.offset + field.size
      local dims = {}
      for axis, n in ipairs(field.shape) do dims[axis] = "[" .. n .. "]" end
      members[#members + 1] = { name = field.name, ctype = field.dtype.ctype, constant = field.dtype.constant,
        dims = table.concat(dims) }
    end
  end
  gap(itemsize - at)
  return members
end

-- Values to memory -------------------------------------------------------------------------------------

-- Writes a value, or nested lists of them, from `pointer` on. Returns what is wrong.
local function put_list(field, mutable, pointer, value, axis)
  if axis > #field.shape then
    local x, message = field.dtype.writer(value)
    if message ~= nil then return message end
    cast(mutable, pointer)[0] = x
    return nil, pointer + field.dtype.itemsize
  end
  local n = field.shape[axis]
  if type(value) ~= "table" or #value ~= n then
    return ("a list of %d expected, got %s"):format(n, type(value) == "table" and "one of " .. #value or type(value))
  end
  for i = 1, n do
    local message
    message, pointer = put_list(field, mutable, pointer, rawget(value, i), axis + 1)
    if message then return message end
  end
  return nil, pointer
end

-- Sets a field of the struct at `base`, wholly or not at all.
local function put(field, base, value)
  field.mutable = field.mutable or ffi.typeof(field.dtype.ctype .. " *")
  if #field.shape == 0 then return (put_list(field, field.mutable, base + field.offset, value, 1)) end
  if view.is(value) then
    if view.map(value) == nil then return "the view is closed" end
    value = value:totable()
  end
  local buffer = ffi.new("uint8_t[?]", field.size)
  local message = put_list(field, field.mutable, cast(bytes_p, buffer), value, 1)
  if message then return message end
  ffi.copy(base + field.offset, buffer, field.size)
end

-- Fields are read without metamethods: nothing of the user's runs while an element is set.
local function make_writer(fields, by_name, ctype, itemsize)
  local new = ffi.typeof(ctype)
  return function(value)
    local of, x = fields_of(value), new()
    if of == fields then
      ffi.copy(x, value[of.POINTER], itemsize)
      return x
    end
    if not of and type(value) ~= "table" then return nil, "a table of fields expected, got " .. type(value) end
    for name in pairs(of and of.by_name or value) do
      if not by_name[name] then return nil, ("there is no field '%s'"):format(tostring(name)) end
    end
    for _, field in ipairs(fields) do
      local part
      if of then part = of.by_name[field.name] and value[field.name] else part = rawget(value, field.name) end
      if part == nil then return nil, ("the field '%s' is missing"):format(field.name) end
      local message = put(field, cast(bytes_p, x), part)
      if message then return nil, ("field '%s': %s"):format(field.name, message) end
    end
    return x
  end
end

-- Records ---------------------------------------------------------------------------------------------

local function refuse(fields, key, level)
  error(("there is no field '%s' in %s"):format(tostring(key), fields.descr), level + 1)
end

-- How a field is read: a function of the record and its pointer.
local function make_getter(field, MAP, SEALED)
  local offset, dtype, shape = field.offset, field.dtype, field.shape
  if #shape > 0 then
    return function(self, pointer)
      return instance.make(dtype, shape, nil, pointer + offset, self[MAP], self[SEALED])
    end
  end
  if dtype.reader.fields then
    local make = dtype.reader.make()
    return function(self, pointer) return make(self[MAP], self[SEALED], pointer + offset) end
  end
  local load = element.load(dtype)
  return function(_, pointer) return load(pointer + offset) end
end

-- The class of a dtype's records: `make(map, sealed, pointer)`. The members of the struct must not hide
-- a field.
local function make_class(fields, by_name)
  local own = "_"
  for name in pairs(by_name) do
    while name:sub(1, #own) == own do own = own .. "_" end
  end
  local MAP, SEALED, POINTER = own .. "map", own .. "sealed", own .. "pointer"
  fields.POINTER = POINTER
  local ct = ffi.typeof(("struct { const void *const %s; const uint8_t *const %s, *const %s; } /* %s %s */"):format(
    MAP, SEALED, POINTER, tostring(fields), tostring(struct)))
  local getters = {}
  for _, field in ipairs(fields) do getters[field.name] = make_getter(field, MAP, SEALED) end

  local function drop(self)
    local map = self[MAP]
    if map == nil then return end
    ffi.fill(self, ffi.sizeof(self))
    C.sharearray_unref(cast(map_p, map))
  end

  ffi.metatype(ct, {
    __gc = drop,
    __index = function(self, key)
      local get = getters[key]
      if not get then
        if key == FIELDS then return fields end
        refuse(fields, key, 2)
      end
      local pointer = self[POINTER]
      if pointer == nil then error("the record is closed", 2) end
      return get(self, pointer)
    end,
    __newindex = function(self, key, value)
      local field = by_name[key]
      if not field then refuse(fields, key, 2) end
      if self[POINTER] == nil then error("the record is closed", 2) end
      if self[SEALED][0] ~= 0 then error("the array is read-only: cannot set '" .. key .. "'", 2) end
      local message = put(field, cast(bytes_p, self[POINTER]), value)
      if message then error(("field '%s': %s"):format(key, message), 2) end
    end,
    __tostring = function(self) return format.record(self, fields) end,
  })

  return function(map, sealed, pointer)
    C.sharearray_ref(cast(map_p, map))
    return ct(map, sealed, cast(bytes_p, pointer))
  end
end

-- A record as a Lua table.
local function make_plain(fields)
  return function(record)
    local result = {}
    for _, field in ipairs(fields) do
      local x = record[field.name]
      if #field.shape > 0 then x = x:totable()
      elseif field.dtype.reader.fields then x = field.dtype.reader.plain(x)
      end
      result[field.name] = x
    end
    return result
  end
end

--- The fields of a structured dtype.
-- @tparam table list of {name, dtype, shape}; name may be {title, name}; {"", "V4"} is a gap
-- @tparam function of what gives the dtype of a field
-- @return[1] a table: name, kind, itemsize, descr, names, ctype, constant, reader, writer
-- @return[2] nil, message
function struct.dtype(list, of)
  local fields, by_name, itemsize, text = lay_out(list, of)
  if not fields then return nil, by_name end
  local ctype, constant = ctypes.struct(text, members_of(fields, by_name, itemsize), itemsize)
  if not ctype then return nil, constant end
  local names, make = {}, nil
  for i, field in ipairs(fields) do names[i] = field.name end
  fields.by_name, fields.descr, known[fields] = by_name, text, true
  return {
    name = text, kind = "V", itemsize = itemsize, descr = text, names = names, ctype = ctype, constant = constant,
    reader = {
      guard = "", value = "read(map, sealed, elements + k)", takes = { "map", "sealed" },
      make = function()
        make = make or make_class(fields, by_name)
        return make
      end,
      fields = by_name, plain = make_plain(fields), list = fields,
    },
    writer = make_writer(fields, by_name, ctype, itemsize),
  }
end

return struct
