--- The hot paths of a view: its C struct, and element access and rows, made to measure.
--
-- One class per (dtype, ndim, layout, width, writable or not): functions of Lua source that knows all that, see
-- sharearray.template. Width: sizes and strides are int32 where every offset fits, else double. With int32 the index
-- arithmetic stays in integer registers, measured 1.0 against 1.35 times a raw pointer.
--
-- The struct is const in every member: LuaJIT's const is shallow, and this is what makes the view
-- read-only for its user.
-- @module sharearray.element

local bit = require "bit"
local bytecode = require "sharearray.bytecode"
local ffi = require "ffi"
local lazy = require "sharearray.lazy"
local lifetime = require "sharearray.lifetime"
local C = require("sharearray.library").C

local template = lazy "sharearray.template"

local element = {}

-- Adds "const int32_t n0, n1;", a number for each axis.
local function add_numbers(members, number, letter, ndim)
  if ndim == 0 then return end
  local names = {}
  for axis = 0, ndim - 1 do names[#names + 1] = letter .. axis end
  members[#members + 1] = ("const %s %s;"):format(number, table.concat(names, ", "))
end

-- `sealed` points to a byte that is 0 as long as the memory may be written: in the map, so that all
-- views of one memory turn read-only together. `bits` is `elements` again, for the readers that look
-- at an element's bits, and b0, b1 the sizes again for the checks of indices, where `bounds` is set. No member has the
-- name of a property, which it would hide.
--
-- `lent` is not 0 if the view has no reference of its own, see sharearray.lifetime.
--
-- A closed view is all zeros: no map, and sizes that the checks every access makes anyway find.
--
-- The struct has no name, so that another copy of this module in the process can have its own; and a
-- comment that no other copy or class has (float16 is stored as uint16 is), because busted replaces
-- ffi.typeof by a memo of the text.
local function struct(spec, owner)
  local number = spec.wide and "double" or "int32_t"
  local members = { "const void *const map;", "const uint8_t *const sealed;", "const double lent;" }
  members[#members + 1] = spec.dtype.constant .. " *const elements;"
  if spec.dtype.reader.bits then
    members[#members + 1] = ("const %s;"):format(spec.dtype.reader.bits:format "(*const bits)")
  end
  if spec.bounds then add_numbers(members, "uint64_t", "b", spec.ndim) end
  members[#members + 1] = "const " .. number .. " count;"
  add_numbers(members, number, "n", spec.ndim)
  if not spec.contiguous then add_numbers(members, number, "s", spec.ndim) end
  local name = spec.dtype.name:gsub("[*%%]", { ["*"] = "%a", ["%"] = "%p" }) -- no end of a comment
  return ("struct { %s } /* %s %s %s */"):format(table.concat(members, " "), name, tostring(spec.writable), owner)
end

-- The functions of a class as a chunk: compiled ahead, or else now.
local function chunk_of(spec)
  local usual = spec.contiguous and not spec.wide and not spec.writable
  return usual and bytecode.class(spec.dtype.name, spec.ndim)
    or loadstring(template.class(spec), ("=sharearray(%s,%d)"):format(spec.dtype.name, spec.ndim))
end

local bytes_p = ffi.typeof("const uint8_t *")
local int64, uint32, uint64 = ffi.typeof("int64_t"), ffi.typeof("uint32_t"), ffi.typeof("uint64_t")
local map_p = ffi.typeof("sharearray_map *")
local pin = ffi.new("int32_t[1]") -- see sharearray.template
local nan = 0 / 0 -- whose bits are LuaJIT's own
local function ref(map) C.sharearray_ref(map) end

-- The pointer to an element as a reader looks at its bits.
local function bits_pointer(reader) return reader.bits and ffi.typeof("const " .. reader.bits:format "(*)") end

--- Makes the functions of one class.
-- @tparam table spec dtype, ndim, contiguous, wide, writable; bounds, see sharearray.template; inner: `lend` of the
--   class of its rows (ndim > 1)
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
  local class = assert(chunk_of(spec))(type, tonumber, math.floor, bit.rol, bit.tobit, ffi.cast, nan,
    dtype.reader.make and dtype.reader.make(), spec.writable and dtype.writer, fail, ct, mutable, constant, map_p,
    bits_pointer(dtype.reader), bytes_p, int64, uint32, uint64, ref, spec.inner, lifetime.owners, lifetime.adopt,
    lifetime.lend, ffi.gc, finalizer, pin)
  class.finalizer = finalizer
  class.ctype, class.mutable, class.constant = ct, mutable, constant
  return class
end

--- A function that reads one element of the dtype, anywhere: `load(pointer)`.
function element.load(dtype)
  local reader = dtype.reader
  return assert(loadstring(template.load(reader), "=sharearray(" .. dtype.name .. ")"))(tonumber, bit.rol, ffi.cast,
    nan, reader.make and reader.make(), ffi.typeof(dtype.constant .. " *"), bits_pointer(reader), int64, uint32, pin)
end

return element
