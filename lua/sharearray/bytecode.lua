--- The modules that every process loads, and the classes that most views are of, as bytecode: LuaJIT reads it in a
-- third of the time that it takes to compile their sources. `make install` leaves it beside them, see .ci/bytecode.
--
-- It is of use to a LuaJIT of the same version and kind, in the same place, and as long as the sources are those that
-- it was made of; else they are loaded. The file is
--
--   a line with its folder's name,
--   a line with a number of bytes, and so many: this module, which sharearray/init.lua reads,
--   a line with a number of bytes, and so many: a chunk that returns the index, a list of a source's name, its time of
--     modification, its size, how many bytes it has here, and the same of the next one,
--   those bytes. Of `bytecode` there are none here; of `template` see `bytecode.class`.
-- @module sharearray.bytecode

local ffi = require "ffi"

local bytecode = {}

-- A libc without statx, before 2018, means the sources. Another copy of this file may have declared it.
pcall(ffi.cdef, [[
  int sharearray_stamp(int directory, const char *path, int flags, unsigned mask, void *status) __asm__("statx");
]])

-- Whether a file has this time of modification, in seconds, and this size, as `stat -c '%Y %s'` says them. See
-- statx(2), whose struct is the same on all machines: at 112 stx_mtime, at 40 stx_size.
local status = ffi.new "uint64_t[32]"
local function has_stamp(path, modified, size)
  local AT_FDCWD, STATX_MTIME, STATX_SIZE = -100, 0x40, 0x200
  return ffi.C.sharearray_stamp(AT_FDCWD, path, 0, STATX_MTIME + STATX_SIZE, status) == 0
    and tonumber(status[112 / 8]) == modified and tonumber(status[40 / 8]) == size
end

-- LuaJIT checks nothing of bytecode, not even where it ends.
local function read(file, bytes)
  local text = bytes and file:read(bytes)
  return text and #text == bytes and text
end

local classes = ""

local function chunks_in(folder, file)
  local chunks, views = {}, ""
  local list = read(file, tonumber(file:read "*l"))
  local index = list and loadstring(list)() or {}
  for i = 1, #index, 4 do
    local name, text = index[i], read(file, index[i + 3])
    if not text or not has_stamp(("%s/%s.lua"):format(folder, name), index[i + 1], index[i + 2]) then return {} end
    if name == "template" then
      views = text
    elseif name ~= "bytecode" then
      chunks["sharearray." .. name] = loadstring(text)
    end
  end
  classes = views
  return chunks
end

--- Makes `require` take the modules from the bytecode.
-- @tparam string folder of the library
-- @param file the open file, behind this module
-- @treturn table chunks by name, for `bytecode.done`; none where a source has changed
function bytecode.preload(folder, file)
  local found, chunks = pcall(chunks_in, folder, file)
  if not found or not next(chunks) then return {} end
  for name, chunk in pairs(chunks) do package.preload[name] = package.preload[name] or chunk end
  package.loaded["sharearray.bytecode"] = package.loaded["sharearray.bytecode"] or bytecode
  return chunks
end

--- They are loaded. Whoever takes them out of package.loaded, to load another version, gets that one.
function bytecode.done(chunks)
  for name, chunk in pairs(chunks) do
    if package.preload[name] == chunk then package.preload[name] = nil end
  end
end

--- The functions of a class of views, in C order, neither wide nor writable, as sharearray.template has them.
-- @tparam string name "float32,2"
-- @treturn string bytecode; nil for a class that was not compiled ahead
function bytecode.class(name)
  -- A line ";float32,1=1-900;float32,2=901-1900", and behind it what that counts.
  local _, at = classes:find((";%s="):format(name), 1, true)
  if not at then return nil end
  local from, to = classes:match("^(%d+)-(%d+)", at + 1)
  local head = classes:find("\n", at, true)
  return classes:sub(head + from, head + to)
end

return bytecode
