--- How the elements of a view lie in memory: shape, strides, and their bytes in C order.
-- @module sharearray.layout

local copies = require "sharearray.copy"
local instance = require "sharearray.instance"
local shapes = require "sharearray.shape"
local view = require "sharearray.view"

local class_of = view.class

local layout = {}

local N, S = {}, {} -- member names of the sizes and strides, by axis from 1
for axis = 1, shapes.MAXDIMS do N[axis], S[axis] = "n" .. axis - 1, "s" .. axis - 1 end

--- The sizes, as a new list.
function layout.shape(x, class)
  local shape = {}
  for axis = 1, class.ndim do shape[axis] = x[N[axis]] end
  return shape
end

local shape_of = layout.shape

--- Bytes from one element to the next along each axis, as a new list.
function layout.strides(x, class)
  if class.contiguous then return shapes.c_strides(shape_of(x, class), class.dtype.itemsize) end
  local strides = {}
  for axis = 1, class.ndim do strides[axis] = x[S[axis]] end
  return strides
end

local strides_of = layout.strides

--- Whether the elements lie in C order without gaps.
function layout.contiguous(x)
  local class = class_of(x)
  return class.contiguous or shapes.is_c_order(shape_of(x, class), strides_of(x, class), class.dtype.itemsize)
end

--- Copies the bytes of all elements, in C order.
-- @param destination pointer to `x.nbytes` bytes
function layout.copy(x, destination)
  local class = class_of(x)
  local shape, itemsize = shape_of(x, class), class.dtype.itemsize
  if layout.contiguous(x) then return copies.bytes(destination, x.elements, x.count * itemsize) end
  copies.gather(x.elements, itemsize, shape, strides_of(x, class), 0, x.count, destination)
end

--- `for pointer, bytes in layout.pieces(x, limit) do`: all bytes in C order, at most `limit` (or one
-- element) at a time. A pointer is valid until the next step. The loop keeps the memory alive, even
-- if `x` is closed meanwhile.
function layout.pieces(x, limit)
  local class = class_of(x)
  local shape, strides, itemsize = shape_of(x, class), strides_of(x, class), class.dtype.itemsize
  local held = instance.make(class.dtype, shape, strides, x.elements, x.map, x.sealed)
  if class_of(held).contiguous then strides = nil end
  return copies.pieces(held.elements, itemsize, shape, strides, limit, held)
end

return layout
