--- Shapes and strides: lists of sizes, and of bytes from one element to the next along each axis.
-- @module sharearray.shape

local C = require("sharearray.cdefs").C

local type, floor = type, math.floor

local M = {}

local MAXDIMS = C.SHAREARRAY_MAXDIMS

M.MAXDIMS = MAXDIMS

--- Whether `x` is a finite integer.
function M.is_integer(x)
  return type(x) == "number" and floor(x) == x and x - x == 0
end

local function product(shape)
  local size = 1
  for _, n in ipairs(shape) do size = size * n end
  return size
end

--- A shape as Python writes it.
function M.tuple(shape)
  return "(" .. table.concat(shape, ", ") .. (#shape == 1 and ",)" or ")")
end

--- The strides of C order, in bytes as everywhere.
function M.c_strides(shape, itemsize)
  local strides, stride = {}, itemsize
  for axis = #shape, 1, -1 do
    strides[axis] = stride
    stride = stride * shape[axis]
  end
  return strides
end

--- Whether the elements lie in C order without gaps. An axis of size 1 is never stepped along, and
-- nothing is stepped along without elements.
function M.is_c_order(shape, strides, itemsize)
  if product(shape) == 0 then return true end
  local expected = M.c_strides(shape, itemsize)
  for axis, n in ipairs(shape) do
    if n > 1 and strides[axis] ~= expected[axis] then return false end
  end
  return true
end

--- Checks a shape: a list of sizes, or one size.
-- @tparam[opt] number size that it has to have; one -1 is then worked out
-- @treturn[1] table a copy of the shape
-- @treturn[1] number its size
-- @return[2] nil, message
function M.check(shape, size)
  if type(shape) == "number" then shape = { shape } end
  if type(shape) ~= "table" then return nil, "a shape is a list of sizes such as {60000, 784}, got " .. type(shape) end
  if #shape > MAXDIMS then return nil, ("%d dimensions; at most %d are possible"):format(#shape, MAXDIMS) end
  local result, unknown, extent = {}, nil, 1
  for axis = 1, #shape do
    local n = shape[axis]
    if size and n == -1 then
      if unknown then return nil, "one size of a shape may be -1, to be worked out, not two" end
      unknown, n = axis, 1
    elseif not M.is_integer(n) or n < 0 then
      return nil, ("the size of axis %d must be an integer of 0 or more, got %s"):format(axis - 1, tostring(n))
    end
    result[axis], extent = n, extent * math.max(n, 1)
  end
  if extent > 2 ^ 52 then return nil, "the shape " .. M.tuple(result) .. " is too large" end
  local known = product(result)
  if unknown and known > 0 then
    result[unknown] = floor(size / known)
    known = known * result[unknown]
  elseif unknown then
    known = nil -- beside a 0, -1 could be anything
  end
  if size and known ~= size then
    return nil, ("cannot reshape an array of size %d into shape %s"):format(size, M.tuple(shape))
  end
  return result, known
end

return M
