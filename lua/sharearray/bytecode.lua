--- What `make install` compiles ahead: the modules that every process loads, and the classes that most views are of.
-- LuaJIT reads bytecode in a third of the time that it takes to compile the sources.
--
-- It is of use to a LuaJIT of the same version and kind, in the same place, and as long as the sources are those that
-- it was made of; else they are loaded. Beside this library's sources is a folder for the LuaJIT, with the files
--
--   startup.bytecode      of startup.lua, which has the modules that are joined; sharearray/init.lua reads it. The
--                         last variable's name is "complete"
--   float32-2.bytecode    and so on: the functions of a class of views in C order, neither wide nor writable, as
--                         sharearray.template has them; and behind them "complete"
--
-- See .ci/startup, which makes them, and leaves stubs in the place of the modules. A checkout has none of that.
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

local MOST = 4096 -- bytes of a class, which has 1,400; to read "*a" takes 8 KiB of room, and so two page faults more

local own -- the folder with the bytecode, and what the classes in it were made of
local template

--- The modules that were compiled, if they are those of the source, and in their place: their last line is this call.
-- @tparam table modules chunks by name
-- @tparam string folder of the library
-- @tparam string place the folder that they were compiled for
-- @tparam string name of the folder with bytecode
-- @tparam table startup time of modification and size of startup.lua
-- @tparam table of_template the same of template.lua, for the classes
-- @return modules, or nil
function bytecode.checked(modules, folder, place, name, startup, of_template)
  local found, fresh = pcall(has_stamp, folder .. "/startup.lua", startup[1], startup[2])
  if folder ~= place and folder:gsub("//+", "/") ~= place or not found or not fresh then return nil end
  own, template = folder .. "/" .. name, { folder .. "/template.lua", of_template[1], of_template[2] }
  modules["sharearray.bytecode"] = function() return bytecode end -- this one, which knows
  return modules
end

--- The functions of a class of views, in C order, neither wide nor writable, as sharearray.template has them.
-- @tparam string dtype "float32"
-- @tparam number ndim
-- @treturn function a chunk; nil for a class that was not compiled ahead, or of another template
function bytecode.class(dtype, ndim)
  local file = own and has_stamp(template[1], template[2], template[3])
    and io.open(("%s/%s-%d.bytecode"):format(own, dtype, ndim), "rb")
  if not file then return nil end
  local text = file:read(MOST) or "" -- nil: of a directory
  file:close()
  if #text <= 8 or text:sub(-8) ~= "complete" then return nil end
  return loadstring(text:sub(1, -9), ("=sharearray(%s,%d)"):format(dtype, ndim))
end

return bytecode
