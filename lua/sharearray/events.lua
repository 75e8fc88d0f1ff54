--- What an event loop's adapter wants to hear of: it puts its own functions here, for all stores of the
-- Lua state. They are called from the midst of a call, and must neither yield nor raise.
-- @module sharearray.events

local function ignore() end

return {
  --- Something was looked up that is no hit: every now and then, as long as the library is used.
  looked = ignore,
  --- A build was begun. If its coroutine is dropped, only the collector can tell.
  building = ignore,
  --- The memo let go of an old version: its memory goes back when the collector finds it.
  dropped = ignore,
}
