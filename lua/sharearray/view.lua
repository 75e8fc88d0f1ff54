--- Views: typed, bounds-checked access to memory that is counted, at the speed of a raw pointer.
--
-- A view is a C struct (a pointer, the sizes, a reference of the mapping) with a metatype of its
-- class, see sharearray.element. Memory lives as long as the last view of it, see sharearray.lifetime.
--
-- An *array* is a view of memory that may be written. Whether it may is a property of the memory,
-- not of the view: the map of private memory has no .npy header (`array.order` is 0) until it is
-- published, which seals every view of it at once, before the kernel would answer with SIGSEGV.
--
-- This is how the view of a file is made, told from other values and dropped. Views of any other shape and strides are
-- made in sharearray.instance. What users call on them is in sharearray.methods, how they lie in memory in
-- sharearray.layout.
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

local type, cast = type, ffi.cast
local band, rshift = bit.band, bit.rshift

local view = {
  --- How often a view was closed: whoever hands one out again has to look at it first.
  closings = 0,
  --- Why an access fails.
  CLOSED = "the view is closed",
  READ_ONLY = "the array is read-only: ",
}

local map_p = ffi.typeof("sharearray_map *")

--- The byte that `sealed` points to in views that were never writable.
view.always = ffi.new("uint8_t[1]", 1)

local always = view.always

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
  -- At the first property: what all views have is loaded then. The class is told without: whoever asks for it takes an
  -- error for another's cdata.
  function hooks.property(self, key)
    local class = hooks.class
    if key == CLASS then return class end
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

--- The class of views of a kind, if there were any.
function view.known_class(dtype, ndim, contiguous, wide, writable)
  return made[dtype] and made[dtype][key_of(ndim, contiguous, wide, writable)]
end

--- The class of views of a kind.
-- @param dtype a dtype object
-- @tparam number ndim
-- @tparam boolean contiguous in C order
-- @tparam boolean wide whether a size or an offset does not fit int32
-- @tparam boolean writable whether the memory may be written, or might be once
function view.class_for(dtype, ndim, contiguous, wide, writable)
  -- Anonymous structs, kept here: a second copy of this module in the process has its own, and
  -- ffi.metatype may be called once for each.
  local class = view.known_class(dtype, ndim, contiguous, wide, writable)
  if class then return class end
  local inner = ndim > 1 and view.class_for(dtype, ndim - 1, contiguous, wide, writable).lend or nil
  class = make_class { dtype = dtype, ndim = ndim, contiguous = contiguous, wide = wide, writable = writable,
    bounds = not wide and ndim <= 2, inner = inner } -- the core knows that too: sharearray_view()
  made[dtype] = made[dtype] or {}
  made[dtype][key_of(ndim, contiguous, wide, writable)] = class
  return class
end

local by_layout = {}

-- The parts of a layout lie as core/view.c has them.
local function make_layout(layout)
  local dtype = dtypes.from_npy(rshift(layout, 24), band(rshift(layout, 16), 0xff))
  if not dtype then return nil end
  by_layout[layout] = view.class_for(dtype, band(rshift(layout, 8), 0xff), true, band(layout, 1) == 1, false)
  return by_layout[layout]
end

--- The class of mapped arrays, by what the core calls their layout; nil for 0.
function view.class_of_layout(layout) return by_layout[layout] or make_layout(layout) end

-- Views are filled in by the core, which a process that has just woken up is quicker at.
local fill_in, release_later = C.sharearray_view, ffi.gc

--- The view of the array that a whole file is.
-- @param map `sharearray_map *`; the view takes the caller's reference over
-- @tparam number layout of its array
-- @return the view; nil where the layout is 0, and the reference stays with the caller
function view.whole(map, layout)
  local class = by_layout[layout] or make_layout(layout)
  if not class then return nil end
  local result = release_later(class.ctype(), class.finalizer)
  fill_in(map, nil, class.bits, always, result)
  return result
end

--- Whether `x` is a view or an array, closed ones included.
function view.is(x) return class_of(x) ~= nil end

--- The `sharearray_map *` of the memory of a view or an owner, without a reference; NULL if closed.
function view.map(x) return cast(map_p, x.map) end

return view
