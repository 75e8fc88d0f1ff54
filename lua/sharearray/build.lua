--- One build: runs the source while this process holds the id's lock, and publishes what it gives.
-- @module sharearray.build

local ffi = require "ffi"
local array = require "sharearray.array"
local content = require "sharearray.content"
local draft = require "sharearray.draft"
local dtype = require "sharearray.dtype"
local file = require "sharearray.file"
local lazy = require "sharearray.lazy"
local library = require "sharearray.library"
local lifetime = require "sharearray.lifetime"
local loop = require "sharearray.loop"
local shapes = require "sharearray.shape"
local view = require "sharearray.view"
local wait = require "sharearray.wait"
local C = require("sharearray.cdefs").C

local bundle = lazy "sharearray.bundle"
local origin = lazy "sharearray.origin"

local M = {}

local held = 0

local function delete_build(build)
  held = held - 1
  C.sharearray_build_delete(build)
end

--- Takes a `sharearray_build *` over: a coroutine that is never resumed gives the build up when the
-- handle is collected.
function M.own(handle)
  held = held + 1
  loop.building()
  return ffi.gc(handle, delete_build)
end

local function delete_map(map) C.sharearray_unref(map) end

--- Takes a reference of a mapping over: a coroutine that is dropped, or an error, leaves it to the collector.
function M.own_map(map) return ffi.gc(map, delete_map) end

--- The mapping, with its reference for the caller to take over.
function M.disown_map(map) return ffi.gc(map, nil) end

--- How many builds this Lua state holds, those of dropped coroutines included.
function M.held() return held end

--- Gives the build up now.
function M.give_up(handle) delete_build(ffi.gc(handle, nil)) end

--- What a source may be, in words.
M.EXPECTED = "an array from alloc or sharearray.array, a view, an FFI array such as ffi.new(\"float[?]\", n), "
  .. "a Torch tensor, a table of arrays, or sharearray.file(path)"

--- What `run` returns beside the mapping of what another machine built.
M.FETCHED = "taken from the origin"

--- What somebody gave instead.
function M.in_words(value)
  if type(value) == "nil" then return "nil" end
  if view.is(value) then return "a closed view" end
  if type(value) == "cdata" then return "cdata of type " .. tostring(ffi.typeof(value)):match("^ctype<(.*)>$") end
  return "a " .. (array.is_tensor(value) and package.loaded.torch.typename(value) or type(value))
end

--- Whether a value can be published as one array.
function M.is_array(value)
  if view.is(value) then return view.map(value) ~= nil end -- NULL: closed
  return array.elements(value) ~= nil
end

--- Whether a value can be published.
-- @return[1] true
-- @return[2] nil, what it is in words
function M.check(value)
  if M.is_array(value) or file.is(value) then return true end
  if type(value) ~= "table" then return nil, M.in_words(value) end
  local parts, problem = bundle.flatten(value)
  if parts then return true end
  return nil, "a table that is no bundle: " .. problem
end

local function make_alloc(build)
  local holder = lifetime.holder(build)
  return function(descr, shape, surplus)
    local self = holder[1]
    if surplus ~= nil then error("alloc: a shape is one list, as in alloc(\"float32\", {3, 4})", 2) end
    if not self or self.over then error("alloc: the build it belonged to is over", 2) end
    if self.session then self.session:alive() end
    if type(descr) == "table" and shape == nil then
      local ok, result = pcall(self.drafts.arrays, self.drafts, descr)
      if not ok then error(result, draft.is_refusal(result) and 0 or 2) end
      return result
    end
    local type_, problem = dtype.of(descr)
    if not type_ then error("alloc: " .. problem, 2) end
    local checked
    checked, problem = shapes.check(shape)
    if not checked then error("alloc: " .. problem, 2) end
    return self.drafts:array(type_, checked)
  end
end

-- What a source gets for `alive` where there is no origin, so that it may call it with or without one.
local function alive() end

-- Runs the source: the value, or nil, error value, code.
local function run(self, source)
  if type(source) ~= "function" then return source end
  local alloc, session = make_alloc(self), self.session
  local ok, value, reason
  if session then
    ok, value, reason = pcall(session.run, session, source, alloc)
  else
    ok, value, reason = pcall(source, alloc, alive)
  end
  if not ok then
    if draft.is_refusal(value) then return nil, value.message, value.code end
    return nil, value, "callback"
  end
  if value == nil and reason ~= nil then return nil, reason, "callback" end
  local right, given = M.check(value)
  if right then return value end
  if type(value) == "nil" then given = "nil (is there no `return x`?)" end
  local info = debug.getinfo(source, "S")
  return nil, ("sharearray: '%s': its function (%s:%d) returned %s; expected: %s"):format(self.id, info.short_src,
    info.linedefined, given, M.EXPECTED), "callback"
end

