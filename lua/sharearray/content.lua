--- What a mapped file is to a user: a view, or the table of a bundle. Of numbers in C order, which most files hold, the
-- view is made at once, see view.whole; all else is found out here.
-- @module sharearray.content

local ffi = require "ffi"
local dtype = require "sharearray.dtype"
local instance = require "sharearray.instance"
local lazy = require "sharearray.lazy"
local lifetime = require "sharearray.lifetime"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

local bundle = lazy "sharearray.bundle"

local content = {}

local MOST = 2 ^ 52 -- elements

local char_p = ffi.typeof("const char *") -- interpreted code would parse it at every cast

-- The kinds of numbers are told by the core. The others have to be looked up in the file, which costs a
-- page fault, more than all else that happens here.
local function dtype_of(map, array, start)
  local type_ = dtype.from_npy(array.kind, array.itemsize)
  if type_ then return type_ end
  local text = ffi.cast(char_p, map.base) + start + array.descr_offset
  return dtype.from_descr(ffi.string(text, array.descr_length), array.version)
end

-- The view of an array that is more than numbers in C order, whose file begins at `start` in the mapping; nil
-- and why there can be none.
local function view_of(map, array, start)
  local base = ffi.cast(char_p, map.base)
  local type_, problem = dtype_of(map, array, start)
  if not type_ then return nil, problem end
  if type_.itemsize ~= array.itemsize then return nil, "its dtype has another size than its elements" end
  local shape, strides, step, count = {}, nil, 1, 1
  for i = 1, array.ndim do
    shape[i] = tonumber(array.shape[i - 1])
    count = count * math.max(shape[i], 1)
  end
  -- Elements of no bytes may be that many.
  if count > MOST then return nil, "it has more elements than a number can count" end
  if array.fortran == 1 then
    strides = {}
    for i = 1, array.ndim do
      strides[i] = step
      step = step * shape[i]
    end
  end
  return instance.new(type_, shape, strides, base + start + array.offset, map, false)
end

-- LuaJIT has room for 65,536 C types in a process, which dtypes take.
local function attempt(make, ...)
  local made, value, problem, code = pcall(make, ...)
  if made then return value, problem, code end
  return nil, ("LuaJIT cannot hold it: %s"):format(value), "unsupported"
end

--- The value of a map.
-- @param map `sharearray_map *`, with a reference that this call takes over
-- @return[1] the view, or the table of a bundle
-- @return[1] what pins the map for it: the view, or the owner that the bundle's members live on
-- @return[2] nil, nil or that owner, why there is none, and the code
function content.value(map)
  local value = view.whole(map, map.array.layout)
  if value then return value, value end
  if map.array.kind ~= 0 then
    local other, problem = attempt(view_of, map, map.array, 0)
    C.sharearray_unref(map)
    return other, other, problem, "unsupported"
  end
  local pin = lifetime.owner(map)
  C.sharearray_unref(map)
  local members, problem, code = attempt(bundle.table_of, pin, map, view_of)
  return members, pin, problem, code
end

--- Why a map has no value; nil if it has one. It keeps its reference.
function content.unfit(map)
  C.sharearray_ref(map)
  local value, _, problem = content.value(map)
  if value == nil then return problem end
end

return content
