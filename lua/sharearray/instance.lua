--- Views of any shape and strides, of a map or of a part of one: how they are made, and what is seldom asked of one.
-- @module sharearray.instance

local bit = require "bit"
local ffi = require "ffi"
local shapes = require "sharearray.shape"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

-- This file may be read long after view.lua was, and cdefs.lua.
require("sharearray.library").check(7)

local cast, always, class_of = ffi.cast, view.always, view.class
local known_class, class_for, class_of_layout = view.known_class, view.class_for, view.class_of_layout

local instance = {}

local map_p = ffi.typeof("sharearray_map *")
local ORDER = ffi.offsetof("sharearray_map", "array") + ffi.offsetof("sharearray_npy", "order")

-- Whether a size or an offset does not fit int32.
local function is_wide(shape, strides)
  local extent, reach = 1, 1
  for axis, n in ipairs(shape) do
    extent = extent * math.max(n, 1)
    reach = reach + math.max(n, 1) * (strides and math.abs(strides[axis]) or 0)
  end
  return extent >= 2 ^ 31 or reach >= 2 ^ 31
end

local function of_class(class, shape, strides, pointer, map, sealed)
  if not strides then return class.make(map, sealed, cast(class.constant, pointer), unpack(shape)) end
  local dims = {}
  for axis, n in ipairs(shape) do dims[axis] = n end
  for axis, stride in ipairs(strides) do dims[#shape + axis] = stride end
  return class.make(map, sealed, cast(class.constant, pointer), unpack(dims))
end

--- A view; all but those of whole files and of members are made by this.
-- @tparam table shape
-- @param strides in bytes; nil for C order
-- @param sealed points to a byte that is 0 as long as the memory may be written
function instance.make(dtype, shape, strides, pointer, map, sealed)
  -- Somebody's finalizer may close a view while a method of it, which looked whether it is open, gets here.
  if map == nil or sealed == nil then error(view.CLOSED, 3) end
  if strides and shapes.is_c_order(shape, strides, dtype.itemsize) then strides = nil end
  local ndim, contiguous, wide, writable = #shape, strides == nil, is_wide(shape, strides), sealed ~= always
  local class = known_class(dtype, ndim, contiguous, wide, writable)
  if class then return of_class(class, shape, strides, pointer, map, sealed) end
  -- So much is made with a class that whoever holds the memory until now may be collected meanwhile.
  local held = cast(map_p, map)
  C.sharearray_ref(held)
  class = class_for(dtype, ndim, contiguous, wide, writable)
  local result = of_class(class, shape, strides, pointer, map, sealed)
  C.sharearray_unref(held)
  return result
end

local make = instance.make

--- A view of mapped memory.
-- @param dtype a dtype object
-- @tparam table shape list of numbers
-- @param strides list, in elements; nil for C order
-- @param pointer to the first element
-- @param map `sharearray_map *` that the memory is part of; the view takes its own reference
-- @tparam boolean writable an array, until the map is published or frozen
function instance.new(dtype, shape, strides, pointer, map, writable)
  local sealed = writable and cast("uint8_t *", map) + ORDER or always
  if not strides then return make(dtype, shape, nil, pointer, map, sealed) end
  local apart = {}
  for axis, stride in ipairs(strides) do apart[axis] = stride * dtype.itemsize end
  return make(dtype, shape, apart, pointer, map, sealed)
end

--- The view of an array in a bundle, which has no reference of the map: see sharearray.lifetime.
-- @param class of the array's layout, see view.class_of_layout
-- @param map `sharearray_map *`
-- @param member `sharearray_member *` of it
function instance.member(class, map, member)
  local result = class.ctype()
  C.sharearray_view(map, member, class.bits, always, result)
  return result
end

--- Closed views of the classes that most arrays are of, rows and tables of numbers, for the core to fill in: for who
-- has nothing to do but to wait for one.
-- @tparam table list of dtype objects
-- @treturn table the views, which the caller keeps as long as the core has the blanks
-- @return `sharearray_blank *` for each, in the same order
-- @return what all of them have for `sealed`
function instance.blanks(list)
  local views, blanks = {}, ffi.new("sharearray_blank[?]", 2 * #list)
  for _, dtype in ipairs(list) do
    for ndim = 1, 2 do
      local layout = bit.lshift(dtype.kind:byte(), 24) + bit.lshift(dtype.itemsize, 16) + bit.lshift(ndim, 8)
      local class = class_of_layout(layout)
      local x = ffi.gc(class.ctype(), class.finalizer)
      blanks[#views] = { x, layout, class.bits }
      views[#views + 1] = x
    end
  end
  return views, blanks, always
end

--- Whether elements of the view `x` may be set.
function instance.is_writable(x) return x.map ~= nil and x.sealed[0] == 0 end

--- Makes the array `x` and all that shares its memory read-only.
function instance.freeze(x)
  if x.map ~= nil then cast("uint8_t *", x.sealed)[0] = 1 end
end

--- `const T *` to the first element.
function instance.pointer(x) return cast(class_of(x).constant, x.elements) end

return instance
