--- What is wrong with an access to a view, in words. Loaded when the first one is refused.
--
-- The functions are called in tail position by what element.lua generates, so that level 2 is the
-- user's line.
-- @module sharearray.failures

local view = require "sharearray.view"

-- This file may be read long after view.lua was.
require("sharearray.library").check(7)

local type, floor = type, math.floor
local class_of = view.class

local failures = {}

local function is_closed(self) return self.map == nil end

-- A message for what is no number: `v[1LL]`, say.
function failures.no_number(i)
  local hint = type(i) == "cdata" and tonumber(i) and "; tonumber() makes one" or ""
  return ("an index must be a number, got %s%s"):format(type(i), hint)
end

local function bad_index(self, axis, i)
  if type(i) ~= "number" then return failures.no_number(i) end
  if i ~= i or floor(i) ~= i then return ("index %.14g is not an integer"):format(i) end
  local n = self["n" .. axis - 1]
  if i >= 0 and i < n then return nil end
  return ("index %.14g is out of bounds for axis %d with size %d"):format(i, axis - 1, n)
end

-- What is wrong with the indices; `given` of them.
local function bad_indices(self, class, given, ...)
  local ndim = class.ndim
  if given ~= ndim then
    local which = given > ndim and "many" or "few"
    return ("too %s indices: the array has dimension %d, but got %d"):format(which, ndim, given)
  end
  for axis = 1, given do
    local message = bad_index(self, axis, (select(axis, ...)))
    if message then return message end
  end
end

local function given_of(...)
  local given = select("#", ...)
  while given > 0 and select(given, ...) == nil do given = given - 1 end
  return given
end

function failures.index(self, ...)
  if is_closed(self) then error(view.CLOSED, 2) end
  error(bad_indices(self, class_of(self), given_of(...), ...), 2)
end

function failures.row(self, i)
  if is_closed(self) then error(view.CLOSED, 2) end
  error(bad_index(self, 1, i), 2)
end

function failures.number(self)
  error(("an element of dtype %s is no Lua number"):format(tostring(class_of(self).dtype)), 2)
end

function failures.set(self, ...)
  local class = class_of(self)
  if is_closed(self) then error(view.CLOSED, 2) end
  if self.sealed[0] ~= 0 then error(view.READ_ONLY .. "cannot set its elements", 2) end
  local given = given_of(...)
  if given ~= class.ndim + 1 then
    error(("%d indices and a value expected"):format(class.ndim), 2)
  end
  local message = bad_indices(self, class, given - 1, ...)
  if not message then message = select(2, class.dtype.writer((select(given, ...)))) end
  error(message, 2)
end

function failures.newindex(self, key)
  if is_closed(self) then error(view.CLOSED, 2) end
  local name = type(key) == "number" and ("[%.14g]"):format(key) or "'" .. tostring(key) .. "'"
  if self.sealed[0] ~= 0 then error(view.READ_ONLY .. "cannot set " .. name, 2) end
  if type(key) == "string" then error("cannot set " .. name .. " of an array", 2) end
  if type(key) ~= "number" then error(failures.no_number(key), 2) end
  error(("[i] = value is for arrays of dimension 1; this one has %d: x:set(i, ..., value)"):format(
    class_of(self).ndim), 2)
end

function failures.over(self)
  if is_closed(self) then error(view.CLOSED, 2) end
end

return failures
