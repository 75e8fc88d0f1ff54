--- The memo of a place: what this Lua state has attached there, and whether it still stands under its id.
-- Loaded when something is in it; these are methods of the place.
--
-- It makes a second hit cost no system call. It is trusted for as long as the user's change
-- counter stands still, and for 10 ms at most: a removal that touches no counter (`rm`, the Python
-- package) is noticed by asking the file system that often. `fresh` has the values that need no question
-- until the time `until_`, so that a hit is one look into a table, at the counter and at the clock. As
-- long as the directory itself stands still, one look at it serves all of them.
-- @module sharearray.memo

local lifetime = require "sharearray.lifetime"
local loop = require "sharearray.loop"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

-- This file may be read long after place.lua was, and cdefs.lua.
require("sharearray.library").check(7)

local current, broken = C.sharearray_held_current, lifetime.broken

local memo = {}

local function clear(self, id)
  self.memo[id], self.tables[id], self.counters[id], self.failures[id], self.fresh[id] = nil, nil, nil, nil, nil
end

--- Takes an id out of the memo.
function memo:forget(id)
  if not self.memo[id] then return end
  clear(self, id)
  loop.dropped()
end

-- Its user may have closed the view: the map is gone then. Or a member of the bundle: whoever asks gets it anew. The
-- core takes the map out of the view: here a finalizer might close it in between.
local function is_current(self, id, pin)
  return not broken[pin] and current(self.handle, id, pin) == 1
end

-- Something of this user's changed: drop whatever is outdated, whichever id is asked for, so that
-- old versions do not pin memory.
function memo:drop_outdated(total)
  for id, pin in pairs(self.memo) do
    local counter = C.sharearray_changes_of(self.handle, id)
    if counter ~= self.counters[id] then
      if is_current(self, id, pin) then
        self.counters[id] = counter
      else
        self:forget(id)
      end
    end
  end
  self.seen = total
end

--- Whether what is in the memo still stands under the id.
function memo:is_current(id)
  local pin = self.memo[id]
  return pin ~= nil and is_current(self, id, pin)
end

--- Seconds since what is in the memo was published; 0 for what is not there.
function memo:age(id)
  local pin = self.memo[id]
  return pin and C.sharearray_held_age(pin) or 0
end

--- From now on the id is one whose age is to be looked at, as often as the file system is.
function memo:watch_age(id) self.aging[id] = true end

-- Values that are fresh by the look at the directory just made: those of aging ids are to be asked about
-- one by one, so that each has its age looked at.
local function look_at_directory(self)
  if C.sharearray_settled(self.handle) == 0 then
    self.fresh = {}
  else
    for id in pairs(self.aging) do self.fresh[id] = nil end
  end
end

--- The value in the memo if it still is what stands under the id, else nil. See `lookup`, which asks this
-- unless the memo is empty.
function memo:look(id)
  local total = self.changes[0]
  if total ~= self.seen then self:drop_outdated(total) end
  local pin = self.memo[id]
  if not pin then return nil end
  if pin.map == nil then -- its user closed the view; what follows is compiled for ids that are not known
    clear(self, id)
    return nil
  end
  local now = loop.now()
  if self.closings ~= view.closings then
    self.fresh, self.closings = {}, view.closings
  end
  if now >= self.until_ then
    look_at_directory(self)
    self.until_ = now + self.RECHECK
  end
  if self.fresh[id] == nil then
    if not is_current(self, id, pin) then
      self:forget(id)
      return nil
    end
    self.fresh[id] = self.tables[id] or pin
  end
  return self.fresh[id]
end

return memo
