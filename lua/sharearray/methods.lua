--- What users call on a view: its methods and properties. Loaded at the first use of one.
-- @module sharearray.methods

local ffi = require "ffi"
local instance = require "sharearray.instance"
local layout = require "sharearray.layout"
local lazy = require "sharearray.lazy"
local shapes = require "sharearray.shape"
local view = require "sharearray.view"

local array = lazy "sharearray.array"
local failures = lazy "sharearray.failures"
local reduce = lazy "sharearray.reduce"
local tensors = lazy "sharearray.torch"

-- This file may be read long after failures.lua was.
require("sharearray.library").check(7)

local cast = ffi.cast
local class_of, construct = view.class, instance.make
local shape_of, strides_of, is_contiguous = layout.shape, layout.strides, layout.contiguous
local is_integer, c_strides = shapes.is_integer, shapes.c_strides
local CLOSED, READ_ONLY = view.CLOSED, view.READ_ONLY

local MAXDIMS = shapes.MAXDIMS
local STRING_LIMIT = 0x7fffff00 -- bytes of a Lua string

local methods, getters = {}, {}

local function is_closed(self) return self.map == nil end

-- What is made of a view below is returned in brackets: without them it would be a tail call, which takes the view off
-- the stack, and a collection before the new one has its reference could unmap the memory of both.

-- What came of reading the view, or an error if somebody's finalizer closed it in the midst of that, whereupon its size
-- was 0. Called from the method itself, as `open` is.
local function still_open(self, result)
  if is_closed(self) then error(CLOSED, 3) end
  return result
end

-- Of the first element.
local function address(self) return cast("const char *", self.elements) end

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
getters.strides = strides_of

--- The part `from <= i < to` of the first axis, of the same memory.
-- @tparam number from
-- @tparam[opt] number to default: the end
function methods.slice(self, from, to)
  local class = open(self)
  if class.ndim == 0 then error("an array of dimension 0 cannot be sliced", 2) end
  local n = self.n0
  if to == nil then to = n end
  if not is_integer(from) or not is_integer(to) then error("slice: integers expected, as in v:slice(0, 10)", 2) end
  if from < 0 or to > n or from > to then
    error(("slice %d to %d is out of bounds for axis 0 with size %d"):format(from, to, n), 2)
  end
  local shape, strides = shape_of(self, class), strides_of(self, class)
  shape[1] = to - from
  return (construct(class.dtype, shape, strides, address(self) + from * strides[1], self.map, self.sealed))
end

--- The same elements in another shape, of the same memory. The array has to be in C order.
-- @tparam table shape list of sizes; one may be -1, and is worked out
function methods.reshape(self, shape, more)
  local class = open(self)
  if more ~= nil then error("reshape: sizes are given as a list: v:reshape {3, 4}", 2) end
  local wanted, message = shapes.check(shape, self.count)
  if not wanted then error(message, 2) end
  if not is_contiguous(self) then
    error("reshape: the array is not in C order; copy it first: v:copy():reshape(...)", 2)
  end
  return (construct(class.dtype, wanted, nil, self.elements, self.map, self.sealed))
end

--- The axes in reverse order, of the same memory.
function methods.transpose(self, more)
  local class = open(self)
  if more ~= nil then error("transpose: it reverses the axes, and takes no others", 2) end
  local shape, strides, ndim = {}, {}, class.ndim
  local old_shape, old_strides = shape_of(self, class), strides_of(self, class)
  for axis = 1, ndim do
    shape[axis], strides[axis] = old_shape[ndim + 1 - axis], old_strides[ndim + 1 - axis]
  end
  return (construct(class.dtype, shape, strides, self.elements, self.map, self.sealed))
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
  if #shape + #inner > MAXDIMS then
    error(("field: %d dimensions; at most %d are possible"):format(#shape + #inner, MAXDIMS), 2)
  end
  for axis, n in ipairs(field.shape) do shape[#shape + 1], strides[#strides + 1] = n, inner[axis] end
  return (construct(field.dtype, shape, strides, address(self) + field.offset, self.map, self.sealed))
end

--- The numbers of V2 elements that are bfloat16, as NumPy files have them: a view of the same memory.
function methods.bfloat16(self)
  local class = open(self)
  local numbers = class.dtype.reader.bfloat16
  if not numbers then error(("bfloat16: elements of dtype V2 expected, got %s"):format(class.dtype.name), 2) end
  return (construct(numbers, shape_of(self, class), strides_of(self, class), self.elements, self.map, self.sealed))
end

--- The bytes of the elements in C order, as a Lua string.
function methods.string(self)
  local class = open(self)
  local bytes = self.count * class.dtype.itemsize
  if bytes > STRING_LIMIT then error(("%d bytes are too many for a Lua string"):format(bytes), 2) end
  local result
  if is_contiguous(self) then
    result = ffi.string(cast("const char *", self.elements), bytes)
  else
    local buffer = ffi.new("char[?]", bytes)
    layout.copy(self, buffer)
    result = ffi.string(buffer, bytes)
  end
  return (still_open(self, result))
end

--- The sum of all elements. Floats are added in double precision, integers exactly; of 64-bit ones, boxed
-- as they are, the sum is taken modulo 2^64.
function methods.sum(self)
  open(self)
  local result, message = reduce.sum(self)
  if message then error("sum: " .. message, 2) end
  return (still_open(self, result))
end

--- The sum of the products of the elements of two arrays of one dtype and shape, added as in `sum`.
function methods.dot(self, other)
  open(self)
  local result, message = reduce.dot(self, other)
  if message then error("dot: " .. message, 2) end
  still_open(other)
  return (still_open(self, result))
end

--- A private, writable array of the same elements, in C order.
function methods.copy(self)
  open(self)
  return (still_open(self, array.array(self)))
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
  local tensor, message = tensors.tensor(class.dtype, shape_of(self, class),
    strides_of(self, class), self.elements, view.map(self))
  if not tensor then error("torch: " .. message, 2) end
  return tensor
end

local function fill(self, class, x)
  if is_contiguous(self) then
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

--- What `v.name` is, where name is no number. Methods are found on closed views too, and then raise
-- in their own name.
-- @tparam table class of the views
-- @tparam table own what they have beside the methods of all
-- @treturn function of the view and the key. It sets the level for its caller's caller, as it is called in tail
--   position.
local function property(class, own)
  setmetatable(own, { __index = methods })
  return function(self, key)
    local method = own[key]
    if method then return method end
    local get = getters[key]
    if not get then
      if type(key) == "string" then error(("an array has no property '%s'"):format(key), 2) end
      if type(key) == "number" then error("an array of dimension 0 has no elements [i]: v() is its value", 2) end
      error(failures.no_number(key), 2)
    end
    if self.map == nil then error(CLOSED, 2) end
    return get(self, class)
  end
end

return { property = property, iter = methods.iter }
