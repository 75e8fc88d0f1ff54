--- Sums over whole arrays, in the core.
-- @module sharearray.reduce

local ffi = require "ffi"
local instance = require "sharearray.instance"
local layout = require "sharearray.layout"
local tuple = require("sharearray.shape").tuple
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

local reduce = {}

local PIECE = 256 * 1024 -- bytes of an array with gaps that are put together at a time

-- What the core puts a sum into: of each call its own, see sharearray.library.
local Sum = ffi.typeof("struct { double real[1]; uint64_t integer[1]; }")

-- A sum as an element of the dtype would be.
local function result_of(dtype, sum)
  if dtype.kind == "f" then return sum.real[0] end
  local whole = dtype.kind == "i" and ffi.cast("int64_t", sum.integer[0]) or sum.integer[0]
  return dtype.itemsize == 8 and whole or tonumber(whole) -- exact up to 2^53
end

local function refuse(dtype)
  return nil, "elements of dtype " .. dtype.name .. " cannot be added here"
end

local function add(dtype, x, y, count, sum)
  return C.sharearray_reduce(dtype.kind:byte(), dtype.itemsize, x, y, count, sum.real, sum.integer) == 0
end

--- The sum of all elements of a view; or nil and a message.
function reduce.sum(v)
  local dtype, sum = v.dtype, Sum()
  if layout.contiguous(v) then
    if not add(dtype, instance.pointer(v), nil, v.size, sum) then return refuse(dtype) end
    return result_of(dtype, sum)
  end
  local whole = Sum()
  for piece, bytes in layout.pieces(v, PIECE) do
    if not add(dtype, piece, nil, bytes / dtype.itemsize, sum) then return refuse(dtype) end
    whole.real[0], whole.integer[0] = whole.real[0] + sum.real[0], whole.integer[0] + sum.integer[0]
  end
  return result_of(dtype, whole)
end

-- Without gaps: the view, or a copy.
local function packed(v) return layout.contiguous(v) and v or v:copy() end

--- The sum of the products; or nil and a message.
function reduce.dot(v, w)
  if not view.is(w) or view.map(w) == nil then return nil, "another array expected" end
  local dtype = v.dtype
  if w.dtype ~= dtype then return nil, ("the dtypes %s and %s differ"):format(dtype.name, w.dtype.name) end
  local mine, others = tuple(v.shape), tuple(w.shape)
  if mine ~= others then return nil, ("the shapes %s and %s differ"):format(mine, others) end
  local x, y = packed(v), packed(w)
  local sum = Sum()
  if not add(dtype, instance.pointer(x), instance.pointer(y), v.size, sum) then return refuse(dtype) end
  return result_of(dtype, sum)
end

return reduce
