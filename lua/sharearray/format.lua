--- `tostring` of a view, as NumPy prints arrays:
--
--     array([[0, 1, 2],
--            [3, 4, 5]], dtype=float32, shape=(2, 3))
--
-- More than 1000 elements are summarised: three at either end of each axis.
-- @module sharearray.format

local convert = require "sharearray.convert"
local ffi = require "ffi"

local format = {}

local THRESHOLD, EDGE, LINE = 1000, 3, 75
local ELLIPSIS = "..."

local float_p = ffi.new("float[1]")

local function to_float32(x)
  float_p[0] = x
  return float_p[0]
end

-- What is left of a number in the types with fewer digits than a double.
local narrow = {
  float16 = function(x) return convert.halves()[convert.writers.float16(x)] end,
  bfloat16 = function(x) return convert.bfloats()[convert.writers.bfloat16(x)] end,
  float32 = to_float32,
  complex64 = to_float32,
}

-- The fewest digits that give the number again, so that float32's 0.1 is 0.1; at most eight, as NumPy
-- shows of a double.
local function real(x, narrowed)
  if x ~= x then return "nan" end
  if x == math.huge or x == -math.huge then return x > 0 and "inf" or "-inf" end
  if x % 1 == 0 and math.abs(x) < 1e16 then return ("%.0f"):format(x) end
  local text
  for precision = 1, 8 do
    text = ("%." .. precision .. "g"):format(x)
    local back = tonumber(text)
    if narrowed then back = narrowed(back) end
    if back == x then break end
  end
  return text
end

-- A string in quotes. Only unicode has bytes that are shown as they are though they are not ASCII; but not of the
-- characters that command a terminal (U+0080 to U+009F), end a line (U+2028, U+2029), or have what follows shown in
-- another order (U+202A to U+202E, U+2066 to U+2069).
local function quoted(s, kind)
  local odd = kind == "U" and "[%c'\\]" or "[%c'\\\127-\255]"
  local function escaped(c) return (c == "'" or c == "\\") and "\\" .. c or ("\\x%02x"):format(c:byte()) end
  s = s:gsub(odd, escaped)
  if kind == "U" then
    s = s:gsub("\194([\128-\159])", escaped)
    s = s:gsub("\226\128([\168-\174])", function(c) return ("\\u20%02x"):format(c:byte() - 128) end)
    s = s:gsub("\226\129([\166-\169])", function(c) return ("\\u20%02x"):format(c:byte() - 64) end)
  end
  return "'" .. s .. "'"
end

local element

-- A field of a record that is an array, in one line.
local function inline(x, ndim, dtype)
  if ndim == 0 then return element(x, dtype) end
  local items = {}
  for i = 0, #x - 1 do items[i + 1] = inline(x[i], ndim - 1, dtype) end
  return "[" .. table.concat(items, ", ") .. "]"
end

--- The text of a record: the values of its fields, a list of which is given.
function format.record(x, fields)
  local items = {}
  for i, field in ipairs(fields) do items[i] = inline(x[field.name], #field.shape, field.dtype) end
  return "(" .. table.concat(items, ", ") .. (#items == 1 and ",)" or ")")
end

function element(x, dtype)
  local narrowed = narrow[dtype.name]
  if type(x) == "number" then return real(x, narrowed) end
  if type(x) == "string" then return quoted(x, dtype.kind) end
  if dtype.names then return tostring(x) end
  if convert.is_complex(x) then
    local im = real(x.im, narrowed)
    return real(x.re, narrowed) .. (im:sub(1, 1) == "-" and "" or "+") .. im .. "i"
  end
  return (tostring(x):gsub("U?LL$", ""))
end

-- Nested lists of texts, and the width of the widest.
local function collect(x, ndim, dtype, summarise, width)
  if ndim == 0 then
    local text = element(x, dtype)
    return text, math.max(width, #text)
  end
  local n, items = #x, {}
  local i = 0
  while i < n do
    if summarise and i == EDGE and n > 2 * EDGE then
      items[#items + 1] = ELLIPSIS
      i = n - EDGE
    end
    items[#items + 1], width = collect(x[i], ndim - 1, dtype, summarise, width)
    i = i + 1
  end
  return items, width
end

-- One axis of elements, broken into lines.
local function row(items, indent, width)
  local lines, line = {}, ""
  for k, text in ipairs(items) do
    local padded = (text == ELLIPSIS and "" or (" "):rep(width - #text)) .. text
    if line ~= "" and #indent + #line + 2 + #padded + 1 > LINE then
      lines[#lines + 1], line = line, padded
    else
      line = k == 1 and padded or line .. " " .. padded
    end
    if k < #items then line = line .. "," end
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n" .. indent)
end

local function join(items, ndim, indent, width)
  if ndim == 0 then return items end
  if ndim == 1 then return "[" .. row(items, indent .. " ", width) .. "]" end
  local parts = {}
  for k, item in ipairs(items) do
    parts[k] = item == ELLIPSIS and item or join(item, ndim - 1, indent .. " ", width)
  end
  return "[" .. table.concat(parts, "," .. ("\n"):rep(ndim - 1) .. indent .. " ") .. "]"
end

--- The text of a view. A closed one has a text too.
function format.tostring(view)
  if view.map == nil then return "array(closed)" end
  local shape, dtype, ndim = view.shape, view.dtype, view.ndim
  local tuple = "(" .. table.concat(shape, ", ") .. (ndim == 1 and ",)" or ")")
  local body
  if view.size == 0 then
    body = "[]"
  elseif ndim == 0 then
    body = element(view(), dtype)
  else
    local items, width = collect(view, ndim, dtype, view.size > THRESHOLD, 0)
    body = join(items, ndim, "      ", width)
  end
  return ("array(%s, dtype=%s, shape=%s)"):format(body, tostring(dtype), tuple)
end

return format
