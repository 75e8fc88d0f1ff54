--- Letting go of old versions that nobody asks for any more. An event loop's adapter does it now and then.
-- @module sharearray.tidy

local place_ = require "sharearray.place"

local MOST = 256 -- ids of a place that one call asks the file system about

-- Lets go of what is outdated although no counter of this user's says so (`rm`, another user's
-- refresh): some of the ids, the next ones at the next call.
local function tidy_some(place)
  local left = place.untidy
  if not left or #left == 0 then
    left = {}
    for id in pairs(place.memo) do left[#left + 1] = id end
    place.untidy = left
  end
  for _ = 1, math.min(#left, MOST) do
    local id = table.remove(left)
    if place.memo[id] and not place:is_current(id) then place:forget(id) end
  end
end

--- Lets go of old versions in all places of the Lua state, whether anybody asks for them or not.
return function()
  for _, place in pairs(place_.places) do
    local total = place.changes[0]
    if total ~= place.seen then place:drop_outdated(total) end
    tidy_some(place)
  end
end
