--- The clock that a hit looks at: milliseconds that only grow.
-- @module sharearray.clock

local C = require("sharearray.cdefs").C

-- Of all that a hit does, the call into C costs most. An event loop's adapter may put its loop's cached
-- time here, at load time only: what is remembered in one clock's time is not compared with another's.
return { now = function() return C.sharearray_clock() end }
