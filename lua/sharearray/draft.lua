--- Drafts: the files of one build, filled in place or written, before one of them gets its name.
--
-- An array from `alloc` lies in the final file already and is published as it stands; so do all arrays
-- of `alloc{...}`, in one file. Anything else is written into a file with write(2), in pieces, so that
-- an event loop can breathe.
-- @module sharearray.draft

local ffi = require "ffi"
local array = require "sharearray.array"
local copy = require "sharearray.copy"
local dtype = require "sharearray.dtype"
local instance = require "sharearray.instance"
local layout = require "sharearray.layout"
local lazy = require "sharearray.lazy"
local library = require "sharearray.library"
local place_ = require "sharearray.place"
local shapes = require "sharearray.shape"
local view = require "sharearray.view"
local wait = require "sharearray.wait"
local C = require("sharearray.cdefs").C

local bundle = lazy "sharearray.bundle"

local M = {}

local HEADER = 10240 -- room for the header of an .npy file: NumPy reads none of more than 10,000 bytes

local new_message = library.new_message

local function delete_draft(draft) C.sharearray_draft_delete(draft) end

--- What is raised when the machine refuses: `cache` turns it into `nil, message, code`. A source that
-- catches it sees the message with `tostring`.
local Refusal = {}
Refusal.__index = Refusal
function Refusal.__tostring(refusal) return refusal.message end

function M.is_refusal(value) return getmetatable(value) == Refusal end

--- Raises a refusal: `nil, message, code` as values go around.
function M.raise(text, code) error(setmetatable({ message = text, code = code }, Refusal), 0) end

--- Raises a refusal for a negative return of the core's.
function M.refuse(id, code, text)
  local _, words, word = place_.failure(id, code, text)
  M.raise(words, word)
end

--- The CRC-32 `crc`, 0 to begin with, carried on over `size` bytes; or nil, message, code where zlib is not there.
function M.try_crc32(crc, pointer, size)
  local crc_out, message = ffi.new("uint32_t[1]", crc), new_message()
  local code = C.sharearray_crc32(pointer, size, crc_out, message)
  if code < 0 then return nil, ffi.string(message), code end
  return crc_out[0]
end

--- The same, which refuses the build of `id` where zlib is not there.
function M.crc32(id, crc, pointer, size)
  local sum, problem, code = M.try_crc32(crc, pointer, size)
  return sum or M.refuse(id, code, problem)
end

local Drafts = {}
Drafts.__index = Drafts

--- The drafts of one build.
function M.new(place, settings, id)
  return setmetatable({ place = place, settings = settings, id = id, list = {}, allocated = {} }, Drafts)
end

local function size_of(shape)
  local size = 1
  for _, n in ipairs(shape) do size = size * n end
  return size
end

