--- A place: one directory, one prefix, and what this Lua state has already attached there.
--
-- The memo makes a second hit cost no system call. It is trusted for as long as the user's change
-- counter stands still, and for 10 ms at most: a removal that touches no counter (`rm`, the Python
-- package) is noticed by asking the file system that often. `fresh` has the values that need no question
-- until the time `until_`, so that a hit is one look into a table, at the counter and at the clock. As
-- long as the directory itself stands still, one look at it serves all of them.
-- @module sharearray.place

local ffi = require "ffi"
local dtype = require "sharearray.dtype"
local lazy = require "sharearray.lazy"
local loop = require "sharearray.loop"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

local bundle = lazy "sharearray.bundle"

local M = {}

local RECHECK = 10 -- milliseconds

local message = ffi.new("char[?]", C.SHAREARRAY_MESSAGE)
local char_p = ffi.typeof("const char *") -- interpreted code would parse it at every cast
local store_out = ffi.new("sharearray_store *[1]")

local Place = {}
Place.__index = Place

--- Shared by every store of the Lua state that means the same place, so that they share the memo.
M.places = setmetatable({}, { __mode = "v" })

local places = M.places

-- When the Lua state closes, LuaJIT finalizes all cdata before it runs the user's finalizers: those must
-- find the place shut, not its handle dangling.
local function delete_store(handle)
  for key, place in pairs(places) do
    if place.handle == handle then place.handle, place.memo, place.fresh, places[key] = nil, {}, {}, nil end
  end
  C.sharearray_store_delete(handle)
end

local function key_of(settings)
  return table.concat({
    settings.shm_path, settings.prefix, settings.mode or "-", settings.owner or "-",
    table.concat(settings.trust or {}, ","),
  }, "\0")
end

