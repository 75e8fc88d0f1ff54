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

if not pcall(require, "ffi") then error("sharearray needs LuaJIT, for its FFI; this is " .. _VERSION, 0) end

-- What is loaded is no garbage: a collection would find nothing, and take a tenth of the time.
local pause = collectgarbage "isrunning" and collectgarbage "count" < 1024
if pause then collectgarbage "stop" end

-- `make install` joins the modules that every process loads to one file, compiles that, and sets this: see
-- sharearray.bytecode. This file is compiled at each start: the shorter, the better.
local JOINED = false

-- Behind the end of bytecode that is cut off LuaJIT would read on. What it ends with is the name of a variable, and how
-- far that goes.
local function is_whole(path)
  local file = io.open(path, "rb")
  local tail = file and file:seek("end", -16) and file:read(16)
  if file then file:close() end
  return tail and tail:find "complete%z[^%z]+%z%z$"
end

local function joined(folder)
  local path = ("%s/%s-%s/startup.bytecode"):format(folder, jit.version:gsub(" ", "-"), jit.arch)
  local chunk = is_whole(path) and loadfile(path)
  local modules = chunk and chunk(folder)
  if modules then return modules end
  local source, problem = loadfile(folder .. "/startup.lua")
  modules = source and source()
  if modules then return modules end
  error(("sharearray: %s/startup.lua cannot be used (%s): install the library again"):format(folder,
    problem or "it is cut off"), 0)
end

local modules, preload = JOINED and joined(debug.getinfo(1, "S").source:match "^@(.*)/") or {}, package.preload
for name, chunk in pairs(modules) do preload[name] = preload[name] or chunk end

local found, facade = pcall(require, "sharearray.facade")
if pause then collectgarbage("restart", -1) end
-- They are loaded. Whoever takes them out of package.loaded, to load another version, gets that one.
for name, chunk in pairs(modules) do
  if preload[name] == chunk then preload[name] = nil end
end
if not found then error(facade, 0) end
return facade.new(require("sharearray.store").defaults())
