--- A place: one directory, one prefix, and what this Lua state has already attached there.
--
-- What is in the memo is looked after in sharearray.memo.
-- @module sharearray.place

local ffi = require "ffi"
local lazy = require "sharearray.lazy"
local library = require "sharearray.library"
local loop = require "sharearray.loop"
local view = require "sharearray.view"

local cdefs = lazy "sharearray.cdefs"
local content = lazy "sharearray.content"

local M = {}

local C, whole = library.C, view.whole

local RECHECK = 10 -- milliseconds that the memo is trusted for
local Place = { RECHECK = RECHECK }
Place.__index = Place
setmetatable(Place, { __index = lazy "sharearray.memo" })

--- Shared by every store of the Lua state that means the same place, so that they share the memo.
M.places = setmetatable({}, { __mode = "v" })

local places = M.places

-- When the Lua state closes, LuaJIT finalizes all cdata before it runs the user's finalizers: those must
-- find the place shut, not its handle dangling.
local function delete_store(handle)
  for key, place in pairs(places) do
    if place.handle == handle then
      place.handle, place.memo, place.tables, place.fresh = nil, {}, {}, {}
      places[key] = nil
    end
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
  local store_out, message = ffi.new("sharearray_store *[1]"), library.new_message()
  local code = C.sharearray_store_new(options, store_out, message)
  if code == library.EINVAL then error(ffi.string(message), level + 1) end
  if code < 0 then return nil, "sharearray: " .. ffi.string(message), ffi.string(C.sharearray_code(code)) end
  local handle = ffi.gc(store_out[0], delete_store)
  place = setmetatable({
    handle = handle,
    path = settings.shm_path .. "/" .. settings.prefix,
    prefix = settings.prefix,
    -- By the id: what pins the map of what is in the memo, a view or, for a bundle, an owner; the table of a
    -- bundle; the id's counter; and when its rebuild failed.
    memo = {},
    tables = {},
    counters = {},
    failures = {},
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

--- Puts a value into the memo of the place `self`, where nothing is under the id. See `remember` for what it takes.
-- @param pin what keeps the map for it: the view itself, or the owner that a bundle's members live on
local function note(self, id, value, pin, counter, looked)
  self.memo[id], self.counters[id] = pin, counter
  self.fresh[id] = self.until_ <= looked + RECHECK and value or nil
end

M.note = note

--- Puts what is under an id into the memo of a store's place.
-- @param store its place is open
-- @param map its mapping, with a reference that this call takes over
-- @tparam number layout of the map's array
-- @tparam number counter the id's counter, read before the array was looked for
-- @tparam number looked when, by `loop.now`: a process may be held up between its look and this
-- @return[1] a view, or the table of a bundle
-- @return[2] nil, message, code
function M.remember(store, id, map, layout, counter, looked)
  local self = store.place
  local known = self.memo[id]
  if known and known.map ~= nil and self:is_current(id) then -- another coroutine waited for it too
    C.sharearray_unref(map)
    return self.tables[id] or known
  end
  if store.settings.prefault then cdefs.C.sharearray_prefault(map) end
  local value = whole(map, layout)
  local pin, of_bundle = value, nil
  if not value then
    local problem, code
    value, pin, problem, code = content.value(map)
    if not value then
      return nil, ("sharearray: '%s': the entry %s%s.npy is not usable: %s; refresh or free it"):format(id, self.path,
        id, problem), code
    end
    of_bundle = type(value) == "table" and value or nil
  end
  if known then
    loop.dropped()
    self.tables[id], self.failures[id] = nil, nil
  end
  if of_bundle then self.tables[id] = of_bundle end
  note(self, id, value, pin, counter, looked)
  return value
end

--- Makes room for an id in the memo: LuaJIT does so for a key that nil is assigned to.
function Place:expect(id)
  for _, t in ipairs { self.memo, self.counters, self.fresh } do
    if t[id] == nil then t[id] = nil end
  end
end

--- The value in the memo if it still is what stands under the id, else nil.
function Place:lookup(id)
  if next(self.memo) ~= nil then return self:look(id) end
  local now = loop.now()
  self.seen, self.closings = self.changes[0], view.closings
  if now >= self.until_ then
    C.sharearray_settled(self.handle) -- notes how the directory stands
    self.until_ = now + self.RECHECK
  end
  return nil
end

--- `nil, message, code` for a negative return of the core's.
function M.failure(id, code, text)
  return nil, ("sharearray: '%s': %s"):format(id, ffi.string(text)), ffi.string(C.sharearray_code(code))
end

return M
