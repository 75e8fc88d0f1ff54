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

local facade = require "sharearray.facade"
local store = require "sharearray.store"

return facade.new(store.defaults())
