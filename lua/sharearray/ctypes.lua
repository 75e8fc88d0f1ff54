--- C types of elements that are structs: fixed strings, raw bytes, structured dtypes.
--
-- Each is declared twice, for LuaJIT's const does not reach through a struct: a writable type, and one
-- of which every member is const, nested ones and elements of arrays included. Both are packed, as
-- the bytes of a file are. The names spell the descr, so that a second copy of this module in the
-- process finds what the first declared.
-- @module sharearray.ctypes

local ffi = require "ffi"

local ctypes = {}

--- Whether LuaJIT takes `name` for the name of a member: an identifier that is no keyword.
function ctypes.is_member(name)
  if not name:find("^[%a_][%w_]*$") then return false end
  local ok, ctype = pcall(ffi.typeof, "struct { int " .. name .. "; }")
  return ok and ffi.offsetof(ctype, name) == 0
end

local function declare(name, members, type_of)
  if pcall(ffi.typeof, name) then return end
  local lines = {}
  for i, member in ipairs(members) do
    lines[i] = ("%s %s%s;"):format(type_of(member), member.name, member.dims or "")
  end
  ffi.cdef(("typedef struct __attribute__((packed)) { %s } %s;"):format(table.concat(lines, " "), name))
end

--- Declares the struct of a dtype.
-- @tparam string descr
-- @tparam table members list of {name, ctype, constant, dims}: `dims` as in C, "[2][3]"
-- @tparam number size bytes that it has to have
-- @treturn[1] string the writable type
-- @treturn[1] string the constant one
-- @return[2] nil, message
function ctypes.struct(descr, members, size)
  local tag = descr:gsub("%W", function(c) return ("_%02x"):format(c:byte()) end)
  local writable, constant = "sharearray_" .. tag, "sharearray_const_" .. tag
  local ok, problem = pcall(function()
    declare(writable, members, function(member) return member.ctype end)
    declare(constant, members, function(member) return member.constant end)
    assert(ffi.sizeof(writable) == size and ffi.sizeof(constant) == size, "its size is not as described")
  end)
  if ok then return writable, "const " .. constant end
  return nil, ("LuaJIT cannot declare dtype %s: %s"):format(descr:sub(1, 100), tostring(problem))
end

return ctypes
