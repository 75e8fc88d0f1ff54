--- The builds of this Lua state: who is in the midst of which, what is said of them, what becomes of the
-- result.
-- @module sharearray.builders

local build = require "sharearray.build"
local loop = require "sharearray.loop"
local place_ = require "sharearray.place"
local wait = require "sharearray.wait"
local C = require("sharearray.cdefs").C

require "sharearray.memo" -- for the hits that come now: a build has the time to load it

local M = {}

-- Which coroutine of this Lua state builds what: { coroutine, handle }, kept by that coroutine's
-- stack alone. One that is dropped in the middle of a build must be collected, since the finalizer of
-- the build gives it up.
local builders = setmetatable({}, { __mode = "v" })

--- The running coroutine; nil for the main one.
function M.current()
  local coroutine_, is_main = coroutine.running()
  if is_main then return nil end
  return coroutine_
end

--- A reason to go into a message that names the library and the id itself.
function M.bare(reason) return (tostring(reason):gsub("^sharearray: '.-': ", "")) end

local function describe(value)
  if type(value) == "table" then return "a bundle" end
  return ("%s (%s)"):format(tostring(value.dtype), table.concat(value.shape, ", ") .. (value.ndim == 1 and "," or ""))
end

-- No closure: code that LuaJIT compiled for one would keep the builder, and the lock, for ever.
local function run(builder, place, settings, id, source, deadline, failed)
  local ok, map, reason, code = pcall(build.run, place, settings, id, builder.handle, source, deadline, failed)
  builder.handle = nil -- used up
  if not ok then error(map, 0) end
  return map, reason, code
end

--- Runs the build of `id`, and remembers the result.
-- @param handle what `build.own` gave
-- @tparam[opt] function failed called with place and id, still under the lock, if nothing was published
-- @return[1] a view, or the table of a bundle; and build.FETCHED where another machine built it
-- @return[2] nil, message, code
function M.run(self, id, handle, source, deadline, ticket, failed)
  local place, settings = self.place, self.settings
  local name = place.path .. id
  local attempt = ticket.builder.attempt
  local doing = source == nil and "taking the origin's newer version" or "building"
  if attempt > 1 then doing = ("%s, attempt %d"):format(doing, attempt) end
  local said, problem = pcall(wait.say, settings, id, doing)
  if not said then -- the user's log_func raised: nobody shall wait for this build
    build.give_up(handle)
    error(problem, 0)
  end
  local started, looked = C.sharearray_clock(), loop.now()
  local builder = { coroutine = M.current(), handle = handle }
  builders[name] = builder
  local map, reason, code = run(builder, place, settings, id, source, deadline, failed)
  if builders[name] == builder then builders[name] = nil end
  if not map then
    wait.say(settings, id, "not built: " .. M.bare(reason))
    return nil, reason, code
  end
  local bytes = tonumber(map.length)
  local result, text
  result, text, code = place_.remember(self, id, build.disown_map(map), map.array.layout, ticket.seen, looked)
  if not result then return nil, text, code end
  wait.say(settings, id, ("published, %s, %d bytes in %.1f s"):format(describe(result), bytes,
    (C.sharearray_clock() - started) / 1000))
  return result, reason
end

-- Whether the builder's coroutine still is in the midst of that build. Event loops end a coroutine from
-- outside, and use it again for another request, so its stack has the last word.
local function is_building(builder)
  local level = 0
  repeat
    local frame = debug.getinfo(builder.coroutine, level, "f")
    if frame and frame.func == run and select(2, debug.getlocal(builder.coroutine, level, 1)) == builder then
      return true
    end
    level = level + 1
  until not frame
  return false
end

--- Whether this very coroutine is building the id, and asks for it from within.
function M.is_recursive(name, me)
  local builder = builders[name]
  return builder ~= nil and builder.coroutine == me and is_building(builder)
end

--- Gives up the builds of coroutines that were ended from outside, where their stacks show it; of the
-- others the collector tells. What they allocated is the collector's in any case.
function M.give_up_ended()
  for name, builder in pairs(builders) do
    if builder.handle and builder.coroutine and not is_building(builder) then
      builders[name] = nil
      build.give_up(builder.handle)
      loop.dropped()
    end
  end
end

return M
