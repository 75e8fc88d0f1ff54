--- The calls on a store that processes make now and then: refresh, decorator, free, stat, list. Loaded at the
-- first of them; cache and get are in sharearray.store.
-- @module sharearray.entries

local ffi = require "ffi"
local dtype = require "sharearray.dtype"
local lazy = require "sharearray.lazy"
local library = require "sharearray.library"
local obtain = require "sharearray.obtain"
local place_ = require "sharearray.place"
local store = require "sharearray.store"
local C = require("sharearray.cdefs").C

local origin = lazy "sharearray.origin"

local open, with, check_id, check_source = store.open, store.with, store.check_id, store.check_source

local entries = {}

--- Builds `id` anew and replaces it in one step. Views that were handed out before stay valid.
-- If another process is building it, waits for that first.
function entries:refresh(id, source, opts)
  self = with(self, opts, 2)
  check_id(self, id, 2)
  check_source(source, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  return obtain.obtain(self, id, source, C.SHAREARRAY_REFRESH)
end

local function decorated(own, id, source)
  return function() return own:cache(id, source) end
end

local function decorating(own, id)
  return function(source)
    check_source(source, 2)
    return decorated(own, id, source)
  end
end

-- Compiled code keeps the closure that it was compiled for, and with it the source and the memo of the store, for ever;
-- but not where there were three of a kind before: LuaJIT gives up hope then that there will be but one.
for _ = 1, 3 do
  decorated()
  decorating()
end

--- A function that makes functions: `decorator(id, opts)(fn)` returns one that returns
-- `cache(id, fn, opts)`. The way to have a hit in a hot loop without a closure at each call.
function entries:decorator(id, opts)
  local own = with(self, opts, 2)
  check_id(own, id, 2)
  return decorating(own, id)
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
function entries:free(id, opts)
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
  local message = library.new_message()
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

-- The name of the array's dtype; the beginning of the descr where that is longer than the core gives it. That is the
-- file's own text, and may go to a terminal: no control characters.
local function dtype_of(info)
  local length = math.min(info.array.descr_length, ffi.sizeof(info.descr))
  local descr = ffi.string(info.descr, length)
  if length < info.array.descr_length then return descr:gsub("%c", "?") .. "..." end
  return tostring(dtype.from_descr(descr, info.array.version) or descr:gsub("%c", "?"))
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
  local info, message = ffi.new("sharearray_info"), library.new_message()
  local code = C.sharearray_stat(self.place.handle, id, info, message)
  if code < 0 then return place_.failure(id, code, message) end
  return describe(self, id, info)
end

--- What stands under the id.
-- @treturn[1] table `id path state kind dtype shape nbytes members bytes age failed owner mode builder reason`;
--   state is one of ready, building, partial, untrusted, corrupt, unsupported; age, and failed (when a
--   rebuild for `max_age` did), in seconds before now
-- @return[2] nil, message, code
function entries:stat(id, opts)
  self = with(self, opts, 2)
  check_id(self, id, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  return stat(self, id)
end

-- Removes what dead builders left anywhere.
local function sweep(self, message)
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
function entries:list(opts)
  self = with(self, opts, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  local ids_out, count_out, message = ffi.new("char *[1]"), ffi.new("size_t[1]"), library.new_message()
  local result = sweep(self, message)
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

return entries
