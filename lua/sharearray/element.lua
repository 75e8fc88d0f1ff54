--- The hot paths of a view: C struct, element access, rows, as Lua source made to measure.
--
-- One class per (dtype, ndim, layout, width, writable or not). Everything that is known of a class is in its text: the
-- checks are unrolled over the axes, there is no loop, no vararg, no closure, so that LuaJIT
-- compiles `v(i, j)` in a loop to two comparisons per index and a load.
--
-- The layouts are C order, where the offset (in elements) comes from the shape alone, and strided
-- (strides and offset in bytes: a field of records need not lie at a multiple of its size). Width: sizes
-- and strides are int32 where every offset fits, else double. With int32 the index arithmetic stays in
-- integer registers, measured 1.0 against 1.35 times a raw pointer.
--
-- The struct is const in every member: LuaJIT's const is shallow, and this is what makes the view
-- read-only for its user.
-- @module sharearray.element

local bit = require "bit"
local ffi = require "ffi"
local lifetime = require "sharearray.lifetime"
local C = require("sharearray.library").C

local element = {}

-- "f(0), f(1), ... f(n - 1)"
local function list(n, format, separator)
  local items = {}
  for axis = 0, n - 1 do items[#items + 1] = (format:gsub("@", axis)) end
  return table.concat(items, separator or ", ")
end

-- The same with a comma after each.
local function leading(n, format)
  return n > 0 and list(n, format) .. ", " or ""
end

-- `sealed` points to a byte that is 0 as long as the memory may be written: in the map, so that all
-- views of one memory turn read-only together. `bits` is `elements` again, for the readers that look
-- at an element's bits. No member has the name of a property, which it would hide.
--
-- `lent` is 1 if the view has no reference of its own, see sharearray.lifetime.
--
-- A closed view is all zeros: no map, and sizes that the checks every access makes anyway find.
--
-- The struct has no name, so that another copy of this module in the process can have its own; and a
-- comment that no other copy or class has (float16 is stored as uint16 is), because busted replaces
-- ffi.typeof by a memo of the text.
local function struct(spec, owner)
  local number = spec.wide and "double" or "int32_t"
  local members = { "const void *const map;", "const uint8_t *const sealed;", "const uint64_t lent;" }
  members[#members + 1] = spec.dtype.constant .. " *const elements;"
  if spec.dtype.reader.bits then members[#members + 1] = "const int32_t *const bits;" end
  members[#members + 1] = "const " .. number .. " count;"
  if spec.ndim > 0 then
    members[#members + 1] = ("const %s %s;"):format(number, list(spec.ndim, "n@"))
    if not spec.contiguous then members[#members + 1] = ("const %s %s;"):format(number, list(spec.ndim, "s@")) end
  end
  local name = spec.dtype.name:gsub("[*%%]", { ["*"] = "%a", ["%"] = "%p" }) -- no end of a comment
  return ("struct { %s } /* %s %s %s */"):format(table.concat(members, " "), name, tostring(spec.writable), owner)
end

-- Not `math.floor(i) == i` alone: it takes numeric strings. NaN fails the comparison with 0.
local CHECK = 'type(i@) == "number" and i@ >= 0 and i@ < self.n@ and floor(i@) == i@'

local function offset(spec)
  if spec.ndim == 0 then return "0" end
  if not spec.contiguous then return list(spec.ndim, "i@ * self.s@", " + ") end
  local sum = "i0"
  for axis = 1, spec.ndim - 1 do sum = ("(%s) * self.n%d + i%d"):format(sum, axis, axis) end
  return sum
end

local TEMPLATE = [[
local type, tonumber, floor, bxor, cast, nan, read, write, fail, ct, mutable, constant, map_p, bits_p, bytes_p,
  ref, inner, owners, adopt, lend_to, gc, finalizer = ...

local function make(map, sealed, elements$MAKE)
  ref(cast(map_p, map))
  return gc(ct(map, sealed, 0, elements, $BITS$SIZE$MAKE), finalizer)
end

local function lend(owner, sealed, elements$MAKE)
  local row = ct(owner.map, sealed, 0, elements, $BITS$SIZE$MAKE)
  lend_to(owner, row)
  return row
end

local function get(self, $INDICES extra)
  if $CHECKS and extra == nil then
    local at = $OFFSET
    $ELEMENT
    $GUARD
    return $VALUE
  end
  return fail.index(self, $INDICES extra)
end

local function number(self, $INDICES extra)
  local at
  if $CHECKS and extra == nil then
    at = $OFFSET
  elseif $FIRST == nil and self.count == 1 then
    at = 0
  else
    return fail.index(self, $INDICES extra)
  end
  $ELEMENT
  $GUARD
  return $NUMBER
end

$SETTING
$INDEXING
return {
  make = make, lend = lend, get = get, number = number, set = set, index = index, newindex = newindex, step = step,
}
]]

-- x:set(i, ..., value), of memory that may be written, and of such that never could be.
local SETTING = [[
local function set(self, $INDICES value, extra)
  if $CHECKS and extra == nil and self.sealed[0] == 0 then
    local at = $OFFSET
    local x, message = write(value)
    if message == nil then
      $TARGET = x
      return
    end
  end
  return fail.set(self, $INDICES value, extra)
end
]]

local NO_SETTING = [[
local function set(self, ...)
  return fail.set(self, ...)
end
]]

-- v[i], x[i] = value and the step of `for i, x in v:iter()`, which differ by ndim.
local INDEXING_0 = [[
local function index(self, key)
  return fail.property(self, key)
end

local function newindex(self, key, value)
  return fail.newindex(self, key, value)
end

local step
]]

local INDEXING_1 = [[
local function index(self, key)
  if type(key) ~= "number" then return fail.property(self, key) end
  if key >= 0 and key < self.n0 and floor(key) == key then
    local at = $KEY
    $ELEMENT
    $GUARD
    return $VALUE
  end
  return fail.index(self, key)
end

local function newindex(self, key, value)
  if type(key) ~= "number" then return fail.newindex(self, key, value) end
  return set(self, key, value)
end

local function step(self, key)
  key = key + 1
  if key < self.n0 then
    return key, self[key]
  end
  return fail.over(self)
end
]]

local INDEXING_N = [[
local function index(self, key)
  if type(key) ~= "number" then return fail.property(self, key) end
  if key >= 0 and key < self.n0 and floor(key) == key then
    return inner(owners[self] or adopt(self), self.sealed, $ROW$REST)
  end
  return fail.row(self, key)
end

local function newindex(self, key, value)
  return fail.newindex(self, key, value)
end

local function step(self, key)
  key = key + 1
  if key < self.n0 then
    return key, self[key]
  end
  return fail.over(self)
end
]]

-- What the reader's pieces work on, from the offset `at`.
local function element_at(strided, reader)
  local text = "local k, elements = at, self.elements"
  if strided then text = "local k, elements = 0, cast(constant, cast(bytes_p, self.elements) + at)" end
  if not reader.bits then return text end
  return text .. "; local bits = " .. (strided and "cast(bits_p, elements)" or "self.bits")
end

-- Adds the text to the parts, with its $NAMEs replaced: by pieces of text that have such themselves, or by what fills
-- the holes. gsub would do, but it looks at every letter, and each process makes a class or two at its start.
local function render_into(parts, text, pieces, holes)
  local at, hole = 1, text:find("$", 1, true)
  while hole do
    local name = text:match("^%u+", hole + 1)
    parts[#parts + 1] = text:sub(at, hole - 1)
    if pieces[name] then
      render_into(parts, pieces[name], pieces, holes)
    else
      parts[#parts + 1] = holes[name]
    end
    at = hole + 1 + #name
    hole = text:find("$", at, true)
  end
  parts[#parts + 1] = text:sub(at)
end

local function render(spec)
  local n, reader = spec.ndim, spec.dtype.reader
  local strided = not spec.contiguous
  local rest, inner_size = {}, {}
  for axis = 1, n - 1 do
    rest[#rest + 1] = ", self.n" .. axis
    inner_size[#inner_size + 1] = "self.n" .. axis
  end
  for axis = 1, strided and n - 1 or 0 do rest[#rest + 1] = ", self.s" .. axis end
  local holes = {
    MAKE = (n > 0 and ", " .. list(n, "n@") or "") .. (strided and n > 0 and ", " .. list(n, "s@") or ""),
    BITS = reader.bits and "cast(bits_p, elements), " or "",
    SIZE = n > 0 and list(n, "n@", " * ") or "1",
    INDICES = leading(n, "i@"),
    FIRST = n > 0 and "i0" or "extra",
    CHECKS = n > 0 and list(n, CHECK, " and ") or "self.count == 1",
    OFFSET = offset(spec),
    KEY = strided and "key * self.s0" or "key",
    ELEMENT = element_at(strided, reader),
    TARGET = strided and "cast(mutable, cast(bytes_p, self.elements) + at)[0]" or "cast(mutable, self.elements)[at]",
    ROW = strided and "cast(constant, cast(bytes_p, self.elements) + key * self.s0)"
      or "self.elements + key * (" .. table.concat(inner_size, " * ") .. ")",
    REST = table.concat(rest),
    GUARD = reader.guard,
    VALUE = reader.value,
    NUMBER = reader.number or "fail.number(self)",
  }
  local pieces = { SETTING = spec.writable and SETTING or NO_SETTING,
    INDEXING = n == 0 and INDEXING_0 or n == 1 and INDEXING_1 or INDEXING_N }
  local parts = {}
  render_into(parts, TEMPLATE, pieces, holes)
  return table.concat(parts)
end

local int32_p, bytes_p = ffi.typeof("const int32_t *"), ffi.typeof("const uint8_t *")
local map_p = ffi.typeof("sharearray_map *")
local nan = 0 / 0 -- whose bits are LuaJIT's own
local function ref(map) C.sharearray_ref(map) end

--- Makes the functions of one class.
-- @tparam table spec dtype, ndim, contiguous, wide, writable; inner: `lend` of the class of its rows (ndim > 1)
-- @tparam table fail what to call, in tail position, when a check fails
-- @treturn table ctype, the struct; mutable and constant, pointers to its elements; and the functions
--   make(map, sealed, elements, shape..., strides...), which takes a reference of the map, its finalizer,
--   lend(owner, sealed, elements, shape..., strides...), a view that lives on its owner's, get, number, set,
--   index, newindex, step
function element.compile(spec, fail)
  local dtype = spec.dtype
  local ct = ffi.typeof(struct(spec, tostring(element)))
  local mutable, constant = ffi.typeof(dtype.ctype .. " *"), ffi.typeof(dtype.constant .. " *")
  local finalizer = lifetime.finalizer(ffi.sizeof(ct))
  local name = ("=sharearray(%s, %d)"):format(dtype.name, spec.ndim)
  local class = assert(loadstring(render(spec), name))(type, tonumber, math.floor, bit.bxor, ffi.cast, nan,
    dtype.reader.make and dtype.reader.make(), spec.writable and dtype.writer, fail, ct, mutable, constant, map_p,
    int32_p, bytes_p, ref, spec.inner, lifetime.owners, lifetime.adopt, lifetime.lend, ffi.gc, finalizer)
  class.finalizer = finalizer
  class.ctype, class.mutable, class.constant = ct, mutable, constant
  return class
end

local LOAD = [[
local tonumber, bxor, cast, nan, read, constant, bits_p = ...
return function(pointer)
  local k, elements, bits = 0, cast(constant, pointer), cast(bits_p, pointer)
  $GUARD
  return $VALUE
end
]]

--- A function that reads one element of the dtype, anywhere: `load(pointer)`.
function element.load(dtype)
  local reader = dtype.reader
  local text = LOAD:gsub("%$(%u+)", { GUARD = reader.guard, VALUE = reader.value })
  return assert(loadstring(text, "=sharearray(" .. dtype.name .. ")"))(tonumber, bit.bxor, ffi.cast, nan,
    reader.make and reader.make(), ffi.typeof(dtype.constant .. " *"), int32_p)
end

return element
