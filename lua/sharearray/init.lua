--- sharearray: numeric arrays that the processes of one machine build once and share.
--
--     local sharearray = require "sharearray"
--     local train = assert(sharearray.cache("train_x", function(alloc)
--       local x = alloc("float32", {60000, 784})
--       -- fill x.data[0 .. x.size - 1]
--       return x
--     end))
--     print(train, train(3, 5), train[3])
--
-- @module sharearray

local found, ffi = pcall(require, "ffi")
if not found then error("sharearray needs LuaJIT, for its FFI; this is " .. _VERSION, 0) end

-- A file's time of modification, in seconds, and its size, as `stat -c '%Y %s'` says them. See statx(2), whose struct
-- is the same on all machines: at 112 stx_mtime, at 40 stx_size.
local status = ffi.new "uint64_t[32]"
local function stamp(path)
  local AT_FDCWD, STATX_MTIME, STATX_SIZE = -100, 0x40, 0x200
  if ffi.C.sharearray_statx(AT_FDCWD, path, 0, STATX_MTIME + STATX_SIZE, status) ~= 0 then return nil end
  return tonumber(status[112 / 8]) .. " " .. tonumber(status[40 / 8])
end

-- `make install` leaves the modules that every process loads as bytecode beside their sources, see .ci/bytecode:
-- LuaJIT reads it in a third of the time that it takes to compile those. It is of use to a LuaJIT of the same version
-- and kind, in the same place, and as long as the sources are the ones it was made of; else they are loaded.
local function preload(folder)
  local file = io.open(("%s/%s-%s.bytecode"):format(folder, (jit.version:gsub(" ", "-")), jit.arch), "rb")
  if not file then return end
  local text = file:read "*a"
  file:close()
  local chunks, at = {}, #folder + 2
  if text:sub(1, #folder + 1) ~= folder .. "\n" then return end
  while at <= #text do
    local _, last, name, made_of, bytes = text:find("^(%l+) (%d+ %d+) (%d+)\n", at)
    local chunk = last and stamp(("%s/%s.lua"):format(folder, name)) == made_of
      and loadstring(text:sub(last + 1, last + bytes))
    if not chunk then return end
    chunks["sharearray." .. name], at = chunk, last + bytes + 1
  end
  for name, chunk in pairs(chunks) do package.preload[name] = package.preload[name] or chunk end
end

local folder = debug.getinfo(1, "S").source:match "^@(.*)/"
if folder then
  -- Another copy may have declared it. A libc without it, before 2018, means the sources.
  pcall(ffi.cdef, [[int sharearray_statx(int directory, const char *path, int flags, unsigned mask, void *status)
    __asm__("statx");]])
  pcall(preload, folder)
end

local facade = require "sharearray.facade"
local store = require "sharearray.store"

return facade.new(store.defaults())
