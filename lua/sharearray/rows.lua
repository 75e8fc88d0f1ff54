--- Rows: the owner that each lives on, see sharearray.lifetime.
--
-- A loop over rows leaves one dead at each turn, and a weak table has an entry of each until the collector comes. In a
-- program that has much else it comes late, and one table of them all would be larger than the processor's caches by
-- then, at two to three times the time. So they are in many small ones, filled one after the other. A row has the
-- number of its table for `lent`. Where the collector left few rows in a table, one that is begun later takes them
-- over.
--
-- Somebody's finalizer may take rows, or close some, wherever memory is allocated or code is left that LuaJIT compiled;
-- a debugger's hook, anywhere, and either may throw an error. So a table has its number and its room with it, and a row
-- is at each moment in the table that its number leads to, or in `overflow`; but for a moment of `take_over`, when it
-- may get an owner of its own.
-- @module sharearray.rows

local ffi = require "ffi"
local table_new = require "table.new"
local C = require("sharearray.library").C

local cast, set_lent = ffi.cast, C.sharearray_set_lent

local rows = {}

local ROWS = 510 -- of a table, which with two more entries is 12 KiB
local FEW = 96 -- rows, at most, that a new one takes over
local LOOKS = 4 -- at so many tables, at most, when one is begun

--- Where the struct of every view has its member `lent`, in units of 8 bytes.
rows.LENT = 2

local LENT = rows.LENT
local lent_p = ffi.typeof("double *")

local WEAK = { __mode = "k" }

-- Row -> owner; "number" -> the table's own; "room" -> how many more rows there is room for. Weak keys alone: an owner
-- lives as long as one of its rows does. The two strings come first: compiled code relies on where they are.
local function new_table(size, number, room)
  local new = setmetatable(table_new(0, size), WEAK)
  new.number, new.room = number, room
  return new
end

-- For the rows that are taken while a table is begun, and for those put into one that was taken over meanwhile.
local overflow = new_table(2, 1, math.huge)
local none = new_table(2, 0, 0) -- has no rows

-- Number -> table. Numbers of bundles are far above, see sharearray.lifetime.
local tables = { overflow }
local current, begun, free = none, {}, {} -- the table that is being filled; it and all before it; numbers that none has

-- Has a table that nobody keeps: once it is gone, the collector was here, and each of `begun` is worth another look.
-- How many are still to be looked at, and the index of the last one that was.
local garbage, left, turn = setmetatable({}, { __mode = "v" }), 0, 1

-- How many rows there are in a table, or more than `most`.
local function count(from, most)
  local found = 0
  for _, owner in pairs(from) do
    if type(owner) == "cdata" then found = found + 1 end
    if found > most then break end
  end
  return found
end

-- Puts the rows of one table into another one, whose number they get. What a hook closes in the midst of that keeps its
-- owner as long as it is there.
local function copy(from, to)
  for row, owner in pairs(from) do
    if type(owner) == "cdata" then
      to[row], to.room = owner, to.room - 1
      set_lent(row, to.number)
    end
  end
end

-- Puts the rows of such tables as have few into the new one. An error in the midst of one leaves that as it is for
-- good: what is in `begun` lives, whether a number leads to it or not.
local function take_over(new)
  for _ = 1, math.min(LOOKS, left) do
    left, turn = left - 1, turn > 1 and turn - 1 or #begun
    local old, most = begun[turn], FEW - (ROWS - new.room)
    if old ~= new and tables[old.number] == old and count(old, most) <= most then
      tables[old.number] = none -- first: what is put into the old one from now on is put into `overflow`, too
      copy(old, new)
      free[#free + 1] = old.number
      begun[turn] = begun[#begun]
      begun[#begun] = nil
    end
  end
end

-- Makes the new table the current one. While `overflow` is, no cdata or table is made: no finalizer runs. A hook may,
-- and lists grow.
local function prepare(new)
  current = overflow
  new.number = table.remove(free) or #tables + 1
  tables[new.number] = new
  begun[#begun + 1] = new
  take_over(new)
  current = new
end

-- The table for the next row, once there is no room in `current`. None of this is compiled, or finalizers would run in
-- the midst of it.
local function begin()
  local new = new_table(ROWS + 2, 0, ROWS)
  if not garbage[1] then garbage[1], left = {}, #begun end
  if current.room > 0 then return current end -- a finalizer has begun it
  local ok, why = pcall(prepare, new)
  if ok then return new end
  current = none -- the next row begins another one
  error(why, 0)
end

jit.off(begin)
jit.off(count)
jit.off(prepare)
jit.off(take_over)
jit.off(copy)

--- Makes the row `x`, which has no reference, live on that of `owner`.
function rows.lend(owner, x)
  local to = current
  if to.room <= 0 then to = begin() end
  to.room = to.room - 1
  local number = to.number
  cast(lent_p, x)[LENT] = number
  to[x] = owner
  if tables[number] ~= to then overflow[x] = owner end
end

--- The owner that the row `x` lives on; nil for every other view.
function rows.owner(x)
  local among = tables[x.lent]
  return among and (among[x] or overflow[x])
end

--- Forgets the row `x`, which is closed and had the number.
function rows.forget(x, number)
  local among = tables[number]
  if among and among[x] then among[x] = nil end -- or LuaJIT would make room for the key
  if overflow[x] then overflow[x] = nil end
end

--- Calls `close` for each row, more than once perhaps.
function rows.each(close)
  for _, list in ipairs { tables, begun } do -- after an error in `take_over` some are in `begun` only
    for _, among in ipairs(list) do
      for x in pairs(among) do
        if type(x) == "cdata" then close(x) end
      end
    end
  end
end

return rows
