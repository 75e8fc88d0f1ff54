--- Views: typed, bounds-checked access to memory that is counted, at the speed of a raw pointer.
--
-- A view is a C struct (a pointer, the sizes, a reference of the mapping) with a metatype of its
-- class, see sharearray.element. A row, a slice or a reshape is a view with its own reference:
-- memory lives as long as the last view of it.
--
-- An *array* is a view of memory that may be written. Whether it may is a property of the memory,
-- not of the view: the map of private memory has no .npy header (`array.order` is 0) until it is
-- published, which seals every view of it at once, before the kernel would answer with SIGSEGV.
-- @module sharearray.view

local element = require "sharearray.element"
local ffi = require "ffi"
local lazy = require "sharearray.lazy"
local shapes = require "sharearray.shape"
local C = require("sharearray.cdefs").C

local array = lazy "sharearray.array"
local copy = lazy "sharearray.copy"
local format = lazy "sharearray.format"
local reduce = lazy "sharearray.reduce"

local type, floor, cast = type, math.floor, ffi.cast
local is_integer, c_strides, is_c_order = shapes.is_integer, shapes.c_strides, shapes.is_c_order

local view = {}

--- How often a view was closed: whoever hands one out again has to look at it first.
view.closings = 0

local MAXDIMS = C.SHAREARRAY_MAXDIMS
local STRING_LIMIT = 0x7fffff00 -- bytes of a Lua string
local map_p = ffi.typeof("sharearray_map *")

-- For views that were never writable: the byte that `sealed` points to.
local always = ffi.new("uint8_t[1]", 1)
local ORDER = ffi.offsetof("sharearray_map", "array") + ffi.offsetof("sharearray_npy", "order")

local N, S = {}, {} -- member names of the sizes and strides, by axis from 1
for axis = 1, MAXDIMS do N[axis], S[axis] = "n" .. axis - 1, "s" .. axis - 1 end

local methods, getters, fail = {}, {}, {}

-- A view answers this key with its class. Asking is cheaper than ffi.typeof(x), which makes an object.
local CLASS = {}
local classes = {} -- the set of them

local function ask(x) return x[CLASS] end

local function class_of(x)
  if type(x) ~= "cdata" then return nil end
  local ok, class = pcall(ask, x) -- cdata of others has no such key, which is an error
  return ok and classes[class] and class or nil
end

local function is_closed(self) return self.map == nil end

-- Fills the view with zeros: what another finalizer still reaches is then closed, not dangling.
local release = C.sharearray_release

local CLOSED = "the view is closed"
local READ_ONLY = "the array is read-only: "

local function shape_of(self, class)
  local shape = {}
  for axis = 1, class.ndim do shape[axis] = self[N[axis]] end
  return shape
end

local function strides_of(self, class)
  if class.contiguous then return c_strides(shape_of(self, class), class.dtype.itemsize) end
  local strides = {}
  for axis = 1, class.ndim do strides[axis] = self[S[axis]] end
  return strides
end

local function is_contiguous(self, class)
  return class.contiguous or is_c_order(shape_of(self, class), strides_of(self, class), class.dtype.itemsize)
end

-- Classes --------------------------------------------------------------------------------------------

-- What `v.name` is, where name is no number. Methods are found on closed views too, and then raise
-- in their own name. Sets the level for its caller's caller, as it is called in tail position.
local function make_property(class)
  local own = setmetatable({ [CLASS] = class, set = class.set, tonumber = class.number }, { __index = methods })
  return function(self, key)
    local method = own[key]
    if method then return method end
    local get = getters[key]
    if not get then
      if type(key) == "string" then error(("an array has no property '%s'"):format(key), 2) end
      if type(key) == "number" then error("an array of dimension 0 has no elements [i]: v() is its value", 2) end
      error("an index must be a number, got " .. type(key), 2)
    end
    if self.map == nil then error(CLOSED, 2) end
    return get(self, class)
  end
end

local function length(self)
  local class = class_of(self)
  if is_closed(self) then error(CLOSED, 2) end
  if class.ndim == 0 then error("an array of dimension 0 has no length", 2) end
  return self.n0
end

