--- What an event loop's adapter puts its own functions into, for all stores of the Lua state: the clock
-- that a hit looks at, and what it wants to hear of. Those are called from the midst of a call, and must
-- neither yield nor raise.
-- @module sharearray.loop

local C = require("sharearray.library").C

local function ignore() end

return {
  --- Milliseconds that only grow. Of all that a hit does, the call into C costs most: an adapter may put its
  -- loop's cached time here, at load time only, as what is remembered in one clock's time is not compared
  -- with another's.
  -- In brackets: LuaJIT fails to compile a function that ends in a call into C, and in time gives it up.
  now = function() return (C.sharearray_clock()) end,
  --- Something was looked up that is no hit: every now and then, as long as the library is used.
  looked = ignore,
  --- A build was begun. If its coroutine is dropped, only the collector can tell.
  building = ignore,
  --- The memo let go of an old version: its memory goes back when the collector finds it.
  dropped = ignore,
}
