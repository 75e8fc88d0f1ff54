--- Files as sources: `cache("train", sharearray.file "train.npy")`.
--
-- A source is only a name until a build runs it. The core then copies the file into a draft, in steps,
-- between which an event loop can breathe and the caller hears how far it is.
-- @module sharearray.file

local draft = require "sharearray.draft"
local ffi = require "ffi"
local lazy = require "sharearray.lazy"
local library = require "sharearray.library"
local wait = require "sharearray.wait"
local C = require("sharearray.cdefs").C

local bundle = lazy "sharearray.bundle"

local M = {}

local STEP = 16 * 2 ^ 20 -- bytes at most, for the sake of `progress`

local function delete_import(import) C.sharearray_import_delete(import) end

-- What each source means. The source itself is userdata, which a bundle refuses to hold.
local sources = setmetatable({}, { __mode = "k" })

local checks = {}

function checks.progress(value)
  if type(value) == "function" then return true end
  return false, "a function that takes the bytes done and the bytes in all"
end

--- A source that is an `.npy` or `.npz` file, of whatever byte order, axis order or compression.
-- Nothing is read before a build runs it; an `.npz` file becomes a bundle.
-- @tparam string path
-- @tparam[opt] table opts `progress`, called as `progress(bytes_done, bytes_total)` after each piece
function M.new(path, opts)
  if type(path) ~= "string" or path == "" or path:find("\0", 1, true) then
    error("the path of a file must be a string, got " .. (type(path) == "string" and ("%q"):format(path) or type(path)),
      2)
  end
  if opts ~= nil and type(opts) ~= "table" then error("options must be a table, not a " .. type(opts), 2) end
  local fields = { path = path }
  for name, value in pairs(opts or {}) do
    local check = checks[name]
    if not check then error(("unknown option '%s' (there is progress)"):format(tostring(name)), 2) end
    local right, expected = check(value)
    if not right then error(("option '%s' must be %s"):format(name, expected), 2) end
    fields[name] = value
  end
  local source = newproxy(true)
  local metatable = getmetatable(source)
  metatable.__tostring = function() return ("sharearray.file %q"):format(path) end
  metatable.__metatable = "sharearray.file"
  sources[source] = fields
  return source
end

--- Whether a value came from `new`.
function M.is(value) return sources[value] ~= nil end

-- A bundle of ours says in a member how it is put together. Better a word now than an entry that
-- nobody can read.
local function check_form(import, path)
  local length_out = ffi.new("uint64_t[1]")
  local form, arrays = C.sharearray_import_extra(import, length_out), {}
  if form == nil then return end
  local text = ffi.string(form, length_out[0])
  local members = C.sharearray_import_members(import, length_out)
  local count = tonumber(length_out[0])
  for i = 0, count - 1 do
    arrays[ffi.string(members[i].name, members[i].name_length):gsub("%.npy$", "")] = true
  end
  local result, problem = bundle.rebuild(text, arrays, count)
  if type(result) == "table" then return end
  draft.raise(("cannot import %s: its member %s is not usable: %s"):format(path, bundle.FORM,
    problem), "corrupt")
end

local function report(import, progress)
  local done_out, total_out = ffi.new("uint64_t[1]"), ffi.new("uint64_t[1]")
  C.sharearray_import_progress(import, done_out, total_out)
  local ok, problem = pcall(progress, tonumber(done_out[0]), tonumber(total_out[0]))
  if not ok then draft.raise(problem, "callback") end
end

local function copy(import, drafts, fields)
  check_form(import, fields.path)
  local draft_out, message = ffi.new("sharearray_draft *[1]"), library.new_message()
  local code = C.sharearray_import_draft(import, drafts.place.handle, draft_out, message)
  if code < 0 then draft.refuse(drafts.id, code, message) end
  local result = drafts:adopt(draft_out[0])
  local step = math.min(STEP, wait.piece(drafts.settings))
  repeat
    code = C.sharearray_import_step(import, result, step, message)
    if code < 0 then draft.refuse(drafts.id, code, message) end
    if fields.progress then report(import, fields.progress) end
    wait.breathe(drafts.settings)
  until code == 0
  return result
end

-- Ctrl-C works through a debug hook, which compiled code never looks at. LuaJIT refuses where a
-- finalizer is the first to use this module; no matter, it compiles nothing there either.
pcall(jit.off, copy)

--- A draft that holds what is in the file. Raises a refusal.
-- @param source what `new` gave
-- @param drafts those of the build
function M.draft(source, drafts)
  local fields = sources[source]
  local import_out, message = ffi.new("sharearray_import *[1]"), library.new_message()
  local code = C.sharearray_import_new(fields.path, bundle.FORM, import_out, message)
  if code < 0 then draft.refuse(drafts.id, code, message) end
  local import = ffi.gc(import_out[0], delete_import) -- an aborted coroutine leaves it to the collector
  local ok, result = pcall(copy, import, drafts, fields)
  delete_import(ffi.gc(import, nil))
  if not ok then error(result, 0) end
  return result
end

return M