local function make_class(dtype, ndim, contiguous, wide, inner)
  local hooks = setmetatable({}, { __index = fail })
  local spec = { dtype = dtype, ndim = ndim, contiguous = contiguous, wide = wide, inner = inner and inner.make }
  local class = element.compile(spec, hooks)
  class.dtype, class.ndim, class.contiguous, class.bits = dtype, ndim, contiguous, dtype.reader.bits and 1 or 0
  hooks.property = make_property(class)
  classes[class] = true
  local size = ffi.sizeof(class.ctype)
  ffi.metatype(class.ctype, {
    __call = class.get,
    __index = class.index,
    __newindex = class.newindex,
    __len = length,
    __gc = function(self) release(self, size) end,
    __tostring = function(self) return format.tostring(self) end,
    __ipairs = function(self) return methods.iter(self) end,
    __pairs = function(self) return methods.iter(self) end,
  })
  return class
end

local made = {} -- dtype -> number -> class

-- Anonymous structs, kept here: a second copy of this module in the process has its own, and
-- ffi.metatype may be called once for each.
local function class_for(dtype, ndim, contiguous, wide)
  local of_dtype = made[dtype]
  if not of_dtype then
    of_dtype = {}
    made[dtype] = of_dtype
  end
  local key = ndim * 4 + (contiguous and 2 or 0) + (wide and 1 or 0)
  local class = of_dtype[key]
  if not class then
    local inner = ndim > 1 and class_for(dtype, ndim - 1, contiguous, wide) or nil
    class = make_class(dtype, ndim, contiguous, wide, inner)
    of_dtype[key] = class
  end
  return class
end

-- Of the first element.
local function address(self) return cast("const char *", self.elements) end

-- Whether a size or an offset does not fit int32.
local function is_wide(shape, strides)
  local extent, reach = 1, 1
  for axis, n in ipairs(shape) do
    extent = extent * math.max(n, 1)
    reach = reach + math.max(n, 1) * (strides and math.abs(strides[axis]) or 0)
  end
  return extent >= 2 ^ 31 or reach >= 2 ^ 31
end

