--- A process that asks for an array that another one builds: `waiter.lua BOARD COUNT SLOT ID view|element`.
-- Its slot on the board is -1 while it waits, then the time when it has the view, or the first element too. It stays
-- until all have, which the second word of slot 0 says: its end must not hold others up.

local baseline = require "harness.baseline"
local sharearray = require "sharearray"

local board = baseline.board(arg[1], tonumber(arg[2]))
local slot, id, element = tonumber(arg[3]), arg[4], arg[5] == "element"
local arrive = baseline.arrive -- looked up before the wake: it is not what is measured

baseline.C.baseline_wait_in(board, slot)
local x = assert(sharearray.cache(id, function() error "this waiter should not build" end))
if element then assert(x(0) == 0) end
arrive()
