--- A store, and the calls on it: cache, get, refresh, free, list, stat, decorator, valid_id.
--
-- Every call is here once; `sharearray.cache(...)` is the default store's `store:cache(...)`.
-- Errors: a wrong argument raises at the caller's level; what can happen at run time returns
-- `nil, message, code`.
-- @module sharearray.store

local ffi = require "ffi"
local dtype = require "sharearray.dtype"
local lazy = require "sharearray.lazy"
local loop = require "sharearray.loop"
local obtain = require "sharearray.obtain"
local options = require "sharearray.options"
local place_ = require "sharearray.place"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

local build = lazy "sharearray.build"
local origin = lazy "sharearray.origin"

local M = {}

local message = ffi.new("char[?]", C.SHAREARRAY_MESSAGE)

local Store = {}
Store.__index = Store
Store.__tostring = function(self)
  return ("sharearray store %s/%s*"):format(self.settings.shm_path, self.settings.prefix)
end

-- Stands in until the directory is opened, so that the hit path has nothing to check.
local UNOPENED = { fresh = {} }

local function new(settings)
  return setmetatable({ settings = settings, place = UNOPENED }, Store)
end

--- A store with its own defaults.
-- @tparam[opt] table opts see the README's list of options
-- @tparam[opt] table base what holds where `opts` says nothing: an adapter's own defaults
-- @treturn table a store; it opens its directory at the first call
function M.new(opts, base)
  return new(options.overlay(opts or {}, base or options.defaults(), 2))
end

local function open(self, level)
  loop.looked()
  if self.place.handle then return self.place end -- else it is unopened, or shut
  local place, text, code = place_.open(self.settings, level + 1)
  if not place then return nil, text, code end
  self.place = place
  return place
end

local function check_self(self, level)
  if getmetatable(self) == Store then return end
  error("the calls of a store are its methods: they want a colon, as in store:cache(id, fn)", level + 1)
end

local function with(self, opts, level)
  check_self(self, level + 1)
  if opts == nil then return self end
  return new(options.overlay(opts, self.settings, level + 1))
end

