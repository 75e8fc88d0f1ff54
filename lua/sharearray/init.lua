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
  if ffi.C.sharearray_stamp(AT_FDCWD, path, 0, STATX_MTIME + STATX_SIZE, status) ~= 0 then return nil end
  return tonumber(status[112 / 8]) .. " " .. tonumber(status[40 / 8])
end

-- `make install` leaves the modules that every process loads as bytecode beside their sources, see .ci/bytecode:
-- LuaJIT reads it in a third of the time that it takes to compile those. It is of use to a LuaJIT of the same version
-- and kind, in the same place, and as long as the sources are the ones it was made of; else they are loaded.
local function chunks_in(file, folder)
  local chunks = {}
  if file:read "*l" ~= folder then return {} end
  for line in file:lines() do
    local name, made_of, bytes = line:match "^(%l+) (%d+ %d+) (%d+)$"
    local text = name and stamp(("%s/%s.lua"):format(folder, name)) == made_of and file:read(tonumber(bytes))
    -- LuaJIT checks nothing of bytecode, not even where it ends.
    local chunk = text and #text == tonumber(bytes) and loadstring(text)
    if not chunk then return {} end
    chunks["sharearray." .. name] = chunk
  end
  return chunks
end

local function chunks_of(folder)
  local file = io.open(("%s/%s-%s.bytecode"):format(folder, (jit.version:gsub(" ", "-")), jit.arch), "rb")
  if not file then return {} end
  local read, chunks = pcall(chunks_in, file, folder)
  file:close()
  return read and chunks or {}
end

-- A libc without statx, before 2018, means the sources. Another copy of this file may have declared it.
pcall(ffi.cdef, [[
  int sharearray_stamp(int directory, const char *path, int flags, unsigned mask, void *status) __asm__("statx");
]])
local folder = debug.getinfo(1, "S").source:match "^@(.*)/"
local chunks = chunks_of(folder)
for name, chunk in pairs(chunks) do package.preload[name] = package.preload[name] or chunk end

local facade = require "sharearray.facade"
local store = require "sharearray.store"

-- They are loaded. Whoever takes them out of package.loaded, to load another version, gets that one.
for name, chunk in pairs(chunks) do
  if package.preload[name] == chunk then package.preload[name] = nil end
end

return facade.new(store.defaults())
