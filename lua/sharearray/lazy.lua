--- Modules that are loaded when something of them is first used.
--
-- A process that only attaches an array needs a fifth of the library, and reading the rest would take longer
-- than all else at its start: LuaJIT compiles some 70 KB of source a millisecond.
-- @module sharearray.lazy

local ffi = require "ffi"

-- Where a finalizer is the first to use a module, LuaJIT never leaves a loop over `pairs` that it has compiled.
jit.off(true, true)

local lazy = {}
local known = {} -- the names of all modules that were asked for

-- A path whose relative parts mean the directory that is the current one now.
local function fixed(path)
  if not pcall(function() return ffi.C.getcwd end) then ffi.cdef "char *getcwd(char *buffer, size_t size);" end
  local buffer = ffi.new("char[4096]")
  if ffi.C.getcwd(buffer, 4096) == nil then return path end
  local here = ";" .. ffi.string(buffer) .. "/"
  return ((";" .. path):gsub(";([^;/])", function(first) return here .. first end):sub(2))
end

-- Where the library was found. The program may change its directory and its paths before the first use.
local path, cpath = package.path, package.cpath
if debug.getinfo(1, "S").source:sub(1, 2) ~= "@/" then path, cpath = fixed(path), fixed(cpath) end

-- For `require`, a module whose loading failed is one that is being loaded, for ever. The mark that it leaves is
-- of another type in each LuaJIT; our modules are tables and functions.
local MODULE = { table = true, ["function"] = true }

local function forget_unfinished()
  for name, module in pairs(package.loaded) do
    if name:find("^sharearray%.") and not MODULE[type(module)] then package.loaded[name] = nil end
  end
end

local function load(name)
  if MODULE[type(package.loaded[name])] then return package.loaded[name] end
  local their_path, their_cpath = package.path, package.cpath
  package.path, package.cpath = path .. ";" .. their_path, cpath .. ";" .. their_cpath
  local found, module = pcall(require, name)
  package.path, package.cpath = their_path, their_cpath
  if found then return module end
  forget_unfinished()
  error(module, 0)
end

--- Loads all that would be loaded at first use: for who may not be able to read it then.
function lazy.all()
  local name = next(known)
  while name do
    load(name) -- which may make more known
    known[name] = nil
    name = next(known)
  end
  -- And zlib. Where it is not there, whoever needs it will hear of it.
  load("sharearray.cdefs").C.sharearray_crc32(nil, 0, ffi.new "uint32_t[1]", nil)
end

--- Stands for the module `name`: `local file = lazy "sharearray.file"`, then `file.new(path)` as ever.
local function stand_in(_, name)
  known[name] = true
  return setmetatable({}, {
    __index = function(stub, key)
      local module = load(name)
      for member, value in pairs(module) do rawset(stub, member, value) end
      setmetatable(stub, { __index = module })
      return module[key]
    end,
  })
end

return setmetatable(lazy, { __call = stand_in })
