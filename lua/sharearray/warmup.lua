--- Keeps what hits run through compiled, whatever else a program does.
--
-- LuaJIT compiles a function when it has been called a hundred times. If that fails, it tries again after twice as
-- many calls; after some ten failures it gives the function up for ever, and with it every loop that calls it: hits
-- would take thirty times longer from then on. Calls that are no hits are such failures, since none of what they do
-- is to be compiled into a hit, see sharearray.store. But a function that is compiled is counted no more. So every so
-- many calls that are no hits, what is not compiled yet gets hits in a row, of an id that nobody else can ask for.
-- @module sharearray.warmup

local bit = require "bit"
local ffi = require "ffi"
local util = require "jit.util"
local view = require "sharearray.view"

local M = {
  --- In the place of the changes, which other processes make at any time. Kept here: a pointer keeps nothing.
  counter = ffi.new "uint32_t[1]",
}

local no_changes = ffi.cast("const uint32_t *", M.counter)

local ID = "" -- no valid id
local STEP = 100
local MOST = 70000 -- hits; the longest that LuaJIT waits is 60,000 calls

local function opcode(f) return bit.band(util.funcbc(f, 0), 0xff) end

-- Of a function that is counted: compiled, or given up, it begins with another one.
local COUNTED = opcode(function() end)

local function repeat_method(store, method)
  for _ = 1, MOST, STEP do
    if opcode(method) ~= COUNTED then return end
    for _ = 1, STEP do method(store, ID) end
  end
end

local function repeat_call(call)
  for _ = 1, MOST, STEP do
    if opcode(call) ~= COUNTED then return end
    for _ = 1, STEP do call(ID) end
  end
end

local function repeat_all(store, paths)
  repeat_method(store, store.cache)
  repeat_method(store, store.get)
  for _, path in ipairs(paths) do
    if path[1].place == store.place then
      repeat_call(path[2])
      repeat_call(path[3])
    end
  end
end

-- Compiled, the loops would have the functions in them, which would not be called any more. A finalizer is not
-- allowed to say so; nothing is compiled in one anyway, and the next warm-up is soon.
local function interpret_loops() return pcall(jit.off, repeat_method) and pcall(jit.off, repeat_call) end

--- Makes the hits. To be called now and then, at calls that are none.
-- @param store its place is open
-- @tparam table paths lists of a store, and functions of an id that are its `cache` and its `get`
function M.run(store, paths)
  if not jit.status() or not interpret_loops() then return end
  local place = store.place
  local fresh, until_, closings = place.fresh, place.until_, place.closings
  local changes, seen = place.changes, place.seen
  -- A finalizer that asks for an array in the midst of this finds nothing fresh, and looks.
  place.fresh, place.until_, place.closings = { [ID] = no_changes }, math.huge, view.closings
  place.changes, place.seen = no_changes, 0
  local done, problem = pcall(repeat_all, store, paths)
  place.fresh, place.until_, place.closings = fresh, until_, closings
  place.changes, place.seen = changes, seen
  -- What is no hit after all, since a finalizer has closed a view, complains of the id. All else is for the user:
  -- Ctrl-C, say.
  if not done and not tostring(problem):find("invalid id", 1, true) then error(problem, 0) end
end

return M
