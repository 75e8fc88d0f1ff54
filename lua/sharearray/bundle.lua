--- Bundles: tables of arrays and plain values, taken apart into members and a form, and put together.
--
-- The form is a JSON text (lua-cjson): the table itself, with `{"$array": "layers/1"}` where the array in
-- the member layers/1.npy stands; by name, because zip tools change the order of members. Whatever JSON,
-- or one of lua-cjson's builds, would not give back exactly is tagged in the same way:
--
--   {"$number": "9007199254740994"} a number that 14 digits do not hold, or that is not finite
--   {"$int64": "5"}, {"$uint64": "5"}
--   {"$bytes": "00ff"}        a string that is not UTF-8, as hexadecimal digits
--   {"$list": []}             an empty list; {} is an empty object
--   {"$table": [[k, v], ...]} a table with keys that are neither 1 to n nor names
--   {"$members": 1000}        all members, so many at least, under their names: what most tables of many arrays
--                             are, and quicker than to name each
-- @module sharearray.bundle

local ffi = require "ffi"
local table_new = require "table.new"
local array = require "sharearray.array"
local instance = require "sharearray.instance"
local lifetime = require "sharearray.lifetime"
local view = require "sharearray.view"

local class_of_layout = view.class_of_layout

local found, cjson = pcall(require, "cjson")
if not found then
  error("sharearray: bundles need the Lua module cjson (Debian's lua-cjson has it): " .. tostring(cjson), 0)
end
cjson = cjson.new() -- our own settings, whatever the user's are

local M = {}

--- The name of the member that holds the form.
M.FORM = "sharearray.json"

--- JSON's null, which a Lua table cannot hold as nil.
M.null = cjson.null

local MAX_DEPTH = 100
local MOST_FORM = 2 ^ 30 -- bytes
local int64, uint64 = ffi.typeof("int64_t"), ffi.typeof("uint64_t")

-- OpenResty's lua-cjson has such a mark of its own.
local list_metatable = cjson.empty_array_mt or { __name = "list" }

--- Marks a table as a list, which only matters while it is empty.
function M.as_list(t) return setmetatable(t, list_metatable) end

-- Well-formed UTF-8 of more than one byte (RFC 3629, section 4).
local SEQUENCES = {
  "[\194-\223][\128-\191]", "\224[\160-\191][\128-\191]", "[\225-\236\238\239][\128-\191][\128-\191]",
  "\237[\128-\159][\128-\191]", "\240[\144-\191][\128-\191][\128-\191]",
  "[\241-\243][\128-\191][\128-\191][\128-\191]", "\244[\128-\143][\128-\191][\128-\191]",
}

local function is_utf8(text)
  if not text:find("[\128-\255]") then return true end
  for _, sequence in ipairs(SEQUENCES) do text = text:gsub(sequence, ".") end
  return not text:find("[\128-\255]")
end

-- Taking apart ---------------------------------------------------------------------------------------

local function encode_number(value)
  if tonumber(("%.14g"):format(value)) == value and value - value == 0 and (value ~= 0 or 1 / value > 0) then
    return value
  end
  return { ["$number"] = ("%.17g"):format(value) }
end

local function encode_string(value)
  if is_utf8(value) then return value end
  return { ["$bytes"] = value:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end) }
end

-- "list" for keys 1 to n, "object" for names, else "table". `#` sees neither holes nor other keys.
local function kind_of(t)
  local count, last, named = 0, 0, true
  for key in pairs(t) do
    count = count + 1
    last = math.max(last, type(key) == "number" and key >= 1 and key % 1 == 0 and key or math.huge)
    named = named and type(key) == "string" and key:sub(1, 1) ~= "$" and is_utf8(key)
  end
  local metatable = getmetatable(t)
  if count == 0 then
    local marked = metatable ~= nil and (metatable == list_metatable or metatable == cjson.array_mt)
    return marked and "empty list" or "object"
  end
  if count == last then return "list" end
  return named and "object" or "table"
end

local encode

