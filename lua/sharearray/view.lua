--- Views: typed, bounds-checked access to memory that is counted, at the speed of a raw pointer.
--
-- A view is a C struct (a pointer, the sizes, a reference of the mapping) with a metatype of its
-- class, see sharearray.element. Memory lives as long as the last view of it, see sharearray.lifetime.
--
-- An *array* is a view of memory that may be written. Whether it may is a property of the memory,
-- not of the view: the map of private memory has no .npy header (`array.order` is 0) until it is
-- published, which seals every view of it at once, before the kernel would answer with SIGSEGV.
--
-- This is how views are made, told from other values and dropped. What users call on them is in
-- sharearray.methods, how they lie in memory in sharearray.layout.
-- @module sharearray.view

local bit = require "bit"
local dtypes = require "sharearray.dtype"
local element = require "sharearray.element"
local ffi = require "ffi"
local lazy = require "sharearray.lazy"
local lifetime = require "sharearray.lifetime"
local C = require("sharearray.library").C

local failures = lazy "sharearray.failures"
local format = lazy "sharearray.format"
local methods = lazy "sharearray.methods"
local shapes = lazy "sharearray.shape"

local type, cast = type, ffi.cast
local band, lshift, rshift = bit.band, bit.lshift, bit.rshift

local view = {
  --- How often a view was closed: whoever hands one out again has to look at it first.
  closings = 0,
  --- Why an access fails.
  CLOSED = "the view is closed",
  READ_ONLY = "the array is read-only: ",
}

local map_p = ffi.typeof("sharearray_map *")

-- For views that were never writable: the byte that `sealed` points to.
local always = ffi.new("uint8_t[1]", 1)
local ORDER = ffi.offsetof("sharearray_map", "array") + ffi.offsetof("sharearray_npy", "order")

-- A view answers this key with its class. Asking is cheaper than ffi.typeof(x), which makes an object.
local CLASS = {}
local classes = {} -- the set of them

local function ask(x) return x[CLASS] end

--- The class of a view, a closed one too; nil for all else.
function view.class(x)
  if type(x) ~= "cdata" then return nil end
  local ok, class = pcall(ask, x) -- cdata of others has no such key, which is an error
  return ok and classes[class] and class or nil
end

local class_of = view.class

local function is_closed(self) return self.map == nil end

--- Drops the reference of the memory now. Any later use raises "closed"; closing again does nothing.
-- Other views of the memory are not affected.
local function close(self)
  local class = class_of(self)
  if not class then error("not an array; methods are called with a colon, as in v:close()", 2) end
  view.closings = view.closings + 1
  lifetime.close(self)
  view.closings = view.closings + 1 -- a finalizer may have asked for it meanwhile, and found it open
end

local function length(self)
  local class = class_of(self)
  if is_closed(self) then error(view.CLOSED, 2) end
  if class.ndim == 0 then error("an array of dimension 0 has no length", 2) end
  return self.n0
end

-- Classes --------------------------------------------------------------------------------------------

-- What the accessors of a class call when it is no element that is asked for, or none that can be had.
local function make_hooks()
  local hooks = {}
  -- At the first property: what all views have is loaded then.
  function hooks.property(self, key)
    local class = hooks.class
    local own = { [CLASS] = class, close = close, set = class.set, tonumber = class.number }
    hooks.property = methods.property(class, own)
    return hooks.property(self, key)
  end
  return setmetatable(hooks, { __index = failures })
end

local function make_class(spec)
  local hooks = make_hooks()
  local class = element.compile(spec, hooks)
  hooks.class = class
  class.dtype, class.ndim, class.contiguous = spec.dtype, spec.ndim, spec.contiguous
  class.bits = spec.dtype.reader.bits and 1 or 0
  classes[class] = true
  ffi.metatype(class.ctype, {
    __call = class.get,
    __index = class.index,
    __newindex = class.newindex,
    __len = length,
    __tostring = function(self) return format.tostring(self) end,
    __ipairs = function(self) return methods.iter(self) end,
    __pairs = function(self) return methods.iter(self) end,
  })
  return class
end

local made = {} -- dtype -> number -> class

local function key_of(ndim, contiguous, wide, writable)
  return ndim * 8 + (contiguous and 4 or 0) + (wide and 2 or 0) + (writable and 1 or 0)
end

-- Anonymous structs, kept here: a second copy of this module in the process has its own, and
-- ffi.metatype may be called once for each.
local function class_for(dtype, ndim, contiguous, wide, writable)
  local of_dtype, key = made[dtype], key_of(ndim, contiguous, wide, writable)
  if not of_dtype then
    of_dtype = {}
    made[dtype] = of_dtype
  end
  if not of_dtype[key] then
    local inner = ndim > 1 and class_for(dtype, ndim - 1, contiguous, wide, writable).lend or nil
    of_dtype[key] = make_class { dtype = dtype, ndim = ndim, contiguous = contiguous, wide = wide, writable = writable,
      inner = inner }
  end
  return of_dtype[key]
end

-- Whether a size or an offset does not fit int32.
local function is_wide(shape, strides)
  local extent, reach = 1, 1
  for axis, n in ipairs(shape) do
    extent = extent * math.max(n, 1)
    reach = reach + math.max(n, 1) * (strides and math.abs(strides[axis]) or 0)
  end
  return extent >= 2 ^ 31 or reach >= 2 ^ 31
