--- Private arrays: writable memory of this process, filled from Lua values, strings, FFI cdata, views,
-- Torch tensors.
-- @module sharearray.array

local convert = require "sharearray.convert"
local copy = require "sharearray.copy"
local dtypes = require "sharearray.dtype"
local ffi = require "ffi"
local instance = require "sharearray.instance"
local layout = require "sharearray.layout"
local lazy = require "sharearray.lazy"
local library = require "sharearray.library"
local shapes = require "sharearray.shape"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

local tensors = lazy "sharearray.torch"

local array = {}

local MAXDIMS = C.SHAREARRAY_MAXDIMS

-- Internal functions return nil and a message; the public ones raise it at their caller's line.

local function allocate(dtype, shape)
  local size = 1
  for _, n in ipairs(shape) do size = size * n end
  local map_out, message = library.new_map_out(), library.new_message()
  local code = C.sharearray_private(size * dtype.itemsize, map_out, message)
  if code < 0 then return nil, ffi.string(message) end
  local map = map_out[0]
  local result = instance.new(dtype, shape, nil, map.base, map, true)
  C.sharearray_unref(map) -- the array has its own reference
  return result
end

-- Nested lists ----------------------------------------------------------------------------------------

local function place(path)
  return #path == 0 and "the value" or "[" .. table.concat(path, "][") .. "]"
end

-- The number of elements of a list, or nil and what is wrong: `#` alone does not see holes and keys.
local function length(list, path)
  local n, keys = #list, 0
  for key in pairs(list) do
    keys = keys + 1
    if type(key) ~= "number" then
      return nil, ("%s is no list: it has the key %s"):format(place(path), tostring(key))
    end
  end
  if keys ~= n then return nil, place(path) .. " is no list: it has holes" end
  return n
end

-- Of a structured dtype, a table with names is an element.
local function is_list(value, dtype)
  return type(value) == "table" and not (dtype and dtype.names and type(next(value)) == "string")
end

