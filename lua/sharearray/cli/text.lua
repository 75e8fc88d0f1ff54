--- Sizes, ages, tables and JSON, for people and for programs.
-- @module sharearray.cli.text

local cjson = require("cjson").new()

local M = {}

local SIZES = { "", "K", "M", "G", "T", "P" }
local AGES = { s = 1, m = 60, h = 3600, d = 86400, w = 7 * 86400 }

--- Bytes as `ls -h` has them: three digits at most, and the powers of 1024.
function M.size(bytes)
  local unit = 1
  while bytes >= 999.5 and unit < #SIZES do
    bytes, unit = bytes / 1024, unit + 1
  end
  return (unit > 1 and bytes < 9.95 and "%.1f%s" or "%.0f%s"):format(bytes, SIZES[unit])
end

--- "4G" in bytes.
-- @return[2] nil, message
function M.parse_size(text)
  local number, suffix = text:match("^(%d+%.?%d*)(%a?)$")
  for power, unit in ipairs(SIZES) do
    if unit == (suffix or "?"):upper() then return tonumber(number) * 1024 ^ (power - 1) end
  end
  return nil, ("'%s' is no size: a number, and K, M, G, T or P"):format(text)
end

--- Seconds in their greatest whole unit, up to days.
function M.age(seconds)
  for _, unit in ipairs { "d", "h", "m" } do
    if seconds >= AGES[unit] then return ("%d%s"):format(seconds / AGES[unit], unit) end
  end
  return ("%ds"):format(seconds)
end

--- "2d" in seconds.
-- @return[2] nil, message
function M.parse_age(text)
  local number, unit = text:match("^(%d+%.?%d*)([smhdw])$")
  if number then return tonumber(number) * AGES[unit] end
  return nil, ("'%s' is no age: a number, and s, m, h, d or w"):format(text)
end

--- A shape as Python writes it.
function M.tuple(shape)
  return "(" .. table.concat(shape, ", ") .. (#shape == 1 and ",)" or ")")
end

--- A value in one line that commands no terminal: control characters as escapes. Numbers in as few digits
-- as read back the same.
function M.printable(value)
  if type(value) == "number" then
    for digits = 14, 17 do
      local text = ("%." .. digits .. "g"):format(value)
      if tonumber(text) == value then return text end
    end
  end
  return (tostring(value):gsub("%c", function(c) return ("\\x%02x"):format(c:byte()) end))
end

--- Lines of aligned columns.
-- @tparam table rows lists of strings, each of the same length
-- @tparam[opt] table right set of the columns that are aligned to the right
function M.columns(rows, right)
  local widths, lines = {}, {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, #cell) end
  end
  for _, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local space = (" "):rep(widths[i] - #cell)
      cells[i] = right and right[i] and space .. cell or cell .. space
    end
    lines[#lines + 1] = table.concat(cells, "  "):gsub(" +$", "") .. "\n"
  end
  return table.concat(lines)
end

local encode

local function encode_list(list)
  local parts = {}
  for i, value in ipairs(list) do parts[i] = encode(value) end
  return "[" .. table.concat(parts, ",") .. "]"
end

local function encode_object(object)
  local keys, parts = {}, {}
  for key in pairs(object) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do parts[i] = cjson.encode(key) .. ":" .. encode(object[key]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

function encode(value)
  if type(value) == "number" then return (value % 1 == 0 and "%.0f" or "%.6f"):format(value) end
  if type(value) ~= "table" then return cjson.encode(value) end
  return next(value) == nil and "[]" or #value > 0 and encode_list(value) or encode_object(value)
end

--- JSON of lists and objects, which are never empty here: an empty table is a list. lua-cjson itself
-- makes it an object, and writes numbers with 14 digits.
M.json = encode

return M
