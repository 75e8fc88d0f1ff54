--- One build: runs the source while this process holds the id's lock, and publishes what it gives.
--
-- An array from `alloc` lies in the final file already and is published as it stands. Anything else is
-- written into a file with write(2), in pieces, so that an event loop can breathe.
-- @module sharearray.build

local ffi = require "ffi"
local array = require "sharearray.array"
local dtype = require "sharearray.dtype"
local place_ = require "sharearray.place"
local view = require "sharearray.view"
local wait = require "sharearray.wait"
local C = require("sharearray.cdefs").C

local M = {}

local PIECE = 64 * 2 ^ 20 -- bytes reserved or written between two breaths
local HEADER = 4096       -- room for the header of an .npy file, 32 dimensions included

local message = ffi.new("char[?]", C.SHAREARRAY_MESSAGE)
local draft_out = ffi.new("sharearray_draft *[1]")
local map_out = ffi.new("sharearray_map *[1]")
local header_buffer = ffi.new("char[?]", HEADER)

local function delete_draft(draft) C.sharearray_draft_delete(draft) end
local function delete_build(build) C.sharearray_build_delete(build) end

--- What `alloc` raises when the machine refuses: `cache` turns it into `nil, message, code`. A source
-- that catches it sees the message with `tostring`.
local Refusal = {}
Refusal.__index = Refusal
function Refusal.__tostring(refusal) return refusal.message end

local function refuse(id, code)
  local _, text, word = place_.failure(id, code, message)
  error(setmetatable({ message = text, code = word }, Refusal), 0)
end

