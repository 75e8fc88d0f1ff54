--- Lifetimes: memory stays mapped as long as there is a view of it.
--
-- A view either has a reference of its mapping, which its finalizer gives back; or it is lent, as rows are, and
-- lives on the reference of an *owner*, which `owners` keeps alive for it. For a finalizer is what LuaJIT is
-- slowest at, 120 ns, and a loop over rows makes a row at each turn.
--
-- An owner is no view: nobody can close it, or finalize it, under the rows that live on it. A view gets one with
-- the first row taken from it.
-- @module sharearray.lifetime

local ffi = require "ffi"
local table_new = require "table.new"
local C = require("sharearray.library").C

local gc, sizeof, release = ffi.gc, ffi.sizeof, C.sharearray_release

local M = {}

local WEAK = { __mode = "k" }

--- View -> the owner that it lives on, or that its rows do; owner -> true. Weak keys alone: an owner lives as long
-- as one of its views does. The collector clears its key before it finalizes it.
local owners = setmetatable({}, WEAK)
M.owners = owners

-- Member of a bundle -> the owner that it lives on. The first table is for all bundles of few members, each other one
-- has a table of its own: a table that has to grow ten times on the way to a thousand entries takes five times as long.
local rooms = { setmetatable({}, WEAK) }
local FEW = 64

--- Owner of a bundle of which the user closed a member -> true.
M.broken = setmetatable({}, WEAK)

-- Member of a bundle that has a reference of its own -> the bundle's owner.
local apart = setmetatable({}, WEAK)

--- As many entries, at most, a table is made with room for; more find it as they come.
M.MOST = 65536

--- Where the struct of every view has its member `lent`, in units of 8 bytes.
M.LENT = 2

local lent_p = ffi.typeof("uint64_t *")
local map_p = ffi.typeof("sharearray_map *")
local Owner = ffi.typeof("struct { const void *const map; }")
local SIZE = ffi.sizeof(Owner)

local function close_lent(x) ffi.fill(x, ffi.sizeof(x)) end

-- When the Lua state ends, LuaJIT finalizes all cdata, whoever refers to it, before the user's last finalizers
-- run: those must find what was lent closed, not dangling. The first owner does it for all: this takes one walk.
local function close_all_lent()
  for x, owner in pairs(owners) do
    if owner ~= true and x.lent ~= 0 then close_lent(x) end
    owners[x] = nil
  end
  for _, room in ipairs(rooms) do
    for x, owner in pairs(room) do
      if owner ~= true then close_lent(x) end
      room[x] = nil
    end
  end
end

local function finalize_owner(self)
  if owners[self] then close_all_lent() end
  C.sharearray_release(self, SIZE)
end

--- An owner with a reference of its own.
-- @param map `sharearray_map *`
function M.owner(map)
  C.sharearray_ref(ffi.cast(map_p, map))
  local owner = ffi.gc(Owner(map), finalize_owner)
  owners[owner] = true
  return owner
end

--- Where the members of a bundle are to be noted, that they live on `owner`.
-- @tparam number count how many there are, about
-- @treturn table view -> owner: the caller adds to it
function M.room(owner, count)
  if count < FEW then return rooms[1] end
  for i = #rooms, 2, -1 do
    if next(rooms[i]) == nil then table.remove(rooms, i) end
  end
  -- Half full: LuaJIT finds places for keys that are addresses more slowly in a table that gets full.
  local room = setmetatable(table_new(0, math.min(2 * count, M.MOST)), WEAK)
  room[owner] = true -- before there are members, a finalizer may attach another bundle, which drops empty rooms
  rooms[#rooms + 1] = room
  return room
end

local function room_of(x)
  for i = 1, #rooms do
    if rooms[i][x] then return rooms[i] end
  end
end

--- A table with `x` as its only element, which does not keep it alive: for a function that others get. Code that LuaJIT
-- compiled for a closure keeps it, and what it captured, for ever: a lock or a lease of a build whose coroutine was
-- dropped, say.
function M.holder(x) return setmetatable({ x }, { __mode = "v" }) end

--- Notes that the view `x`, which has a reference of its own, is a member of a bundle, which lives on `owner`.
function M.belongs(x, owner) apart[x] = owner end

--- Gives the view `x`, which has none among `owners`, an owner for its rows.
function M.adopt(x)
  local room = x.lent ~= 0 and room_of(x)
  local owner = room and room[x] or M.owner(x.map)
  owners[x] = owner
  return owner
end

--- Makes the view `x`, which has no reference, live on that of `owner`.
function M.lend(owner, x)
  ffi.cast(lent_p, x)[M.LENT] = 1
  owners[x] = owner
end

--- The finalizer of views that have a reference, whose struct has `size` bytes.
function M.finalizer(size)
  return function(self) C.sharearray_release(self, size) end
end

-- A bundle is not handed out again of which a member is closed.
local function note_closed(owner)
  if owner then M.broken[owner] = true end
end

--- Makes the view all zeros: whoever still has it finds it closed. Other views are not affected.
function M.close(x)
  local owner, lent, bundle = owners[x], x.lent ~= 0, apart[x]
  -- From here on nothing is allocated until a lent view is all zeros: else the collector could finalize the owner, and
  -- then somebody's finalizer that reaches the view would read memory that is gone.
  if owner then owners[x] = nil end -- or LuaJIT would make room for the key
  if lent then
    local room = room_of(x)
    if room then bundle, room[x] = room[x], nil end
    close_lent(x)
    return note_closed(bundle)
  end
  gc(x, nil) -- nothing is left for it to do, and it would end whatever LuaJIT is compiling when it runs
  release(x, sizeof(x))
  note_closed(bundle)
end

return M