local function encode_table(state, t, path, depth)
  if state.open[t] then error({ path = path, problem = "contains itself" }) end
  if depth > MAX_DEPTH then error({ path = path, problem = "is nested too deep" }) end
  state.open[t] = true
  local kind, result = kind_of(t), {}
  if kind == "empty list" then
    result["$list"] = {}
  elseif kind == "table" then
    local pairs_ = {}
    for key, value in pairs(t) do
      pairs_[#pairs_ + 1] = { encode(state, key, path, depth + 1),
        encode(state, value, ("%s/%s"):format(path, tostring(key)), depth + 1) }
    end
    result["$table"] = pairs_
  else
    for key, value in pairs(t) do
      result[key] = encode(state, value, path == "" and tostring(key) or path .. "/" .. key, depth + 1)
    end
  end
  state.open[t] = nil
  return result
end

local function encode_array(state, value, path)
  local index = state.index[value]
  if not index then
    index = #state.arrays + 1
    state.arrays[index], state.paths[index], state.index[value] = value, path, index
  end
  return { ["$array"] = index }
end

function encode(state, value, path, depth)
  local kind = type(value)
  if value == cjson.null or kind == "boolean" then return value end
  if cjson.empty_array ~= nil and value == cjson.empty_array then return { ["$list"] = {} } end
  if kind == "string" then return encode_string(value) end
  if kind == "number" then return encode_number(value) end
  if kind == "table" then return encode_table(state, value, path, depth) end
  if kind == "userdata" and array.elements(value) then return encode_array(state, value, path) end
  if kind == "cdata" then
    if view.is(value) and view.map(value) == nil then error({ path = path, problem = "is a closed view" }) end
    if view.is(value) or array.from_cdata(value) then return encode_array(state, value, path) end
    if ffi.istype(int64, value) then return { ["$int64"] = tostring(value):match("^%-?%d+") } end
    if ffi.istype(uint64, value) then return { ["$uint64"] = tostring(value):match("^%d+") } end
  end
  error({ path = path, problem = "is " .. (kind == "cdata" and "cdata that is no array" or "a " .. kind) })
end

-- Whether a table holds nothing but arrays, each once, under names.
local function is_flat(state, t)
  local count = 0
  for _, value in pairs(t) do
    if not state.index[value] then return false end
    count = count + 1
  end
  return count == #state.arrays and kind_of(t) == "object"
end

--- Takes a table apart.
-- @treturn[1] table `arrays`; `paths` of each, "layers/1/weight"; `flat`, whether those are the table's keys;
--   and `form`, for `M.name`
-- @return[2] nil, message
function M.flatten(t)
  local state = { arrays = {}, paths = {}, index = {}, open = {} }
  local ok, form = pcall(encode, state, t, "", 0)
  if not ok then
    if type(form) ~= "table" then error(form, 0) end
    return nil, ("its member '%s' %s: a bundle holds arrays, strings, numbers, booleans and tables of them"):format(
      form.path, form.problem)
  end
  if #state.arrays == 0 then
    return nil, "the table has no array in it; make a list of numbers into one with sharearray.array"
  end
  return { arrays = state.arrays, paths = state.paths, flat = is_flat(state, t), form = cjson.encode(form) }
end

local function same(a, b)
  for i, value in ipairs(a) do
    if value ~= b[i] then return false end
  end
  return true
end