--- The place that the settings name, opened at first use.
-- @treturn[1] table
-- @return[2] nil, message, code; a wrong argument raises at `level`
function M.open(settings, level)
  local key = key_of(settings)
  local place = places[key]
  if place then return place end
  local trust = settings.trust or {}
  local uids = ffi.new("uint32_t[?]", #trust + 1)
  for i, uid in ipairs(trust) do uids[i - 1] = uid end
  local options = ffi.new("sharearray_options", settings.shm_path, settings.prefix, settings.mode or -1,
    settings.owner or -1, uids, #trust)
  local code = C.sharearray_store_new(options, store_out, message)
  if code == C.SHAREARRAY_EINVAL then error(ffi.string(message), level + 1) end
  if code < 0 then return nil, "sharearray: " .. ffi.string(message), ffi.string(C.sharearray_code(code)) end
  local handle = ffi.gc(store_out[0], delete_store)
  place = setmetatable({
    handle = handle,
    path = settings.shm_path .. "/" .. settings.prefix,
    prefix = settings.prefix,
    memo = {},
    fresh = {},
    until_ = 0,
    aging = {},
    closings = view.closings,
    changes = C.sharearray_changes(handle),
    seen = C.sharearray_changes(handle)[0],
  }, Place)
  places[key] = place
  return place
end

-- The kinds of numbers are told by the core. The others have to be looked up in the file, which costs a
-- page fault, more than all else that happens here.
local function dtype_of(map, array, start)
  local type_ = dtype.from_npy(array.kind, array.itemsize)
  if type_ then return type_ end
  local text = ffi.cast(char_p, map.base) + start + array.descr_offset
  return dtype.from_descr(ffi.string(text, array.descr_length), array.version)
end

-- The view of an array whose file begins at `start` in the mapping; nil and why there can be none.
local function view_of(map, array, start)
  local known = view.mapped(map, array)
  if known then return known end
  local base = ffi.cast(char_p, map.base)
  local type_, problem = dtype_of(map, array, start)
  if not type_ then return nil, problem end
  if type_.itemsize ~= array.itemsize then return nil, "its dtype has another size than its elements" end
  local shape, strides, step = {}, nil, 1
  for i = 1, array.ndim do shape[i] = tonumber(array.shape[i - 1]) end
  if array.fortran == 1 then
    strides = {}
    for i = 1, array.ndim do
      strides[i] = step
      step = step * shape[i]
    end
  end
  return view.new(type_, shape, strides, base + array.offset, map, false)
end

-- The view, or the table of a bundle, and what pins the map for it: for a bundle a view of nothing, whatever
-- becomes of the table. nil, nil, and why there is none; and the code.
local function value_of(map)
  if map.array.kind ~= 0 then
    local value, problem = view_of(map, map.array, 0)
    return value, value, problem, "unsupported"
  end
  local value, problem, code = bundle.table_of(map, view_of)
  return value, view.new(dtype.by_name.uint8, { 0 }, nil, map.base, map, false), problem, code
end

--- Why a map is nothing that `remember` could make a value of; nil if it is.
function M.unfit(map)
  local value, _, problem = value_of(map)
  if value == nil then return problem end
end

--- Puts what is under an id into the memo of a store's place.
-- @param store its place is open
-- @param map its mapping, with a reference that this call takes over
-- @tparam number counter the id's counter, read before the array was looked for
-- @tparam number looked when, by `loop.now`: a process may be held up between its look and this
-- @return[1] a view, or the table of a bundle
-- @return[2] nil, message, code
function M.remember(store, id, map, counter, looked)
  local self = store.place
  if store.settings.prefault then C.sharearray_prefault(map) end
  local value, pin, problem, code = value_of(map)
  C.sharearray_unref(map) -- the views have their own references
  if not value then
    return nil, ("sharearray: '%s': the entry %s%s.npy is not usable: %s; refresh or free it"):format(id, self.path, id,
      problem), code
  end
  if self.memo[id] then loop.dropped() end
  self.memo[id] = { value = value, pin = pin, counter = counter }
  self.fresh[id] = self.until_ <= looked + RECHECK and value or nil
  return value
end

function Place:forget(id)
  if not self.memo[id] then return end
  self.memo[id], self.fresh[id] = nil, nil
  loop.dropped()
end

-- Its user may have closed the view: the map is gone then.
local function is_current(self, id, entry)
  local map = view.map(entry.pin)
  return map ~= nil and C.sharearray_current(self.handle, id, map) == 1
end

-- Something of this user's changed: drop whatever is outdated, whichever id is asked for, so that
-- old versions do not pin memory.
function Place:drop_outdated(total)
  for id, entry in pairs(self.memo) do
    local counter = C.sharearray_changes_of(self.handle, id)
    if counter ~= entry.counter then
      if is_current(self, id, entry) then
        entry.counter = counter
      else
        self:forget(id)
      end
    end
  end
  self.seen = total
end

--- Whether what is in the memo still stands under the id.
function Place:is_current(id)
  local entry = self.memo[id]
  return entry ~= nil and is_current(self, id, entry)
end

--- Seconds since what is in the memo was published; 0 for what is not there.
function Place:age(id)
  local entry = self.memo[id]
  local map = entry and view.map(entry.pin)
  return map and map ~= nil and C.sharearray_age(map) or 0
end

--- From now on the id is one whose age is to be looked at, as often as the file system is.
function Place:watch_age(id) self.aging[id] = true end

-- Values that are fresh by the look at the directory just made: those of aging ids are to be asked about
-- one by one, so that each has its age looked at.
local function look_at_directory(self)
  if C.sharearray_settled(self.handle) == 0 then
    self.fresh = {}
  else
    for id in pairs(self.aging) do self.fresh[id] = nil end
  end
end

--- The value in the memo if it still is what stands under the id, else nil.
function Place:lookup(id)
  local total, now = self.changes[0], loop.now()
  if total ~= self.seen then self:drop_outdated(total) end
  if self.closings ~= view.closings then
    self.fresh, self.closings = {}, view.closings
  end
  if now >= self.until_ then
    look_at_directory(self)
    self.until_ = now + RECHECK
  end
  local entry = self.memo[id]
  if not entry then return nil end
  if self.fresh[id] == nil then
    if not is_current(self, id, entry) then
      self:forget(id)
      return nil
    end
    self.fresh[id] = entry.value
  end
  return entry.value
end

--- `nil, message, code` for a negative return of the core's.
function M.failure(id, code, text)
  return nil, ("sharearray: '%s': %s"):format(id, ffi.string(text)), ffi.string(C.sharearray_code(code))
end

return M
