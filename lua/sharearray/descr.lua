--- Descrs of structured dtypes: Python literals in .npy headers, read into Lua tables and written.
-- A list or a tuple is a list here, so that what is read has the form that users write:
-- `{{"price", "<f4"}, {"levels", "<f4", {2, 3}}}`.
-- @module sharearray.descr

local ffi = require "ffi"
local text = require "sharearray.text"

local descr = {}

local DIGITS = { x = 2, u = 4, U = 8 }
local PLAIN = { n = "\n", r = "\r", t = "\t" }

local function utf8(code) return text.encode({ [0] = code }, 1) end

local function unescape(c, digits)
  local n = DIGITS[c]
  if not n then return (PLAIN[c] or c) .. digits end
  return utf8(tonumber(digits:sub(1, n), 16)) .. digits:sub(n + 1)
end

-- The value that begins at `at`, and where it ends; nothing where there is none.
local function value(s, at)
  at = s:find("%S", at)
  local c = at and s:sub(at, at)
  if c == "'" or c == '"' then
    local stop = at
    repeat
      stop = s:find("[\\" .. c .. "]", stop + 1)
      if not stop then return nil end
      local escaped = s:byte(stop) == 92
      if escaped then stop = stop + 1 end
    until not escaped
    return (s:sub(at + 1, stop - 1):gsub("\\(.)(%x*)", unescape)), stop + 1
  elseif c == "[" or c == "(" then
    local list, close = {}, c == "[" and "^%s*,?%s*%]" or "^%s*,?%s*%)"
    at = at + 1
    while true do
      local _, last = s:find(close, at)
      if last then return list, last + 1 end
      if #list > 0 then at = select(2, s:find("^%s*,", at)) end
      if not at then return nil end
      list[#list + 1], at = value(s, #list > 0 and at + 1 or at)
      if not at then return nil end
    end
  end
  local first, last, digits = s:find("^(%d+)L?", at or #s + 1)
  if first then return tonumber(digits), last + 1 end
end

--- Reads a descr.
-- @tparam string s from an .npy file's header
-- @tparam number version of the file's format: text is Latin-1 before 3
-- @treturn table nil where it is none
function descr.parse(s, version)
  if version < 3 and s:find("[\128-\255]") then s = text.encode(ffi.cast("const uint8_t *", s), #s) end
  local list, stop = value(s, 1)
  return type(list) == "table" and not s:find("%S", stop) and list or nil
end

local ESCAPES = { [10] = "\\n", [13] = "\\r", [9] = "\\t", [39] = "\\'", [92] = "\\\\" }

--- A string as Python's `ascii` writes it; nil where it is no UTF-8.
function descr.quote(s)
  local parts = {}
  for _, code in text.codes(s) do
    if code < 0 then return nil end
    local format = code > 0xffff and "\\U%08x" or code > 0xff and "\\u%04x" or (code > 0x7e or code < 32) and "\\x%02x"
    parts[#parts + 1] = ESCAPES[code] or format and format:format(code) or string.char(code)
  end
  return "'" .. table.concat(parts) .. "'"
end

--- A tuple of numbers.
function descr.tuple(list)
  return "(" .. table.concat(list, ", ") .. (#list == 1 and ",)" or ")")
end

return descr