--- The form as it is written, with the members' names in place of the arrays' numbers.
-- @tparam table parts what `M.flatten` gave
-- @tparam table names of each array's member, without ".npy"
function M.name(parts, names)
  if parts.flat and same(parts.paths, names) then return ('{"$members":%d}'):format(#names) end
  return (parts.form:gsub('{"$array":(%d+)}', function(i)
    return ('{"$array":%s}'):format(cjson.encode(names[tonumber(i)]))
  end))
end

-- Putting together -----------------------------------------------------------------------------------

-- A 64-bit integer from its digits; tonumber would round it.
local function parse_integer(ctype, digits)
  local value, negative = ctype(0), digits:sub(1, 1) == "-"
  for digit in digits:gmatch("%d") do value = value * 10 + (negative and -1 or 1) * tonumber(digit) end
  return value
end

local decode

local tags = {
  ["$array"] = function(arrays, name)
    return assert(arrays[name], "the form names a member that is not there")
  end,
  ["$members"] = function(arrays, least, count)
    assert(type(least) == "number", "the form has a damaged number")
    return count >= least and arrays or error("the form counts more members than are there", 0)
  end,
  ["$number"] = function(_, text)
    if text:find("nan", 1, true) then return 0 / 0 end
    return assert(tonumber(text), "the form has a damaged number")
  end,
  ["$int64"] = function(_, text) return parse_integer(int64, text) end,
  ["$uint64"] = function(_, text) return parse_integer(uint64, text) end,
  ["$bytes"] = function(_, text)
    return (text:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end))
  end,
  ["$list"] = function() return M.as_list({}) end,
  ["$table"] = function(arrays, list, count)
    local result = {}
    for _, pair in ipairs(list) do result[decode(arrays, pair[1], count)] = decode(arrays, pair[2], count) end
    return result
  end,
}

function decode(arrays, node, count)
  if type(node) ~= "table" then return node end
  local key, value = next(node)
  if type(key) == "string" and key:sub(1, 1) == "$" then
    return assert(tags[key], "the form has an unknown tag")(arrays, value, count)
  end
  for k, v in pairs(node) do
    -- Mostly arrays; and what holds them is as JSON's decoder made it.
    local name = type(v) == "table" and v["$array"]
    node[k] = name and arrays[name] or decode(arrays, v, count)
  end
  return node
end

local function rebuild(form, arrays, count) return decode(arrays, cjson.decode(form), count) end

--- Puts a table together. No closure has the arrays: code that LuaJIT compiled for one would keep them for ever.
-- @tparam string form
-- @tparam table arrays the members' views, by name without ".npy"
-- @tparam number count how many those are
-- @return[1] the table
-- @return[2] nil, message
function M.rebuild(form, arrays, count)
  local ok, result = pcall(rebuild, form, arrays, count)
  if ok and type(result) ~= "table" then return nil, "the form is no table" end
  if ok then return result end
  return nil, tostring(result):gsub("^[^:]+:%d+: ", "")
end

-- The views of all members by name, how many they are, and the form, if there is one; nil, message, code. What one
-- has in common with the one before it, as a thousand arrays mostly have, is not looked up again.
local function read(pin, map, view_of)
  local total, members = tonumber(map.count), map.members
  local arrays, list, count, form = table_new(0, math.min(total, lifetime.MOST)), lifetime.members(pin, total), 0, nil
  local layout, class
  for i = 0, total - 1 do
    local member = members[i]
    local header = member.array
    if header ~= nil then
      local name = ffi.string(member.name, member.name_length - #".npy")
      if header.layout ~= layout then
        layout = header.layout
        class = class_of_layout(layout)
      end
      local value
      if class then
        value = instance.member(class, map, member)
        lifetime.add(list, value)
      else
        local problem
        value, problem = view_of(map, header, member.offset)
        if not value then return nil, ("its member %s.npy: %s"):format(name, problem) end
        lifetime.belongs(value, pin)
      end
      arrays[name], count = value, count + 1
    elseif ffi.string(member.name, member.name_length) == M.FORM then
      if member.size > MOST_FORM then return nil, "its form is larger than a string may be", "corrupt" end
      form = ffi.string(ffi.cast("const char *", map.base) + member.offset, tonumber(member.size))
    end
  end
  return arrays, count, form
end

--- The table that a bundle is: as its form says, or, without one (numpy.savez), by the members' names.
-- @param pin an owner of the map, on whose reference the members may live, see sharearray.lifetime
-- @param map its mapping
-- @tparam function view_of makes a view of any array: of the map, a `sharearray_npy`, and where in the map its
--   file begins
-- @return[1] the table
-- @return[2] nil, message, code
function M.table_of(pin, map, view_of)
  local arrays, count, form = read(pin, map, view_of)
  if not arrays then return nil, count, form or "unsupported" end
  if not form then return arrays end
  local value, problem = M.rebuild(form, arrays, count)
  return value, problem, "corrupt"
end

return M
