--- The elements of a strided view, copied in C order into plain memory.
-- Elements are moved as integers of their size: going through a Lua number would lose NaN payloads.
-- @module sharearray.copy

local ffi = require "ffi"

local copy = {}

local MOST = 2 ^ 30 -- ffi.copy and ffi.fill take the length as a 32-bit int

--- Copies `size` bytes, any number of them.
function copy.bytes(destination, source, size)
  local to, from = ffi.cast("char *", destination), ffi.cast("const char *", source)
  for at = 0, size - 1, MOST do ffi.copy(to + at, from + at, math.min(MOST, size - at)) end
end

-- For the inner loop: `count` elements, `stride` bytes apart.
local function mover(ctype)
  local to_p, from_p = ffi.typeof(ctype .. " *"), ffi.typeof("const " .. ctype .. " *")
  return function(destination, source, count, stride)
    local to = ffi.cast(to_p, destination)
    for k = 0, count - 1 do to[k] = ffi.cast(from_p, source + k * stride)[0] end
  end
end

local movers = { [1] = mover "int8_t", [2] = mover "int16_t", [4] = mover "int32_t", [8] = mover "int64_t" }

local function move(destination, source, count, stride, itemsize)
  if stride == itemsize then return copy.bytes(destination, source, count * itemsize) end
  local mover_of_size = movers[itemsize]
  if mover_of_size then return mover_of_size(destination, source, count, stride) end
  for k = 0, count - 1 do ffi.copy(destination + k * itemsize, source + k * stride, itemsize) end
end

--- Copies the elements number `first` to `first + count - 1`, counted in C order.
-- @param elements pointer to element 0
-- @tparam table shape
-- @tparam table strides in bytes
-- @param itemsize bytes
function copy.gather(elements, itemsize, shape, strides, first, count, destination)
  local from, to = ffi.cast("const char *", elements), ffi.cast("char *", destination)
  local last = #shape
  if last == 0 then return ffi.copy(to, from, itemsize) end
  -- `index` are the digits of `first`, `at` the offset of the element it names, in bytes.
  local index, at = {}, 0
  for axis = last, 1, -1 do
    index[axis] = first % shape[axis]
    first = (first - index[axis]) / shape[axis]
    at = at + index[axis] * strides[axis]
  end
  while count > 0 do
    local run = math.min(shape[last] - index[last], count)
    move(to, from + at, run, strides[last], itemsize)
    to, count = to + run * itemsize, count - run
    index[last], at = index[last] + run, at + run * strides[last]
    -- Carry, like an odometer; the first digit may run over when all is done.
    local axis = last
    while axis > 1 and index[axis] == shape[axis] do
      at = at - index[axis] * strides[axis] + strides[axis - 1]
      index[axis], index[axis - 1] = 0, index[axis - 1] + 1
      axis = axis - 1
    end
  end
end

-- No closure: code that LuaJIT compiled for one would keep what it captured, and the mapping with it, for ever.
local function next_piece(state)
  local from, n, itemsize = state.at, math.min(state.most, state.size - state.at), state.itemsize
  if n <= 0 then return nil end
  state.at = from + n
  if not state.buffer then return state.first + from * itemsize, n * itemsize end
  copy.gather(state.first, itemsize, state.shape, state.strides, from, n, state.buffer)
  return state.buffer, n * itemsize
end

--- `for pointer, bytes in copy.pieces(...) do`: all bytes in C order, at most `limit` (or one element)
-- at a time. A pointer is valid until the next step.
-- @param strides in bytes; nil for C order
-- @param holder kept alive by the loop
function copy.pieces(elements, itemsize, shape, strides, limit, holder)
  local size = 1
  for _, n in ipairs(shape) do size = size * n end
  local most = math.max(1, math.floor(limit / math.max(itemsize, 1)))
  return next_piece, {
    holder = holder, first = ffi.cast("const char *", elements), itemsize = itemsize, shape = shape, strides = strides,
    at = 0, size = size, most = most, buffer = strides and ffi.new("char[?]", math.min(most, size) * itemsize),
  }
end

return copy
