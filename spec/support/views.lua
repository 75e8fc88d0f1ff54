--- Helpers of the specs of views and arrays.

-- busted replaces ffi.typeof by a memo that keeps its arguments alive for ever, views too.
local ffi = require "ffi"
for i = 1, 9 do
  local name, original = debug.getupvalue(ffi.typeof, i)
  if name == "original" then
    ffi.typeof = original
    break
  end
end

local array = require "sharearray.array"
local dtype = require "sharearray.dtype"
local instance = require "sharearray.instance"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

local M = {}

--- The read-only view of an array's memory.
function M.read_only(x)
  return instance.new(x.dtype, x.shape, nil, instance.pointer(x), view.map(x), false)
end

--- An array whose elements are 0, 1, 2, ... in C order.
function M.counting(name, shape)
  local x = array.new(name, shape)
  for k = 0, x.size - 1 do x.data[k] = k end
  return x
end

function M.private_map(bytes)
  local out = ffi.new("sharearray_map *[1]")
  assert(C.sharearray_private(bytes, out, nil) == 0)
  return out[0]
end

--- A zeroed array without the check of its size that array.new makes; only touched pages cost memory.
function M.sparse(name, shape)
  local of = dtype.of(name)
  local bytes = of.itemsize
  for _, n in ipairs(shape) do bytes = bytes * n end
  local map = M.private_map(bytes)
  local x = instance.new(of, shape, nil, map.base, map, true)
  C.sharearray_unref(map)
  return x
end

--- The atomic count behind the public struct.
function M.references(map)
  local at = math.ceil(ffi.sizeof("sharearray_map") / 4) * 4
  return ffi.cast("uint32_t *", ffi.cast("char *", map) + at)[0]
end

function M.collect()
  for _ = 1, 3 do collectgarbage() end
end

--- `f` raises a message that matches, and blames a line of `f` itself.
function M.raises(pattern, f)
  local ok, message = pcall(f)
  if ok then error("no error: " .. pattern, 2) end
  local info = debug.getinfo(f, "S")
  local file, line, text = tostring(message):match("^(.-):(%d+): (.*)$")
  line = tonumber(line)
  if file ~= info.short_src or line < info.linedefined or line > info.lastlinedefined then
    error("blamed on another line: " .. tostring(message), 2)
  end
  if not text:find(pattern) then error(("'%s' does not match '%s'"):format(text, pattern), 2) end
end

return M
