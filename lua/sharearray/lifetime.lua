--- Lifetimes: memory stays mapped as long as there is a view of it.
--
-- A view either has a reference of its mapping, which its finalizer gives back; or it is lent, and lives on the
-- reference of an *owner*. For a finalizer is what LuaJIT is slowest at, 120 ns, and a loop over rows makes a row at
-- each turn, a bundle a thousand members at once. Rows keep their owner by weak tables, see sharearray.rows. That of a
-- bundle is kept by whoever has the bundle, mostly the memo, and has a list of the members, which keeps none and costs
-- a tenth of a weak table; once nobody has it, those that are still there keep it by a weak table, too.
--
-- An owner is no view: nobody can close it, or finalize it, under what lives on it. A view gets one with the first row
-- taken from it.
-- @module sharearray.lifetime

local ffi = require "ffi"
local rows = require "sharearray.rows"
local table_new = require "table.new"
local C = require("sharearray.library").C

local gc, sizeof, release = ffi.gc, ffi.sizeof, C.sharearray_release

local M = {}

local WEAK, WEAK_VALUES = { __mode = "k" }, { __mode = "v" }

--- View -> the owner that its rows live on; member of a bundle -> the one that it lives on; owner -> true. Weak keys
-- alone: an owner lives as long as one of its views does. The collector clears its key before it finalizes it.
local owners = setmetatable({}, WEAK)
M.owners = owners

-- Number -> the members of a bundle: a list with weak values, which has the bundle's `owner` too, its `number` and the
-- `count`, holes where members went included.
local bundles = {}
local last = 2 ^ 32 -- of the numbers, which lent members have for `lent`; rows have smaller ones

--- Owner of a bundle of which the user closed a member -> true.
M.broken = setmetatable({}, WEAK)

-- Member of a bundle that has a reference of its own -> the bundle's owner.
local apart = setmetatable({}, WEAK)

--- As many entries, at most, a table is made with room for; more find it as they come.
M.MOST = 65536

--- Makes a row live on an owner, see sharearray.rows.
M.lend = rows.lend

local lent_p = ffi.typeof("double *")
local map_p = ffi.typeof("sharearray_map *")
local Owner = ffi.typeof("struct { const void *const map; double bundle; }")
local SIZE = ffi.sizeof(Owner)

local function close_lent(x) ffi.fill(x, ffi.sizeof(x)) end

local function release_owner(owner) release(owner, SIZE) end -- and zeroes it: a second time does nothing

-- When the Lua state ends, LuaJIT finalizes all cdata, whoever refers to it, before the user's last finalizers
-- run: those must find what was lent closed, not dangling. The first owner does it for all: this takes one walk.
local function close_all()
  rows.each(close_lent)
  for x, owner in pairs(owners) do
    if owner ~= true and x.lent ~= 0 then close_lent(x) end
  end
  for _, members in pairs(bundles) do
    for i = 1, members.count do
      if members[i] ~= nil then close_lent(members[i]) end
    end
  end
  for x, owner in pairs(owners) do
    if owner == true then release_owner(x) end
    owners[x] = nil
  end
end

local finalize_owner

-- Makes the members of a bundle keep their owner, whom nobody else has; false if there are none but closed ones. The
-- collector took those that are gone out of the list before it finalized the owner.
local function keep(owner)
  local members, kept = bundles[owner.bundle], false
  if not members then return false end
  local i, x = next(members) -- passes over those that are gone, mostly all, many times as fast as a loop here
  while i do
    if type(i) == "number" and x.map ~= nil and not owners[x] then -- else it has an owner of its own, for its rows
      if not kept then gc(owner, finalize_owner) end -- before what may run out of memory
      kept, owners[x], owners[owner] = true, owner, true
    end
    i, x = next(members, i)
  end
  bundles[owner.bundle] = nil
  return kept
end

function finalize_owner(self)
  if owners[self] then close_all() end -- the collector would have taken it out
  if not keep(self) then release_owner(self) end
end

-- Of an owner that the collector was about to finalize when the Lua state ended, `owners` no longer tells that it did.
-- This one is finalized at no other time.
M.at_end = gc(Owner(nil), close_all)

--- An owner with a reference of its own.
-- @param map `sharearray_map *`
function M.owner(map)
  C.sharearray_ref(ffi.cast(map_p, map))
  local owner = ffi.gc(Owner(map), finalize_owner)
  owners[owner] = true
  return owner
end

--- A list for the members of the bundle whose owner it is.
-- @tparam number count how many there will be, about
-- @treturn table for `M.add`
function M.members(owner, count)
  local number = last + 1 -- a finalizer may take the next one before this is over
  last = number
  local members = setmetatable(table_new(math.min(count + 1, M.MOST), 4), WEAK_VALUES)
  members.owner, members.number, members.count = owner, number, 0
  owner.bundle, bundles[number] = number, members
  return members
end

--- Makes the view `x`, which has no reference, live on that of the bundle's owner.
function M.add(members, x)
  local i = members.count + 1
  rawset(members, i, x) -- or LuaJIT would look for a __newindex each time
  members.count = i
  ffi.cast(lent_p, x)[rows.LENT] = members.number
end

--- A table with `x` as its only element, which does not keep it alive: for a function that others get. Code that LuaJIT
-- compiled for a closure keeps it, and what it captured, for ever: a lock or a lease of a build whose coroutine was
-- dropped, say.
function M.holder(x) return setmetatable({ x }, { __mode = "v" }) end

--- Notes that the view `x`, which has a reference of its own, is a member of a bundle, which lives on `owner`.
function M.belongs(x, owner) apart[x] = owner end

--- The owner for the rows of the view `x`, which has none among `owners`.
function M.adopt(x)
  local owner = rows.owner(x)
  if owner then return owner end
  owner = M.owner(x.map)
  owners[x] = owner
  return owner
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
  local owner, lent = owners[x], x.lent
  local bundle = bundles[lent] and bundles[lent].owner or apart[x]
  if lent ~= 0 then
    -- First of all: without its owner it would show memory that is gone, to a finalizer that runs before the next line.
    close_lent(x)
    rows.forget(x, lent)
  else
    gc(x, nil) -- nothing is left for it to do, and it would end whatever LuaJIT is compiling when it runs
    release(x, sizeof(x))
  end
  if owner then owners[x] = nil end -- or LuaJIT would make room for the key
  note_closed(bundle)
end

return M