end

local function instance(class, shape, strides, pointer, map, sealed)
  if not strides then return class.make(map, sealed, cast(class.constant, pointer), unpack(shape)) end
  local dims = {}
  for axis, n in ipairs(shape) do dims[axis] = n end
  for axis, stride in ipairs(strides) do dims[#shape + axis] = stride end
  return class.make(map, sealed, cast(class.constant, pointer), unpack(dims))
end

--- A view; all others are made by this.
-- @tparam table shape
-- @param strides in bytes; nil for C order
-- @param sealed points to a byte that is 0 as long as the memory may be written
function view.make(dtype, shape, strides, pointer, map, sealed)
  if strides and shapes.is_c_order(shape, strides, dtype.itemsize) then strides = nil end
  local ndim, contiguous, wide, writable = #shape, strides == nil, is_wide(shape, strides), sealed ~= always
  local class = made[dtype] and made[dtype][key_of(ndim, contiguous, wide, writable)]
  if class then return instance(class, shape, strides, pointer, map, sealed) end
  -- So much is made with a class that whoever holds the memory until now may be collected meanwhile.
  local held = cast(map_p, map)
  C.sharearray_ref(held)
  class = class_for(dtype, ndim, contiguous, wide, writable)
  local result = instance(class, shape, strides, pointer, map, sealed)
  C.sharearray_unref(held)
  return result
end

--- A view of mapped memory.
-- @param dtype a dtype object
-- @tparam table shape list of numbers
-- @param strides list, in elements; nil for C order
-- @param pointer to the first element
-- @param map `sharearray_map *` that the memory is part of; the view takes its own reference
-- @tparam boolean writable an array, until the map is published or frozen
function view.new(dtype, shape, strides, pointer, map, writable)
  local sealed = writable and cast("uint8_t *", map) + ORDER or always
  if not strides then return view.make(dtype, shape, nil, pointer, map, sealed) end
  local apart = {}
  for axis, stride in ipairs(strides) do apart[axis] = stride * dtype.itemsize end
  return view.make(dtype, shape, apart, pointer, map, sealed)
end

local by_layout = {} -- the classes of mapped arrays, by what the core calls their layout

-- Its parts are laid out as core/view.c has them.
local function class_of_layout(layout)
  local dtype = dtypes.from_npy(rshift(layout, 24), band(rshift(layout, 16), 0xff))
  if not dtype then return nil end
  by_layout[layout] = class_for(dtype, band(rshift(layout, 8), 0xff), true, band(layout, 1) == 1, false)
  return by_layout[layout]
end

-- Views are filled in by the core, which a process that has just woken up is quicker at.
local fill_in, release_later = C.sharearray_view, ffi.gc

--- The view of the array that a whole file is.
-- @param map `sharearray_map *`; the view takes the caller's reference over
-- @tparam number layout of its array
-- @return the view; nil where the layout is 0, and the reference stays with the caller
function view.whole(map, layout)
  local class = by_layout[layout] or class_of_layout(layout)
  if not class then return nil end
  local result = release_later(class.ctype(), class.finalizer)
  fill_in(map, nil, class.bits, always, result)
  return result
end

--- The view of an array in a bundle, which has no reference of the map: see sharearray.lifetime. nil where its layout
-- is 0.
-- @param map `sharearray_map *`
-- @param member `sharearray_member *` of it
function view.member(map, member)
  local layout = member.array.layout
  local class = by_layout[layout] or class_of_layout(layout)
  if not class then return nil end
  local result = class.ctype()
  fill_in(map, member, class.bits, always, result)
  return result
end

--- Whether `x` is a view or an array, closed ones included.
function view.is(x) return class_of(x) ~= nil end

--- Closed views of the classes that most arrays are of, rows and tables of numbers, for the core to fill in: for who
-- has nothing to do but to wait for one.
-- @tparam table list of dtype objects
-- @treturn table the views, which the caller keeps as long as the core has the blanks
-- @return `sharearray_blank *` for each, in the same order
-- @return what all of them have for `sealed`
function view.blanks(list)
  local views, blanks = {}, ffi.new("sharearray_blank[?]", 2 * #list)
  for _, dtype in ipairs(list) do
    for ndim = 1, 2 do
      local layout = lshift(dtype.kind:byte(), 24) + lshift(dtype.itemsize, 16) + lshift(ndim, 8)
      local class = by_layout[layout] or class_of_layout(layout)
      local x = release_later(class.ctype(), class.finalizer)
      blanks[#views] = { x, layout, class.bits }
      views[#views + 1] = x
    end
  end
  return views, blanks, always
end

--- Whether elements of the view `x` may be set.
function view.is_writable(x) return not is_closed(x) and x.sealed[0] == 0 end

--- Makes the array `x` and all that shares its memory read-only.
function view.freeze(x)
  if not is_closed(x) then cast("uint8_t *", x.sealed)[0] = 1 end
end

--- `const T *` to the first element.
function view.pointer(x) return cast(class_of(x).constant, x.elements) end

--- The `sharearray_map *` of the memory of a view or an owner, without a reference; NULL if closed.
function view.map(x) return cast(map_p, x.map) end

return view