local function header_of(type_, shape)
  local dims = ffi.new("uint64_t[?]", #shape + 1)
  for i, n in ipairs(shape) do dims[i - 1] = n end
  local header = ffi.new("char[?]", HEADER)
  local length = C.sharearray_npy_write(type_.descr, #shape, dims, header, HEADER)
  if length < 0 then
    M.raise(("sharearray: a dtype that takes %d characters to describe does not fit a header that NumPy reads"):format(
      #type_.descr), "unsupported")
  end
  return ffi.string(header, length)
end

--- Takes a `sharearray_draft *` over, to be given back with the others.
function Drafts:adopt(handle)
  local draft = ffi.gc(handle, delete_draft)
  self.list[#self.list + 1] = draft
  return draft
end

local function new_draft(self, bytes)
  local draft_out, message = ffi.new("sharearray_draft *[1]"), new_message()
  local code = C.sharearray_draft_new(self.place.handle, bytes, draft_out, message)
  if code < 0 then M.refuse(self.id, code, message) end
  return self:adopt(draft_out[0])
end

--- An empty file of so many bytes.
function Drafts:empty(bytes) return new_draft(self, bytes) end

--- Gives one draft back before the others.
function Drafts:discard(draft)
  for i, other in ipairs(self.list) do
    if other == draft then delete_draft(ffi.gc(table.remove(self.list, i), nil)) end
  end
end

-- A draft in memory, reserved in full: the draft, and its map with a reference for the caller.
local function mapped_draft(self, bytes)
  local draft = new_draft(self, bytes)
  local map_out, message = library.new_map_out(), new_message()
  local more
  repeat
    more = C.sharearray_draft_reserve(draft, wait.piece(self.settings), message)
    if more < 0 then M.refuse(self.id, more, message) end
    wait.breathe(self.settings)
  until more == 0
  local code = C.sharearray_draft_map(draft, map_out, message)
  if code < 0 then M.refuse(self.id, code, message) end
  return draft, map_out[0]
end

local function write(self, draft, pointer, bytes)
  local message = new_message()
  local code = C.sharearray_draft_write(draft, pointer, bytes, message)
  if code < 0 then M.refuse(self.id, code, message) end
  wait.breathe(self.settings)
end

-- Arrays ---------------------------------------------------------------------------------------------

-- Puts an array with its header at `at` into mapped memory.
local function place_array(map, at, header, type_, shape)
  ffi.copy(ffi.cast("char *", map.base) + at, header, #header)
  return instance.new(type_, shape, nil, ffi.cast("char *", map.base) + at + #header, map, true)
end

--- A zeroed array in a file of its own.
function Drafts:array(type_, shape)
  local header = header_of(type_, shape)
  local draft, map = mapped_draft(self, #header + size_of(shape) * type_.itemsize)
  local result = place_array(map, 0, header, type_, shape)
  C.sharearray_unref(map) -- the array has its own reference, and the draft another
  self.allocated[#self.allocated + 1] = { draft = draft, map = map, header = #header, nbytes = result.nbytes }
  return result
end

-- Whether `value` is all of the memory behind the header at `at`, whatever its shape is by now. A
-- header of the same length is then written for that shape.
local function fits(value, map, at, header_length, nbytes)
  if not view.is(value) or view.map(value) ~= map or value.nbytes ~= nbytes or not layout.contiguous(value) then
    return false
  end
  local start = ffi.cast("char *", map.base) + at
  local header = header_of(value.dtype, value.shape)
  if #header ~= header_length or ffi.cast("const char *", instance.pointer(value)) ~= start + header_length then
    return false
  end
  ffi.copy(start, header, #header)
  return true
end

-- The draft of an array from `alloc`, if that is what the value is.
local function draft_in_place(self, value)
  for _, entry in ipairs(self.allocated) do
    if not entry.members and fits(value, entry.map, 0, entry.header, entry.nbytes) then return entry.draft end
  end
end

-- What is to be written of an array: its header, how many bytes of data, and for `pieces_of` where they are.
local function content_of(value)
  local pointer, type_, shape, strides
  if view.is(value) then
    type_, shape = value.dtype, value.shape
  else
    pointer, type_, shape, strides = array.elements(value)
  end
  return {
    header = header_of(type_, shape), bytes = size_of(shape) * type_.itemsize,
    value = value, pointer = pointer, itemsize = type_.itemsize, shape = shape, strides = strides,
  }
end

-- `for pointer, bytes in pieces_of(self, content) do`: the data.
local function pieces_of(self, content)
  local value, limit = content.value, wait.piece(self.settings)
  if view.is(value) then return layout.pieces(value, limit) end
  return copy.pieces(content.pointer, content.itemsize, content.shape, content.strides, limit, value)
end

local function write_content(self, draft, content)
  write(self, draft, content.header, #content.header)
  for piece, size in pieces_of(self, content) do write(self, draft, piece, size) end
end

--- A draft that holds the array: its own, or a new one with a copy.
function Drafts:of_array(value)
  local draft = draft_in_place(self, value)
  if draft then return draft end
  local content = content_of(value)
  draft = new_draft(self, #content.header + content.bytes)
  write_content(self, draft, content)
  return draft
end

-- Bundles --------------------------------------------------------------------------------------------

-- A member's name without ".npy": the array's path, made fit for a zip file, and unlike the others.
local function member_name(path, taken)
  local stem = path:gsub("[%c\\\128-\255]", "_"):gsub("^/+", "_"):gsub("^$", "_"):gsub("%.%.", "__"):sub(1, 200)
  local name, count = stem, 1
  while taken[name] do
    count = count + 1
    name = ("%s~%d"):format(stem, count)
  end
  taken[name] = true
  return name
end

local function by_file(a, b) return a.file < b.file end

-- Puts arrays into the order of their members' names, in which a reader sees at once that no two are the same.
-- @tparam table arrays list of tables: `name`, the member's without ".npy"; gets `file`, with it
local function arrange(arrays)
  for _, content in ipairs(arrays) do content.file = content.name .. ".npy" end
  table.sort(arrays, by_file)
end

-- The members of a file to be, planned: a C array, which points to the names in `arrays`, how many there are, and the
-- size of the file.
-- @tparam table arrays list of tables with `file` and `size`, in bytes
-- @tparam[opt] number form bytes of the form, which is the last member
local function plan(self, arrays, form)
  local count = #arrays + (form and 1 or 0)
  local members = ffi.new("sharearray_member[?]", count)
  for i, content in ipairs(arrays) do
    members[i - 1].name, members[i - 1].name_length, members[i - 1].size = content.file, #content.file, content.size
  end
  if form then
    members[count - 1].name, members[count - 1].name_length, members[count - 1].size = bundle.FORM, #bundle.FORM, form
  end
  local bytes_out, message = ffi.new("uint64_t[1]"), new_message()
  local code = C.sharearray_npz_plan(members, count, bytes_out, message)
  if code < 0 then M.refuse(self.id, code, message) end
  return { c = members, arrays = arrays, count = count, bytes = tonumber(bytes_out[0]) }
end

-- Where content i (from 1) ends.
local function end_of(members, i)
  if i == 0 then return 0 end
  return tonumber(members.c[i - 1].offset + members.c[i - 1].size)
end

-- What stands in front of content i (from 1), or behind the last one.
local function frame(members, i)
  local stop = i <= members.count and tonumber(members.c[i - 1].offset) or members.bytes
  local size = stop - end_of(members, i - 1)
  local buffer = ffi.new("char[?]", size)
  C.sharearray_npz_frame(members.c, members.count, i - 1, buffer)
  return buffer, size
end

-- {dtype, shape}, and not a list of such: a shape is a number, or a list of numbers, perhaps none.
local function is_leaf(spec)
  local shape = spec[2]
  return type(shape) == "number" or type(shape) == "table" and (next(shape) == nil or type(shape[1]) == "number")
end

-- Makes a table like `spec`, of what `make` gives for each {dtype, shape}.
local function map_spec(spec, path, make)
  local result = {}
  for key, value in pairs(spec) do
    local where = path == "" and tostring(key) or path .. "/" .. tostring(key)
    if type(value) ~= "table" then
      error(("alloc: '%s' must be {dtype, shape} or a table of such, got %s"):format(where, type(value)), 0)
    end
    result[key] = is_leaf(value) and make(value, where) or map_spec(value, where, make)
  end
  return result
end

local function check_leaf(spec, path)
  local type_, problem = dtype.of(spec[1])
  local shape
  if type_ then shape, problem = shapes.check(spec[2]) end
  if not shape then error(("alloc: '%s': %s"):format(path, problem), 0) end
  return type_, shape
end

--- `alloc{ x = {"float32", {n, d}}, y = {"uint8", {n}} }`: all arrays of a bundle, zeroed, in one file.
function Drafts:arrays(spec)
  local leaves, by_path, taken = {}, {}, {}
  map_spec(spec, "", function(leaf, path)
    local type_, shape = check_leaf(leaf, path)
    local header, nbytes = header_of(type_, shape), size_of(shape) * type_.itemsize
    local entry = { name = member_name(path, taken), size = #header + nbytes, type = type_, shape = shape,
      header = header, nbytes = nbytes }
    leaves[#leaves + 1], by_path[#by_path + 1] = entry, entry
    return entry
  end)
  if #leaves == 0 then error("alloc: a table of arrays has none in it", 0) end
  M.crc32(self.id, 0, nil, 0) -- without zlib it is refused now, not when all of it is built
  arrange(leaves)
  local members = plan(self, leaves)
  local draft, map = mapped_draft(self, end_of(members, #leaves))
  for i, entry in ipairs(leaves) do entry.at = tonumber(members.c[i - 1].offset) end
  local index = 0 -- pairs goes through a table in the same order twice
  local result = map_spec(spec, "", function()
    index = index + 1
    local entry = by_path[index]
    return place_array(map, entry.at, entry.header, entry.type, entry.shape)
  end)
  C.sharearray_unref(map)
  self.allocated[#self.allocated + 1] = { draft = draft, map = map, members = leaves }
  return result
end

local function sum_bytes(self, crc, pointer, size)
  local most = wait.piece(self.settings)
  for at = 0, size - 1, most do
    crc = M.crc32(self.id, crc, pointer + at, math.min(most, size - at))
    wait.breathe(self.settings)
  end
  return crc
end

-- For each array the leaf of the group it fills, if they are all of the group and each only once.
local function match_group(group, arrays)
  if #arrays ~= #group.members then return nil end
  local order, used = {}, {}
  for i, value in ipairs(arrays) do
    for _, leaf in ipairs(group.members) do
      if not used[leaf] and fits(value, group.map, leaf.at, #leaf.header, leaf.nbytes) then
        order[i], used[leaf] = leaf, true
        break
      end
    end
    if not order[i] then return nil end
  end
  return order
end

-- Completes the file of a group: the frames between the members, and the form behind them.
local function finish_group(self, group, form)
  local members = plan(self, group.members, #form)
  local base = ffi.cast("char *", group.map.base)
  local last = members.count
  for i = 1, last - 1 do
    local member = members.c[i - 1]
    member.crc = sum_bytes(self, 0, base + member.offset, tonumber(member.size))
    local bytes, size = frame(members, i)
    ffi.copy(base + end_of(members, i - 1), bytes, size)
  end
  members.c[last - 1].crc = M.crc32(self.id, 0, form, #form)
  write(self, group.draft, frame(members, last))
  write(self, group.draft, form, #form)
  write(self, group.draft, frame(members, last + 1))
  return group.draft
end

local function copy_bundle(self, parts)
  local contents, names, taken = {}, {}, {}
  for i, value in ipairs(parts.arrays) do
    local content = content_of(value)
    names[i] = member_name(parts.paths[i], taken)
    content.name, content.size = names[i], #content.header + content.bytes
    contents[i] = content
  end
  local form = bundle.name(parts, names)
  arrange(contents)
  local members, last = plan(self, contents, #form), #contents + 1
  for i, content in ipairs(contents) do
    local crc = M.crc32(self.id, 0, content.header, #content.header)
    for piece, size in pieces_of(self, content) do crc = sum_bytes(self, crc, ffi.cast("const char *", piece), size) end
    members.c[i - 1].crc = crc
  end
  members.c[last - 1].crc = M.crc32(self.id, 0, form, #form)
  local draft = new_draft(self, members.bytes)
  for i, content in ipairs(contents) do
    write(self, draft, frame(members, i))
    write_content(self, draft, content)
  end
  write(self, draft, frame(members, last))
  write(self, draft, form, #form)
  write(self, draft, frame(members, last + 1))
  return draft
end

--- A draft that holds the bundle: that of `alloc{...}`, or a new one with copies.
-- @tparam table parts what `bundle.flatten` gave
function Drafts:of_bundle(parts)
  for _, group in ipairs(self.allocated) do
    local order = group.members and match_group(group, parts.arrays)
    if order then
      local names = {}
      for i, leaf in ipairs(order) do names[i] = leaf.name end
      return finish_group(self, group, bundle.name(parts, names))
    end
  end
  return copy_bundle(self, parts)
end

--- Gives all drafts back. Arrays that were not published stay private memory of their holder.
function Drafts:release()
  for _, draft in ipairs(self.list) do delete_draft(ffi.gc(draft, nil)) end
  self.list = {}
end

return M