local function publish(self, complete, deadline)
  local ticket = ffi.new("sharearray_ticket", { recheck = 20 })
  local map_out, message, round = library.new_map_out(), library.new_message(), 0
  if self.session then self.session:date(complete) end
  while true do
    ticket.seen = C.sharearray_changes_of(self.place.handle, self.id)
    local step = C.sharearray_publish(self.build, complete, map_out, message)
    if step < 0 then draft.refuse(self.id, step, message) end
    if step == C.SHAREARRAY_READY then return M.own_map(map_out[0]) end
    round = round + 1
    local seconds = wait.remaining(deadline)
    if seconds == 0 then
      draft.raise(("sharearray: '%s': timed out after %g s: somebody removed the lock of this build, as Python's free "
        .. "does, and another process builds it now; call again to wait for that one"):format(self.id,
        self.settings.timeout), "timeout")
    end
    local slept, why = wait.once(self.place, self.settings, self.id, ticket, seconds, round)
    if slept == false then
      local _, text, code = wait.cannot_wait(self.id, ticket, why)
      draft.raise(text, code)
    end
  end
end

-- Raises a refusal of what `publish` would take and nobody could use afterwards: a bundle with a bad form, say.
local function check_fetched(self, complete)
  local map_out, message = library.new_map_out(), library.new_message()
  local code = C.sharearray_seal(self.build, complete, map_out, message)
  if code < 0 then draft.refuse(self.id, code, message) end
  local map = M.own_map(map_out[0])
  local problem = content.unfit(map)
  C.sharearray_unref(M.disown_map(map))
  if problem then draft.raise(problem, "corrupt") end
end

-- What a fetched file is not fit to be published for: another machine's fault, or another library's.
local UNFIT = { corrupt = true, unsupported = true }

-- What another machine has built, published here; nil: there is nothing, and this process may build.
local function fetch(self, source, deadline)
  local session = self.session
  while true do
    local complete
    if source == nil then complete = session:fetch() else complete = session:obtain() end
    if not complete then return nil end
    local ok, map = pcall(check_fetched, self, complete)
    if ok then ok, map = pcall(publish, self, complete, deadline) end
    if ok then
      wait.say(self.settings, self.id, M.FETCHED)
      return map
    end
    if not draft.is_refusal(map) or not UNFIT[map.code] then error(map, 0) end
    session:reject((map.message:gsub("^sharearray: '.-': ", "")))
  end
end

-- Publishing seals the memory: arrays from alloc are read-only from then on.
local function publish_value(self, value, deadline)
  local complete
  if file.is(value) then
    complete = file.draft(value, self.drafts)
  elseif type(value) == "table" then
    complete = self.drafts:of_bundle(bundle.flatten(value))
  else
    complete = self.drafts:of_array(value)
  end
  return publish(self, complete, deadline)
end

-- Gives the origin what stands on this machine already. That is done under the lock, taken once more, lest another
-- process take the origin's version for the newer one meanwhile. Whoever has the lock by now builds, and may.
local function give_to_origin(self, map)
  local build_out = library.new_build_out()
  local step = C.sharearray_attach(self.place.handle, self.id, C.SHAREARRAY_REFRESH, ffi.new("sharearray_ticket"),
    library.new_map_out(), build_out, nil)
  local lock = step == C.SHAREARRAY_BUILD and M.own(build_out[0])
  pcall(self.session.publish, self.session, map)
  if lock then M.give_up(lock) end
end

-- What `alloc` gave and the source did not return goes with the build, and the lock with it.
local function finish(self, map)
  self.over = true
  if not map and self.failed then self.failed(self.place, self.id) end
  if self.session then self.session:release() end
  self.drafts:release()
  M.give_up(self.build)
end

-- What M.run returns, from what a pcall of something that raises refusals did.
local function result(ok, map)
  if ok then return map end
  if draft.is_refusal(map) then return nil, map.message, map.code end
  error(map, 0)
end

--- Runs `source` under the build's lock and publishes the result; or, where there is an origin, what that
-- has already.
-- @param handle what `own` gave; used up by this call
-- @param source nil: only what the origin has will do
-- @tparam[opt] function failed called with place and id if nothing was published, before the lock goes; there is
--   an older version, so that nobody need wait for another machine
-- @treturn[1] cdata the mapping, as `own_map` gives it; and FETCHED where it was not built now
-- @return[2] nil, message or the source's own error value, code
function M.run(place, settings, id, handle, source, deadline, failed)
  local self = {
    place = place, settings = settings, id = id,
    build = handle,
    drafts = draft.new(place, settings, id), over = false, failed = failed,
  }
  if settings.origin then
    self.session = origin.session(self.drafts, deadline, not failed)
    local ok, map = pcall(fetch, self, source, deadline)
    if not ok or map or source == nil then
      finish(self, ok and map)
      if ok and not map then return nil, "the origin has nothing newer", "absent" end
      if ok then return map, M.FETCHED end
      return result(ok, map)
    end
  end
  local ran, value, reason, code = pcall(run, self, source) -- lua-cjson may be missing, which bundles need
  if not ran or code then
    finish(self)
    if not ran then error(value, 0) end
    return nil, reason, code
  end
  local ok, map = pcall(publish_value, self, value, deadline)
  -- This machine's waiters have it; the build is held on to for as long as the lease.
  if ok and self.session then give_to_origin(self, map) end
  finish(self, ok and map)
  return result(ok, map)
end

return M
