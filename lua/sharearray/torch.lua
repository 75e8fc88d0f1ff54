--- Torch7: tensors over the memory of views, and tensors as sources.
-- Loaded when there is a tensor to make or to read. Torch itself is required by `tensor` only: what
-- reads tensors is called with one, and then it is there.
-- @module sharearray.torch

local ffi = require "ffi"
local dtypes = require "sharearray.dtype"
local library = require "sharearray.library"
local C = require("sharearray.cdefs").C

local M = {}

-- lib/TH/generic/THStorage.h: counted, and freed by its allocator. Not resizable: that would ask the
-- allocator for memory.
local REFCOUNTED, FREEMEM = 1, 4

local types = {
  uint8 = "Byte", int8 = "Char", int16 = "Short", int32 = "Int", int64 = "Long",
  float16 = "Half", float32 = "Float", float64 = "Double",
  bool = "Byte", -- bytes of 0 and 1, which is what Torch's own comparisons give
}

-- The dtype to convert to where Torch has no such numbers.
local instead = {
  uint16 = "int32", uint32 = "int64", uint64 = "int64 or float64",
  complex64 = "float32, real and imaginary parts apart", complex128 = "float64, real and imaginary parts apart",
}

local dtype_of = {}
for name, type_ in pairs(types) do
  if name ~= "bool" then dtype_of["torch." .. type_ .. "Tensor"] = dtypes.of(name) end
end

-- Of a record's field; of a member of a bundle that NumPy wrote.
local UNALIGNED = "the elements do not lie at multiples of their size: copy them first, sharearray.array(v):torch()"

M.nothing = ffi.new("char[64]") -- kept by the module
local nothing = ffi.cast("const char *", M.nothing) -- where an empty tensor has its elements: NULL would equal nil

local function unref(map) C.sharearray_unref(map) end

-- Torch's type for a view's elements, or nil and why there is none.
local function type_for(torch, dtype, shape)
  local type_ = types[dtype.name]
  if not type_ or not torch[type_ .. "Tensor"] then
    local other = instead[dtype.name] or dtype.name == "float16" and "float32"
    local hint = other and ("; convert to %s first"):format(other) or ""
    return nil, ("Torch has no tensors of dtype %s%s"):format(tostring(dtype), hint)
  end
  if #shape == 0 then return nil, "Torch has no tensors of dimension 0: reshape {1} makes one of dimension 1" end
  for axis, n in ipairs(shape) do
    if n == 0 then return nil, ("Torch has no tensors without elements: axis %d has size 0"):format(axis - 1) end
  end
  return type_
end

--- A tensor over the memory of a view. Arrays that may be written share it with the tensor; what is
-- published comes as a private copy of its pages, made as they are written. The storage holds a
-- reference of the map and drops it through its allocator, so the tensor needs neither the view nor
-- this Lua state. (To pin the map from Lua instead would end with the state, while another thread may
-- still have the tensor.)
-- @param dtype of the view
-- @tparam table shape
-- @tparam table strides in bytes
-- @param pointer to its first element
-- @param map `sharearray_map *` of the memory
-- @return[1] the tensor
-- @return[2] nil, message
function M.tensor(dtype, shape, strides, pointer, map)
  local found, torch = pcall(require, "torch")
  if not found then return nil, "Torch7 cannot be loaded: " .. tostring(torch) end
  local type_, problem = type_for(torch, dtype, shape)
  if not type_ then return nil, problem end
  local count, steps = 1, {} -- elements from the first to the last; from one to the next
  for axis, n in ipairs(shape) do
    local step = n > 1 and strides[axis] / dtype.itemsize or 1
    if step % 1 ~= 0 then return nil, UNALIGNED end
    count, steps[axis] = count + (n - 1) * step, step
  end
  local offset = ffi.cast("const char *", pointer) - ffi.cast("const char *", map.base)
  if offset % dtype.itemsize ~= 0 then return nil, UNALIGNED end
  local map_out, bytes_out, message = library.new_map_out(), ffi.new("void *[1]"), library.new_message()
  if C.sharearray_lend(map, offset, count * dtype.itemsize, map_out, bytes_out, message) < 0 then
    return nil, ffi.string(message)
  end
  local lent = ffi.gc(map_out[0], unref) -- until the storage takes the reference over
  -- A cdata would pass for no address, silently. User addresses fit a number.
  local storage = torch[type_ .. "Storage"](count, tonumber(ffi.cast("intptr_t", bytes_out[0])))
  local fields = storage:cdata()
  fields.allocator = ffi.cast("THAllocator *", C.sharearray_torch_allocator())
  fields.allocatorContext = lent
  fields.flag = REFCOUNTED + FREEMEM
  ffi.gc(lent, nil)
  return torch[type_ .. "Tensor"](storage, 1, torch.LongStorage(shape), torch.LongStorage(steps))
end

--- What a tensor is made of, without copying.
-- @return[1] pointer to the first element, valid as long as the tensor is referenced
-- @return[1] the dtype
-- @treturn[1] table the shape; {0} for an empty tensor
-- @treturn[1] table the strides, in bytes
-- @return[2] nil, message
function M.elements(tensor)
  local name = package.loaded.torch.typename(tensor)
  local dtype = dtype_of[name]
  if not dtype then return nil, ("a %s is not in this process's memory: pass a CPU tensor, x:float()"):format(name) end
  local ndim, shape, strides = tensor:dim(), {}, {}
  if ndim == 0 then return nothing, dtype, { 0 } end
  for axis = 1, ndim do
    shape[axis], strides[axis] = tensor:size(axis), tensor:stride(axis) * dtype.itemsize
  end
  return ffi.cast("const char *", tensor:data()), dtype, shape, strides
end

return M