-- The shape, as the first elements have it; `collect` holds the others to it.
local function shape_of_lists(value, dtype)
  local shape, path = {}, {}
  while is_list(value, dtype) do
    if #shape == MAXDIMS then return nil, ("lists are nested more than %d deep"):format(MAXDIMS) end
    local n, message = length(value, path)
    if not n then return nil, message end
    shape[#shape + 1], path[#path + 1] = n, 1
    value = value[1]
    if n == 0 then break end
  end
  return shape
end

-- Appends the leaves to `leaves`, in C order.
local function collect(value, shape, leaves, path, dtype)
  local axis = #path + 1
  if axis > #shape then
    if is_list(value, dtype) then
      return nil, ("inhomogeneous shape: %s is a list, others are not"):format(place(path))
    end
    leaves[#leaves + 1] = value
    return true
  end
  if not is_list(value, dtype) then
    return nil, ("inhomogeneous shape: %s is no list, others are"):format(place(path))
  end
  local n, message = length(value, path)
  if not n then return nil, message end
  if n ~= shape[axis] then
    return nil, ("inhomogeneous shape: %s has %d elements, %d expected"):format(place(path), n, shape[axis])
  end
  for i = 1, n do
    path[axis] = i
    local ok, problem = collect(value[i], shape, leaves, path, dtype)
    if not ok then return nil, problem end
  end
  path[axis] = nil
  return true
end

-- Of ffi.typeof, whose result ffi.istype takes for an object of its type.
local function is_ctype(value)
  return type(value) == "cdata" and tostring(value):find("^ctype<") ~= nil
end

local function natural(leaf)
  if type(leaf) == "number" then return "float64" end
  if type(leaf) == "boolean" then return "bool" end
  if is_ctype(leaf) then return nil end
  if ffi.istype("int64_t", leaf) then return "int64" end
  if ffi.istype("uint64_t", leaf) then return "uint64" end
  if convert.is_complex(leaf) then return "complex128" end
end

-- The dtype that holds all the leaves without loss.
local function natural_dtype(leaves)
  local found
  for _, leaf in ipairs(leaves) do
    local name = natural(leaf)
    if not name then
      return nil, "no dtype for " .. convert.describe(leaf)
        .. (type(leaf) == "string" and [[: name one, such as "S16" or "U16"]] or "")
    end
    if found and found ~= name then
      local pair = found .. name
      if pair ~= "float64complex128" and pair ~= "complex128float64" then
        return nil, ("elements of dtype %s and %s are mixed: name the dtype to have"):format(found, name)
      end
      name = "complex128"
    end
    found = name
  end
  return dtypes.of(found or "float64")
end

local function coordinates(k, shape)
  local path = {}
  for axis = #shape, 1, -1 do
    path[axis] = k % shape[axis] + 1
    k = math.floor(k / shape[axis])
  end
  return place(path)
end

local function from_lists(value, dtype)
  local leaves = {}
  local shape, message = shape_of_lists(value, dtype)
  if not shape then return nil, message end
  local ok, problem = collect(value, shape, leaves, {}, dtype)
  if not ok then return nil, problem end
  if not dtype then
    dtype, message = natural_dtype(leaves)
    if not dtype then return nil, message end
  end
  local result, failure = allocate(dtype, shape)
  if not result then return nil, failure end
  local data = result.data
  for k, leaf in ipairs(leaves) do
    local x, unfit = dtype.writer(leaf)
    if unfit then return nil, coordinates(k - 1, shape) .. ": " .. unfit end
    data[k - 1] = x
  end
  return result
end

-- Strings, views, cdata -------------------------------------------------------------------------------

local function from_string(bytes, dtype)
  dtype = dtype or dtypes.of("uint8")
  if dtype.itemsize == 0 or #bytes % dtype.itemsize ~= 0 then
    return nil, ("%d bytes are no multiple of %s's %d"):format(#bytes, dtype.name, dtype.itemsize)
  end
  local result, message = allocate(dtype, { #bytes / dtype.itemsize })
  if result then copy.bytes(result.data, bytes, #bytes) end
  return result, message
end

-- Between booleans and numbers in both directions, as NumPy's astype does; else the value itself.
local function translate(x, from, to)
  if from.kind == "b" and to.kind ~= "b" then return x and 1 or 0 end
  if to.kind == "b" and from.kind ~= "b" then return x ~= 0 end
  return x
end

local function converted(source, dtype)
  local result, message = allocate(dtype, source.shape)
  if not result then return nil, message end
  -- Flat, so that one loop does it whatever the dimension.
  local from = source:reshape { -1 }
  local to, writer, of = result.data, dtype.writer, from.dtype
  for k = 0, from.size - 1 do
    local x, unfit = writer(translate(from[k], of, dtype))
    if unfit then return nil, ("element %d: %s"):format(k, unfit) end
    to[k] = x
  end
  return result
end

local function from_view(source, dtype)
  if source.map == nil then return nil, "the view is closed" end
  if dtype and dtype ~= source.dtype and layout.contiguous(source) then return converted(source, dtype) end
  local result, message = allocate(source.dtype, source.shape)
  if not result then return nil, message end
  layout.copy(source, result.data)
  if source.map == nil then return nil, "the view is closed" end -- by somebody's finalizer, in the midst of that
  if dtype and dtype ~= source.dtype then return converted(result, dtype) end
  return result
end

local function from_elements(value, dtype)
  local pointer, of, shape, strides = array.elements(value)
  if not pointer then return nil, of end
  local result, message = allocate(of, shape)
  if not result then return nil, message end
  if strides then
    copy.gather(pointer, of.itemsize, shape, strides, 0, result.size, result.data)
  else
    copy.bytes(result.data, pointer, result.nbytes)
  end
  if dtype and dtype ~= of then return converted(result, dtype) end
  return result
end

--- What an FFI array is made of, without copying: `ffi.new("float[?]", n)`, `float[3][4]`, and
-- references to such.
-- @return[1] `const T *` to the first element, valid as long as `value` is referenced
-- @return[1] the dtype
-- @treturn[1] table the shape
-- @return[2] nil, message
function array.from_cdata(value)
  if type(value) ~= "cdata" then return nil, "FFI cdata expected, got " .. type(value) end
  if is_ctype(value) then return nil, tostring(value) .. " is a C type, no object" end
  local ctype = tostring(ffi.typeof(value)):match("^ctype<(.*)>$")
  -- "float [3][4]"; a reference to one is "float (&)[3][4]"
  local name, dims = ctype:gsub(" %(&%)", " "):match("^([%w_ ]-) (%[[%[%]%d?]*%])$")
  local dtype = name and dtypes.from_ctype(name)
  if not dtype then
    if ctype:find("*", 1, true) then
      return nil, ("a pointer (%s) does not know its size: copy it into ffi.new(\"T[?]\", n)"):format(ctype)
    end
    return nil, ("C type %s is no array of numbers: pass ffi.new(\"T[?]\", n)"):format(ctype)
  end
  local shape, inner = {}, dtype.itemsize
  for n in dims:gmatch("%[([%d?]*)%]") do shape[#shape + 1] = tonumber(n) or 0 end
  if #shape > MAXDIMS then return nil, ("%d dimensions; at most %d are possible"):format(#shape, MAXDIMS) end
  for axis = 2, #shape do inner = inner * shape[axis] end
  if inner > 0 then shape[1] = ffi.sizeof(value) / inner end -- of "[?]" only the object knows it
  return ffi.cast("const " .. dtype.ctype .. " *", value), dtype, shape
end

--- Whether `value` is a Torch7 tensor. Torch is not loaded for the question: who has a tensor has it.
function array.is_tensor(value)
  local torch = type(value) == "userdata" and package.loaded.torch
  return type(torch) == "table" and torch.isTensor ~= nil and torch.isTensor(value)
end

--- What an FFI array or a Torch tensor is made of, without copying.
-- @return[1] pointer to the first element, valid as long as `value` is referenced
-- @return[1] the dtype
-- @treturn[1] table the shape
-- @treturn[1] ?table the strides, in bytes; nil for C order
-- @return[2] nil, message
function array.elements(value)
  if array.is_tensor(value) then return tensors.elements(value) end
  return array.from_cdata(value)
end

local function make(value, dtype)
  local kind = type(value)
  if kind == "table" then return from_lists(value, dtype) end
  if kind == "string" then return from_string(value, dtype) end
  if view.is(value) then return from_view(value, dtype) end
  if natural(value) then return from_lists(value, dtype) end -- 0-d
  if kind == "cdata" or array.is_tensor(value) then return from_elements(value, dtype) end
  return nil, "cannot make an array of a " .. kind
end

--- A private, writable array with a copy of `value`.
-- @param value nested lists of numbers, booleans, 64-bit or complex cdata, all lists of an axis of one
--   length; a string of bytes; an FFI array; a view; a Torch tensor; or one number or boolean, for
--   dimension 0
-- @param[opt] dtype what it is to be. Without: float64 for numbers, bool for booleans, int64, uint64
--   and complex128 for such cdata, uint8 for a string, and what FFI arrays, views and tensors are of. The
--   bytes of a string are taken as they are; all else is converted, and has to fit
-- @return the array; raises where the value or the dtype is none, or there is no memory
function array.array(value, dtype)
  local message
  if dtype ~= nil then
    dtype, message = dtypes.of(dtype)
    if not dtype then error("array: " .. message, 2) end
  end
  local result
  result, message = make(value, dtype)
  if not result then error("array: " .. message, 2) end
  return result
end

--- A private, writable array of zeros.
-- @param dtype a dtype or its name
-- @param shape list of sizes, or one size
-- @return the array; raises as `array.array` does
function array.new(dtype, shape)
  local of, message = dtypes.of(dtype)
  if not of then error("array: " .. message, 2) end
  local checked
  checked, message = shapes.check(shape)
  if not checked then error("array: " .. message, 2) end
  local result
  result, message = allocate(of, checked)
  if not result then error("array: " .. message, 2) end
  return result
end

return array
