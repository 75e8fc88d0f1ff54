--- Stands in for Torch7 where that is not installed, as far as the adapter asks: storages over foreign
-- memory and strided tensors, as Torch's own source has them (generic/Storage.c, TH/generic/THStorage.c,
-- FFI.lua). Objects are userdata. There is no HalfTensor, as in older versions.

local bit = require "bit"
local ffi = require "ffi"

local M = {}

local REALS = {
  Byte = "unsigned char", Char = "char", Short = "short", Int = "int", Long = "long", Float = "float",
  Double = "double",
}
local REFCOUNTED, FREEMEM = 1, 4

ffi.cdef [[
typedef struct THAllocator {
  void *(*malloc)(void *, ptrdiff_t);
  void *(*realloc)(void *, void *, ptrdiff_t);
  void (*free)(void *, void *);
} THAllocator;
]]

local names = setmetatable({}, { __mode = "k" }) -- userdata -> "torch.FloatTensor"

local function object(name, methods, drop)
  local self = newproxy(true)
  local metatable = getmetatable(self)
  metatable.__index, metatable.__gc = methods, drop
  names[self] = name
  return self
end

local function release(struct)
  struct.refcount = struct.refcount - 1
  if struct.refcount == 0 and bit.band(struct.flag, FREEMEM) ~= 0 then
    struct.allocator.free(struct.allocatorContext, struct.data)
  end
end

-- An address counts if it is a number; for anything else, cdata too, the memory is fresh.
local function new_storage(real, ctype, size, address)
  local struct, own = ctype(), nil
  struct.size, struct.refcount, struct.flag = size, 1, REFCOUNTED
  if type(address) == "number" then
    struct.data = ffi.cast(real .. " *", address)
  else
    own = ffi.new(real .. "[?]", size)
    struct.data = own
  end
  return object("torch.Storage", { cdata = function() return struct end, own = own }, function() release(struct) end)
end

local function listed(data, shape, steps, axis, at)
  if axis > #shape then return tonumber(data[at]) end
  local list = {}
  for i = 1, shape[axis] do list[i] = listed(data, shape, steps, axis + 1, at + (i - 1) * steps[axis]) end
  return list
end

-- `storage` and its own list of sizes and strides; the offset counts from 1.
local function new_tensor(name, storage, offset, sizes, strides)
  local struct = storage:cdata()
  struct.refcount = struct.refcount + 1
  local data, own = struct.data + (offset - 1), storage.own
  return object(name, {
    own = own,
    dim = function() return #sizes end,
    size = function(_, axis) return sizes[axis] end,
    stride = function(_, axis) return strides[axis] end,
    data = function() return data end,
    totable = function() return listed(data, sizes, strides, 1, 0) end,
  }, function() release(struct) end)
end

for type_, real in pairs(REALS) do
  ffi.cdef(([[typedef struct { %s *data; ptrdiff_t size; int refcount; char flag; THAllocator *allocator;
    void *allocatorContext; void *view; } TH%sStorage;]]):format(real, type_))
  local ctype, name = ffi.typeof("TH" .. type_ .. "Storage"), "torch." .. type_ .. "Tensor"
  M[type_ .. "Storage"] = function(size, address)
    if type(size) == "table" then return size end -- of sizes, for `new_tensor`
    return new_storage(real, ctype, size, address)
  end
  M[type_ .. "Tensor"] = function(storage, offset, sizes, strides)
    return new_tensor(name, storage, offset, sizes, strides)
  end
end

function M.typename(x) return names[x] end

function M.isTensor(x) return (names[x] or ""):find("Tensor$") ~= nil end

return M