--- Whether `id` matches `^[A-Za-z0-9=+._-]+$` and, with the prefix, fits a file name.
function Store:valid_id(id)
  check_self(self, 2)
  return type(id) == "string" and C.sharearray_valid_id(self.settings.prefix, id, #id) == 1
end

local function check_id(self, id, level)
  if self:valid_id(id) then return end
  local given = type(id) == "string" and ("'%s'"):format(id:sub(1, 80)) or "of type " .. type(id)
  error(("invalid id %s: it must be a string that matches ^[A-Za-z0-9=+._-]+$, of at most %d characters"):format(given,
    246 - #self.settings.prefix), level + 1)
end

local function check_source(source, level)
  if type(source) == "function" then return end
  local right, given = build.check(source)
  if right then return end
  error(("a source must be a function, %s; got %s"):format(build.EXPECTED, given), level + 1)
end

-- What is no hit. Called in tail position: level 2 is the user's line.
local function cache_slowly(self, id, source, opts)
  self = with(self, opts, 2)
  check_id(self, id, 2)
  check_source(source, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  local known = place:lookup(id)
  if known then return obtain.renewed(self, id, source, known) end
  return obtain.obtain(self, id, source, 0)
end

local function get_slowly(self, id, opts)
  self = with(self, opts, 2)
  check_id(self, id, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  local known = place:lookup(id)
  if known then return known end
  return obtain.obtain(self, id, nil, C.SHAREARRAY_GET)
end

-- A user's loop that is compiled in the moment of a look at the file system would have that look in its
-- trace, and the hit, four times slower, beside it.
jit.off(cache_slowly)
jit.off(get_slowly)

-- A function that LuaJIT does not compile: it ends a trace, and the rest is interpreted. Without it each
-- call with options would be a failed attempt to compile `cache`, and after some thousands of them LuaJIT
-- would never again compile a hit, not even one without options.
local end_trace = coroutine.running

--- The view of `id`. If nobody has it, `source` is run, or copied, first: once for the whole machine.
-- @tparam string id
-- @param source a function `fn(alloc)`, or array-like data
-- @tparam[opt] table opts options of this call, over the store's
-- @return[1] a read-only view, shared with all who ask for the id in this Lua state
-- @return[2] nil, message, code
function Store:cache(id, source, opts)
  if opts == nil then
    local place = self.place
    local value = place and place.fresh[id] -- no place: called with a dot
    if value and place.changes[0] == place.seen and place.closings == view.closings
      and loop.now() < place.until_ then
      return value
    end
  else
    end_trace()
  end
  return cache_slowly(self, id, source, opts)
end

--- The view of `id`, or `nil, message, "absent"`. Never builds, and waits for no builder.
function Store:get(id, opts)
  if opts == nil then
    local place = self.place
    local value = place and place.fresh[id] -- no place: called with a dot
    if value and place.changes[0] == place.seen and place.closings == view.closings
      and loop.now() < place.until_ then
      return value
    end
  else
    end_trace()
  end
  return get_slowly(self, id, opts)
end

--- Builds `id` anew and replaces it in one step. Views that were handed out before stay valid.
-- If another process is building it, waits for that first.
function Store:refresh(id, source, opts)
  self = with(self, opts, 2)
  check_id(self, id, 2)
  check_source(source, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  return obtain.obtain(self, id, source, C.SHAREARRAY_REFRESH)
end

--- A function that makes functions: `decorator(id, opts)(fn)` returns one that returns
-- `cache(id, fn, opts)`. The way to have a hit in a hot loop without a closure at each call.
function Store:decorator(id, opts)
  local store = with(self, opts, 2)
  check_id(store, id, 2)
  return function(source)
    check_source(source, 2)
    return function() return store:cache(id, source) end
  end
end

-- A Python builder's lock needs two looks, some time apart, before it counts as dead.
local function look_again(self)
  local ticket = ffi.new("sharearray_ticket", { recheck = 100 })
  if self.settings.sleep then
    self.settings.sleep(0.1)
  else
    ticket.seen = C.sharearray_changes_of(self.place.handle, "")
    C.sharearray_wait(self.place.handle, "", ticket, 0.1)
  end
end

local LOOKS = 50

--- Removes the entry, and what a dead builder left; from the origin first. Views stay valid; a build that is
-- under way goes on and publishes.
-- @treturn[1] boolean whether there was something
-- @return[2] nil, message, code
function Store:free(id, opts)
  self = with(self, opts, 2)
  check_id(self, id, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  -- First from the origin, or another process could take it from there again.
  local removed = false
  if self.settings.origin then
    removed, text, code = origin.remove(place, self.settings, id)
    if code then return nil, text, code end
  end
  place:forget(id)
  for _ = 1, LOOKS do
    local result = C.sharearray_remove(place.handle, id, message)
    if result < 0 then return place_.failure(id, result, message) end
    removed = removed or result % 2 == 1
    if result < C.SHAREARRAY_WAIT then break end
    look_again(self)
  end
  return removed
end

local STATES = { [0] = "ready", "building", "partial", "untrusted", "corrupt", "unsupported", "denied" }

local function builder_of(owner)
  if owner.pid == 0 then return nil end
  return {
    pid = owner.pid > 0 and tonumber(owner.pid) or nil,
    uid = owner.uid,
    program = ffi.string(owner.program),
    since = owner.since,
    attempt = owner.attempt,
  }
end

-- The name of the array's dtype; the beginning of the descr where that is longer than the core gives it.
local function dtype_of(info)
  local length = math.min(info.array.descr_length, ffi.sizeof(info.descr))
  local descr = ffi.string(info.descr, length)
  if length < info.array.descr_length then return descr .. "..." end
  return tostring(dtype.from_descr(descr, info.array.version) or descr)
end

local function describe(self, id, info)
  local state = STATES[info.state]
  local result = {
    id = id,
    path = self.place.path .. id .. ".npy",
    state = state,
    owner = info.uid,
    mode = ("%04o"):format(info.mode),
    bytes = tonumber(info.bytes),
    age = info.age >= 0 and info.age or nil,
    failed = info.failed >= 0 and info.failed or nil,
    builder = builder_of(info.builder),
    reason = info.reason[0] ~= 0 and ffi.string(info.reason) or nil,
  }
  if state == "ready" and info.array.kind == 0 then
    result.kind, result.nbytes, result.members = "bundle", result.bytes, tonumber(info.members)
  elseif state == "ready" then
    result.kind = "array"
    result.dtype = dtype_of(info)
    result.nbytes = tonumber(info.array.nbytes)
    result.shape = {}
    for i = 1, info.array.ndim do result.shape[i] = tonumber(info.array.shape[i - 1]) end
  end
  return result
end

local function stat(self, id)
  local info = ffi.new("sharearray_info")
  local code = C.sharearray_stat(self.place.handle, id, info, message)
  if code < 0 then return place_.failure(id, code, message) end
  return describe(self, id, info)
end

--- What stands under the id.
-- @treturn[1] table `id path state kind dtype shape nbytes members bytes age failed owner mode builder reason`;
--   state is one of ready, building, partial, untrusted, corrupt, unsupported; age, and failed (when a
--   rebuild for `max_age` did), in seconds before now
-- @return[2] nil, message, code
function Store:stat(id, opts)
  self = with(self, opts, 2)
  check_id(self, id, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  return stat(self, id)
end

-- Removes what dead builders left anywhere.
local function sweep(self)
  for _ = 1, LOOKS do
    local pending = C.sharearray_sweep(self.place.handle, message)
    if pending < 0 then return pending end
    if pending == 0 then break end
    look_again(self)
  end
  return 0
end

--- All that is in the store, sorted by id: a list of tables as `stat` gives them. Cleans up behind
-- dead builders.
function Store:list(opts)
  self = with(self, opts, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  local ids_out, count_out = ffi.new("char *[1]"), ffi.new("size_t[1]")
  local result = sweep(self)
  if result == 0 then result = C.sharearray_ids(place.handle, ids_out, count_out, message) end
  if result < 0 then return place_.failure("*", result, message) end
  local list, at = {}, ids_out[0]
  for _ = 1, tonumber(count_out[0]) do
    local id = ffi.string(at)
    at = at + #id + 1
    list[#list + 1] = stat(self, id) -- nil: removed in the meantime
  end
  C.sharearray_ids_delete(ids_out[0])
  return list
end

return M