local function header_of(type_, shape)
  local dims = ffi.new("uint64_t[?]", #shape + 1)
  for i, n in ipairs(shape) do dims[i - 1] = n end
  local length = C.sharearray_npy_write(type_.descr, #shape, dims, header_buffer, HEADER)
  assert(length > 0, "the header of an array does not fit")
  return ffi.string(header_buffer, length)
end

local function new_draft(self, bytes)
  local code = C.sharearray_draft_new(self.place.handle, bytes, draft_out, message)
  if code < 0 then refuse(self.id, code) end
  local draft = ffi.gc(draft_out[0], delete_draft)
  self.drafts[#self.drafts + 1] = draft
  return draft
end

local function size_of(shape)
  local size = 1
  for _, n in ipairs(shape) do size = size * n end
  return size
end

-- alloc(dtype, shape): a zeroed array in the final file.
local function allocate(self, type_, shape)
  local header = header_of(type_, shape)
  local draft = new_draft(self, #header + size_of(shape) * type_.itemsize)
  local more
  repeat
    more = C.sharearray_draft_reserve(draft, PIECE, message)
    if more < 0 then refuse(self.id, more) end
    wait.breathe(self.settings)
  until more == 0
  local code = C.sharearray_draft_map(draft, map_out, message)
  if code < 0 then refuse(self.id, code) end
  local map = map_out[0]
  ffi.copy(map.base, header, #header)
  local result = view.new(type_, shape, nil, ffi.cast("char *", map.base) + #header, map, true)
  C.sharearray_unref(map) -- the array has its own reference
  -- The draft keeps the map, even if the source closes the array.
  self.allocated[#self.allocated + 1] = { draft = draft, map = map, header = #header, nbytes = result.nbytes }
  return result
end

local function make_alloc(self)
  return function(descr, shape)
    if self.over then error("alloc: the build it belonged to is over", 2) end
    local type_, problem = dtype.of(descr)
    if not type_ then error("alloc: " .. problem, 2) end
    local checked
    checked, problem = view.check_shape(shape)
    if not checked then error("alloc: " .. problem, 2) end
    return allocate(self, type_, checked)
  end
end

-- The draft of an array from `alloc` that covers all of it, whatever its shape is by now.
local function draft_of(self, value)
  if not view.is(value) or not view.contiguous(value) then return nil end
  for _, entry in ipairs(self.allocated) do
    if view.map(value) == entry.map then
      local header = header_of(value.dtype, value.shape)
      local base = ffi.cast("const char *", entry.map.base)
      if #header ~= entry.header or value.nbytes ~= entry.nbytes
        or ffi.cast("const char *", view.pointer(value)) ~= base + entry.header then
        return nil
      end
      ffi.copy(entry.map.base, header, #header)
      return entry.draft
    end
  end
end

local function write(self, draft, pointer, bytes)
  local code = C.sharearray_draft_write(draft, pointer, bytes, message)
  if code < 0 then refuse(self.id, code) end
  wait.breathe(self.settings)
end

-- A new draft with a copy of the value.
local function copy_draft(self, value)
  local pointer, type_, shape
  if view.is(value) then
    type_, shape = value.dtype, value.shape
  else
    pointer, type_, shape = array.from_cdata(value)
  end
  local bytes = size_of(shape) * type_.itemsize
  local header = header_of(type_, shape)
  local draft = new_draft(self, #header + bytes)
  write(self, draft, header, #header)
  if view.is(value) then
    for piece, size in view.pieces(value, PIECE) do write(self, draft, piece, size) end
  else
    pointer = ffi.cast("const char *", pointer)
    for at = 0, bytes - 1, PIECE do write(self, draft, pointer + at, math.min(PIECE, bytes - at)) end
  end
  return draft
end

local function publish(self, draft, deadline)
  local ticket = ffi.new("sharearray_ticket", { recheck = 20 })
  local round = 0
  while true do
    local step = C.sharearray_publish(self.build, draft, map_out, message)
    if step < 0 then refuse(self.id, step) end
    if step == C.SHAREARRAY_READY then return map_out[0] end
    round = round + 1
    local seconds = wait.remaining(deadline)
    if seconds == 0 then
      local _, text, code = wait.timed_out(self.settings, self.id, ticket)
      error(setmetatable({ message = text, code = code }, Refusal), 0)
    end
    wait.once(self.place, self.settings, self.id, ticket, seconds, round)
  end
end

--- Whether a value can be published.
function M.is_array(value)
  if view.is(value) then return view.map(value) ~= nil end -- NULL: closed
  return type(value) == "cdata" and array.from_cdata(value) ~= nil
end

--- What a source may be, in words.
M.EXPECTED = "an array from alloc or sharearray.array, a view, or an FFI array such as ffi.new(\"float[?]\", n)"

--- What somebody gave instead.
function M.in_words(value)
  if value == nil then return "nil" end
  if view.is(value) then return "a closed view" end
  if type(value) == "cdata" then return "cdata of type " .. tostring(ffi.typeof(value)):match("^ctype<(.*)>$") end
  return "a " .. type(value)
end

-- Runs the source: the value, or nil, error value, code.
local function run(self, source)
  if type(source) ~= "function" then return source end
  local ok, value, reason = pcall(source, make_alloc(self))
  if not ok then
    if getmetatable(value) == Refusal then return nil, value.message, value.code end
    return nil, value, "callback"
  end
  if M.is_array(value) then return value end
  if value == nil and reason ~= nil then return nil, reason, "callback" end
  return nil, ("sharearray: '%s': its function returned %s; expected is %s"):format(self.id, M.in_words(value),
    M.EXPECTED), "callback"
end

local function publish_value(self, value, deadline)
  -- Publishing seals the memory: arrays from alloc are read-only from then on.
  return publish(self, draft_of(self, value) or copy_draft(self, value), deadline)
end

-- What `alloc` gave and the source did not return goes with the build, and the lock with it.
local function finish(self)
  self.over = true
  for _, draft in ipairs(self.drafts) do delete_draft(ffi.gc(draft, nil)) end
  delete_build(ffi.gc(self.build, nil))
end

--- Runs `source` under the build's lock and publishes the result.
-- @param handle the `sharearray_build *`, owned by this call from here on
-- @treturn[1] cdata the mapping, with a reference for the caller
-- @return[2] nil, message or the source's own error value, code
function M.run(place, settings, id, handle, source, deadline)
  local self = {
    place = place, settings = settings, id = id,
    build = ffi.gc(handle, delete_build), -- an aborted coroutine gives the build up when it is collected
    drafts = {}, allocated = {}, over = false,
  }
  local value, reason, code = run(self, source)
  if code then
    finish(self)
    return nil, reason, code
  end
  local ok, map = pcall(publish_value, self, value, deadline)
  finish(self)
  if ok then return map end
  if getmetatable(map) == Refusal then return nil, map.message, map.code end
  error(map, 0)
end

return M