local function construct(dtype, shape, strides, pointer, map, sealed)
  if strides and is_c_order(shape, strides, dtype.itemsize) then strides = nil end
  local class = class_for(dtype, #shape, strides == nil, is_wide(shape, strides))
  if not strides then return class.make(map, sealed, cast(class.constant, pointer), unpack(shape)) end
  local dims = {}
  for axis, n in ipairs(shape) do dims[axis] = n end
  for axis, stride in ipairs(strides) do dims[#shape + axis] = stride end
  return class.make(map, sealed, cast(class.constant, pointer), unpack(dims))
end

-- Failures: called in tail position by what element.lua generates, so that level 2 is the user's line.

local function bad_index(self, axis, i)
  if type(i) ~= "number" then
    local hint = type(i) == "cdata" and "; tonumber() makes one" or ""
    return ("an index must be a number, got %s%s"):format(type(i), hint)
  end
  if i ~= i or floor(i) ~= i then return ("index %.14g is not an integer"):format(i) end
  local n = self[N[axis]]
  if i >= 0 and i < n then return nil end
  return ("index %.14g is out of bounds for axis %d with size %d"):format(i, axis - 1, n)
end

-- What is wrong with the indices; `given` of them.
local function bad_indices(self, class, given, ...)
  local ndim = class.ndim
  if given ~= ndim then
    local which = given > ndim and "many" or "few"
    return ("too %s indices: the array has dimension %d, but %d were given"):format(which, ndim, given)
  end
  for axis = 1, given do
    local message = bad_index(self, axis, (select(axis, ...)))
    if message then return message end
  end
end

local function given_of(...)
  local given = select("#", ...)
  while given > 0 and select(given, ...) == nil do given = given - 1 end
  return given
end

function fail.index(self, ...)
  if is_closed(self) then error(CLOSED, 2) end
  error(bad_indices(self, class_of(self), given_of(...), ...), 2)
end

function fail.row(self, i)
  if is_closed(self) then error(CLOSED, 2) end
  error(bad_index(self, 1, i), 2)
end

function fail.number(self)
  error(("an element of dtype %s is no Lua number"):format(tostring(class_of(self).dtype)), 2)
end

function fail.set(self, ...)
  local class = class_of(self)
  if is_closed(self) then error(CLOSED, 2) end
  if self.sealed[0] ~= 0 then error(READ_ONLY .. "cannot set its elements", 2) end
  local given = given_of(...)
  if given ~= class.ndim + 1 then
    error(("%d indices and a value expected"):format(class.ndim), 2)
  end
  local message = bad_indices(self, class, given - 1, ...)
  if not message then message = select(2, class.dtype.writer((select(given, ...)))) end
  error(message, 2)
end

function fail.newindex(self, key)
  if is_closed(self) then error(CLOSED, 2) end
  local name = type(key) == "number" and ("[%.14g]"):format(key) or "'" .. tostring(key) .. "'"
  if self.sealed[0] ~= 0 then error(READ_ONLY .. "cannot set " .. name, 2) end
  if type(key) ~= "number" then error("cannot set " .. name .. " of an array", 2) end
  error(("[i] = value is for arrays of dimension 1; this one has %d: x:set(i, ..., value)"):format(
    class_of(self).ndim), 2)
end

function fail.over(self)
  if is_closed(self) then error(CLOSED, 2) end
end

-- What users call -------------------------------------------------------------------------------------

-- The class of a method's `self`. Called from the method itself: level 3 is the user's line.
local function open(self)
  local class = class_of(self)
  if not class then error("not an array; methods are called with a colon, as in v:slice(0, 5)", 3) end
  if is_closed(self) then error(CLOSED, 3) end
  return class
end

--- Pointer to the first element: `const T *`, or `T *` where the array may be written. It is valid as
-- long as a view of this memory is referenced. Unlike `v(i)` it checks nothing, and gives a foreign
-- file's NaN payloads to LuaJIT as they are.
function getters.data(self, class)
  return cast(self.sealed[0] == 0 and class.mutable or class.constant, self.elements)
end

function getters.dtype(_, class) return class.dtype end
function getters.ndim(_, class) return class.ndim end
function getters.size(self) return self.count end
function getters.nbytes(self, class) return self.count * class.dtype.itemsize end
getters.shape = shape_of

--- Bytes from one element to the next along each axis.
function getters.strides(self, class)
  return strides_of(self, class)
end

--- The part `from <= i < to` of the first axis, of the same memory.
-- @tparam number from
-- @tparam[opt] number to default: the end
function methods.slice(self, from, to)
  local class = open(self)
  if class.ndim == 0 then error("an array of dimension 0 cannot be sliced", 2) end
  local n = self.n0
  if to == nil then to = n end
  if not is_integer(from) or not is_integer(to) then error("slice: integers expected", 2) end
  if from < 0 or to > n or from > to then
    error(("slice %d to %d is out of bounds for axis 0 with size %d"):format(from, to, n), 2)
  end
  local shape, strides = shape_of(self, class), strides_of(self, class)
  shape[1] = to - from
  return construct(class.dtype, shape, strides, address(self) + from * strides[1], self.map, self.sealed)
end

--- The same elements in another shape, of the same memory. The array has to be in C order.
-- @tparam table shape list of sizes; one may be -1, and is worked out
function methods.reshape(self, shape)
  local class = open(self)
  local wanted, message = shapes.check(shape, self.count)
  if not wanted then error(message, 2) end
  if not is_contiguous(self, class) then
    error("reshape: the array is not in C order; copy it first: sharearray.array(v):reshape(...)", 2)
  end
  return construct(class.dtype, wanted, nil, self.elements, self.map, self.sealed)
end

--- The axes in reverse order, of the same memory.
function methods.transpose(self)
  local class = open(self)
  local shape, strides, ndim = {}, {}, class.ndim
  local old_shape, old_strides = shape_of(self, class), strides_of(self, class)
  for axis = 1, ndim do
    shape[axis], strides[axis] = old_shape[ndim + 1 - axis], old_strides[ndim + 1 - axis]
  end
  return construct(class.dtype, shape, strides, self.elements, self.map, self.sealed)
end

local function as_it_is(x) return x end

local function totable(self, ndim, plain)
  if ndim == 0 then return plain(self()) end
  local result = {}
  for i, x in methods.iter(self) do
    if ndim > 1 then result[i + 1] = totable(x, ndim - 1, plain) else result[i + 1] = plain(x) end
  end
  return result
end

--- Nested Lua lists of the elements, from 1 as Lua lists are; the element itself for dimension 0.
-- Records become tables.
function methods.totable(self)
  local class = open(self)
  return totable(self, class.ndim, class.dtype.reader.plain or as_it_is)
end

--- One field of records, of the same memory: a view of shape `self.shape`, with that of the field behind it.
function methods.field(self, name)
  local class = open(self)
  local fields = class.dtype.reader.fields
  if not fields then error(("an array of dtype %s has no fields"):format(class.dtype.name), 2) end
  local field = fields[name]
  if not field then error(("there is no field '%s' in %s"):format(tostring(name), class.dtype.name), 2) end
  local shape, strides = shape_of(self, class), strides_of(self, class)
  local inner = c_strides(field.shape, field.dtype.itemsize)
  if #shape + #inner > MAXDIMS then error(("field: %d dimensions; at most %d are possible"):format(#shape + #inner,
    MAXDIMS), 2) end
  for axis, n in ipairs(field.shape) do shape[#shape + 1], strides[#strides + 1] = n, inner[axis] end
  return construct(field.dtype, shape, strides, address(self) + field.offset, self.map, self.sealed)
end

--- The numbers of V2 elements that are bfloat16, as NumPy files have them: a view of the same memory.
function methods.bfloat16(self)
  local class = open(self)
  local numbers = class.dtype.reader.bfloat16
  if not numbers then error(("bfloat16: elements of dtype V2 expected, got %s"):format(class.dtype.name), 2) end
  return construct(numbers, shape_of(self, class), strides_of(self, class), self.elements, self.map, self.sealed)
end

--- The bytes of the elements in C order, as a Lua string.
function methods.string(self)
  local class = open(self)
  local bytes = self.count * class.dtype.itemsize
  if bytes > STRING_LIMIT then error(("%d bytes are too many for a Lua string"):format(bytes), 2) end
  if is_contiguous(self, class) then return ffi.string(cast("const char *", self.elements), bytes) end
  local buffer = ffi.new("char[?]", bytes)
  view.copy(self, buffer)
  return ffi.string(buffer, bytes)
end

--- The sum of all elements. Floats are added in double precision, integers exactly; of 64-bit ones, boxed
-- as they are, the sum is taken modulo 2^64.
function methods.sum(self)
  open(self)
  local result, message = reduce.sum(self)
  if message then error("sum: " .. message, 2) end
  return result
end

--- The sum of the products of the elements of two arrays of one dtype and shape, added as in `sum`.
function methods.dot(self, other)
  open(self)
  local result, message = reduce.dot(self, other)
  if message then error("dot: " .. message, 2) end
  return result
end

--- A private, writable array of the same elements, in C order.
function methods.copy(self)
  open(self)
  return array.array(self)
end

--- For `for i, x in v:iter() do`: i from 0; x the elements of dimension 1, else the rows.
function methods.iter(self)
  local class = open(self)
  if class.ndim == 0 then error("an array of dimension 0 cannot be iterated", 2) end
  return class.step, self, -1
end

--- A Torch7 tensor of the same shape and strides over the memory, which lives as long as the tensor
-- does. Writing to the tensor of an array writes to the array; what is published stays as it is, and
-- the tensor keeps its own copy of the pages it wrote to.
function methods.torch(self)
  local class = open(self)
  local tensor, message = require("sharearray.torch").tensor(class.dtype, shape_of(self, class),
    strides_of(self, class), self.elements, view.map(self))
  if not tensor then error("torch: " .. message, 2) end
  return tensor
end

--- Drops the reference of the memory now. Any later use raises "closed"; closing again does nothing.
-- Other views of the memory are not affected.
function methods.close(self)
  local class = class_of(self)
  if not class then error("not an array; methods are called with a colon, as in v:close()", 2) end
  view.closings = view.closings + 1
  release(self, ffi.sizeof(self))
end

local function fill(self, class, x)
  if is_contiguous(self, class) then
    local elements = cast(class.mutable, self.elements)
    for k = 0, self.count - 1 do elements[k] = x end
  elseif class.ndim == 1 then
    local bytes, stride = address(self), self.s0
    for k = 0, self.n0 - 1 do cast(class.mutable, bytes + k * stride)[0] = x end
  else
    for _, row in methods.iter(self) do fill(row, class_of(row), x) end
  end
end

--- Sets every element to `value`.
function methods.fill(self, value)
  local class = open(self)
  if self.sealed[0] ~= 0 then error(READ_ONLY .. "cannot fill it", 2) end
  local x, message = class.dtype.writer(value)
  if message then error(message, 2) end
  fill(self, class, x)
end

-- What the other modules call -------------------------------------------------------------------------

--- A view of mapped memory.
-- @param dtype a dtype object
-- @tparam table shape list of numbers
-- @param strides list, in elements; nil for C order
-- @param pointer to the first element
-- @param map `sharearray_map *` that the memory is part of; the view takes its own reference
-- @tparam boolean writable an array, until the map is published or frozen
function view.new(dtype, shape, strides, pointer, map, writable)
  local sealed = writable and cast("uint8_t *", map) + ORDER or always
  if not strides then return construct(dtype, shape, nil, pointer, map, sealed) end
  local apart = {}
  for axis, stride in ipairs(strides) do apart[axis] = stride * dtype.itemsize end
  return construct(dtype, shape, apart, pointer, map, sealed)
end

local by_layout = {} -- the classes of mapped arrays, by what the core calls their layout

--- The view of a mapped array, if there has been one of its layout; else nil. The core fills it in.
-- @param map `sharearray_map *` that it is in; the view takes its own reference
-- @param array `sharearray_npy`, of the map or of a member
function view.mapped(map, array)
  local class = by_layout[array.layout]
  if not class then return nil end
  local result = class.ctype()
  C.sharearray_view(map, array, class.bits, result)
  return result
end

--- The first one of a layout: read-only, the rest as for `view.new`.
function view.first(layout, dtype, shape, strides, pointer, map)
  local result = view.new(dtype, shape, strides, pointer, map, false)
  if layout ~= 0 then by_layout[layout] = class_of(result) end
  return result
end

--- A view of memory that another one shows: C order, `map` and `sealed` as that one has them.
function view.part(dtype, shape, pointer, map, sealed)
  return construct(dtype, shape, nil, pointer, map, sealed)
end

--- Whether `x` is a view or an array, closed ones included.
function view.is(x) return class_of(x) ~= nil end

--- Makes the classes that most arrays are of: for whoever has nothing to do but to wait for one.
function view.prepare(dtypes)
  for _, dtype in ipairs(dtypes) do class_for(dtype, 2, true, false) end
end

--- Whether elements of the view `x` may be set.
function view.is_writable(x) return not is_closed(x) and x.sealed[0] == 0 end

--- Makes the array `x` and all that shares its memory read-only.
function view.freeze(x)
  if not is_closed(x) then cast("uint8_t *", x.sealed)[0] = 1 end
end

--- `const T *` to the first element.
function view.pointer(x) return cast(class_of(x).constant, x.elements) end

--- The `sharearray_map *` of the memory, without a reference; NULL if closed.
function view.map(x) return cast(map_p, x.map) end

--- Whether the elements lie in C order without gaps.
function view.contiguous(x) return is_contiguous(x, class_of(x)) end

--- Copies the bytes of all elements, in C order.
-- @param destination pointer to `x.nbytes` bytes
function view.copy(x, destination)
  local class = class_of(x)
  local shape, itemsize = shape_of(x, class), class.dtype.itemsize
  if is_contiguous(x, class) then return copy.bytes(destination, x.elements, x.count * itemsize) end
  copy.gather(x.elements, itemsize, shape, strides_of(x, class), 0, x.count, destination)
end

--- `for pointer, bytes in view.pieces(x, limit) do`: all bytes in C order, at most `limit` (or one
-- element) at a time. A pointer is valid until the next step. The loop keeps the memory alive, even
-- if `x` is closed meanwhile.
function view.pieces(x, limit)
  local class = class_of(x)
  local shape, strides, itemsize = shape_of(x, class), strides_of(x, class), class.dtype.itemsize
  local held = construct(class.dtype, shape, strides, x.elements, x.map, x.sealed)
  if class_of(held).contiguous then strides = nil end
  local step = copy.pieces(held.elements, itemsize, shape, strides, limit)
  return function() return step(held) end
end

return view
