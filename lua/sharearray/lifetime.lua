--- Lifetimes: memory stays mapped as long as there is a view of it.
--
-- A view either has a reference of its mapping, which its finalizer gives back; or it is lent, and lives on the
-- reference of an *owner*. For a finalizer is what LuaJIT is slowest at, 120 ns, and a loop over rows makes a row at
-- each turn, a bundle a thousand members at once. Rows keep their owner by a weak table. The owner of a bundle does not
-- go as long as one of its members is there: a list of them, which keeps none, costs a tenth of a weak table.
--
-- An owner is no view: nobody can close it, or finalize it, under what lives on it. A view gets one with the first row
-- taken from it.
-- @module sharearray.lifetime

local ffi = require "ffi"
local table_new = require "table.new"
local C = require("sharearray.library").C

local gc, sizeof, release = ffi.gc, ffi.sizeof, C.sharearray_release

local M = {}

local WEAK, WEAK_VALUES = { __mode = "k" }, { __mode = "v" }

--- View -> the owner that its rows live on; row -> the one that it lives on; owner -> true. Weak keys alone: an owner
-- lives as long as one of its views does. The collector clears its key before it finalizes it.
local owners = setmetatable({}, WEAK)
M.owners = owners

-- Number -> the members of a bundle: a list with weak values, which has the bundle's `owner` too, its `number` and the
-- `count`, holes where members went included.
local bundles = {}
local last = 1 -- of the numbers, which lent members have for `lent`, and rows 1

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
local Owner = ffi.typeof("struct { const void *const map; double bundle; }")
local SIZE = ffi.sizeof(Owner)

local function close_lent(x) ffi.fill(x, ffi.sizeof(x)) end

-- When the Lua state ends, LuaJIT finalizes all cdata, whoever refers to it, before the user's last finalizers
-- run: those must find what was lent closed, not dangling. The first owner does it for all: this takes one walk.
local function close_all_lent()
  for x, owner in pairs(owners) do
    if owner ~= true and x.lent ~= 0 then close_lent(x) end
    owners[x] = nil
  end
  for _, members in pairs(bundles) do
    for i = 1, members.count do
      if members[i] ~= nil then close_lent(members[i]) end
    end
  end
end

-- Whether there is a member that is not closed. Those behind the last one are not looked at again.
local function has_member(members)
  for i = members.count, 1, -1 do
    local x = members[i]
    if x ~= nil and x.map ~= nil then return true end
    members.count = i - 1
  end
  return false
end

-- Whoever has the owner of a bundle is gone. While members are there it stays: the collector comes back in its next
-- round. It took what is gone out of the list before.
local function finalize_owner(self)
  if owners[self] then close_all_lent() end
  local members = bundles[self.bundle]
  if members and has_member(members) then
    members.owner, owners[self] = self, true
    gc(self, finalize_owner)
    return
  end
  bundles[self.bundle] = nil
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

--- A list for the members of the bundle whose owner it is.
-- @tparam number count how many there will be, about
-- @treturn table for `M.add`
function M.members(owner, count)
  last = last + 1
  local members = setmetatable(table_new(math.min(count + 1, M.MOST), 4), WEAK_VALUES)
  members.owner, members.number, members.count = owner, last, 0
  owner.bundle, bundles[last] = last, members
  return members
end

--- Makes the view `x`, which has no reference, live on that of the bundle's owner.
function M.add(members, x)
  local i = members.count + 1
  rawset(members, i, x) -- or LuaJIT would look for a __newindex each time
  members.count = i
  ffi.cast(lent_p, x)[M.LENT] = members.number
end

--- A table with `x` as its only element, which does not keep it alive: for a function that others get. Code that LuaJIT
-- compiled for a closure keeps it, and what it captured, for ever: a lock or a lease of a build whose coroutine was
-- dropped, say.
function M.holder(x) return setmetatable({ x }, { __mode = "v" }) end

--- Notes that the view `x`, which has a reference of its own, is a member of a bundle, which lives on `owner`.
function M.belongs(x, owner) apart[x] = owner end

--- Gives the view `x`, which has none among `owners`, an owner for its rows.
function M.adopt(x)
  local owner = M.owner(x.map)
  owners[x] = owner
  return owner
end

--- Makes the row `x`, which has no reference, live on that of `owner`.
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
  local owner, lent = owners[x], tonumber(x.lent)
  local bundle = bundles[lent] and bundles[lent].owner or apart[x]
  -- From here on nothing is allocated until a lent view is all zeros: else the collector could finalize the owner, and
  -- then somebody's finalizer that reaches the view would read memory that is gone.
  if owner then owners[x] = nil end -- or LuaJIT would make room for the key
  if lent ~= 0 then
    close_lent(x)
    return note_closed(bundle)
  end
  gc(x, nil) -- nothing is left for it to do, and it would end whatever LuaJIT is compiling when it runs
  release(x, sizeof(x))
  note_closed(bundle)
end

return M
