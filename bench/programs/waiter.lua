--- A process that asks for an array that another one builds: `waiter.lua BOARD COUNT SLOT ID`.
-- Its slot on the board is -1 while it waits, then the time of its first element. It stays until all have
-- theirs, which the second word of slot 0 says: its end must not hold others up.

local baseline = require "harness.baseline"
local sharearray = require "sharearray"

local board = baseline.board(arg[1], tonumber(arg[2]))
local slot, id = tonumber(arg[3]), arg[4]
local arrive = baseline.C.baseline_arrive -- looked up before the wake: it is not what is measured
baseline.C.baseline_now() -- nor is the first look at the clock

board[slot] = -1
local x = assert(sharearray.cache(id, function() error "this waiter should not build" end))
assert(x(0) == 0)
arrive(board, slot)
