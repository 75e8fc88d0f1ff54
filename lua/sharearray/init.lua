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

-- This file is compiled at each start, so what can be elsewhere is in sharearray.bytecode, which comes first.
local folder = debug.getinfo(1, "S").source:match "^@(.*)/"
local file = folder and io.open(("%s/%s-%s.bytecode"):format(folder, jit.version:gsub(" ", "-"), jit.arch), "rb")
local line = file and file:read "*l" == folder and file:read "*l"
local size = line and tonumber(line:match "^%d%d?%d?%d?%d?$")
local text = size and file:read(size)
local load = text and #text == size and loadstring(text)
local bytecode = load and load()
local chunks = bytecode and bytecode.preload(folder, file)
if file then file:close() end

local found, facade = pcall(require, "sharearray.facade")
if pause then collectgarbage("restart", -1) end
if not found then error(facade, 0) end
if chunks then bytecode.done(chunks) end
return facade.new(require("sharearray.store").defaults())
