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

local function load() return require("sharearray.facade").new(require("sharearray.store").defaults()) end

-- What is loaded is no garbage: a collection would find nothing, and take a tenth of the time.
local pause = collectgarbage "isrunning" and collectgarbage "count" < 1024
if pause then collectgarbage "stop" end
local loaded, result = pcall(load)
if pause then collectgarbage("restart", -1) end
if not loaded then error(result, 0) end
return result
