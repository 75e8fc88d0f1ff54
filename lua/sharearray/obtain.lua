--- The way to an array: look, build, or wait for another builder; and rebuild what has grown too old.
--
--     cache, get ----> attach --READY--> older than max_age? --yes--> renew: whatever goes wrong there,
--                       |  ^ \                                        the old version serves on
--                       |  |  BUILD ---> run the source, publish
--                       WAIT
--
-- An attach is all that most processes come for; the rest is loaded when it happens.
-- @module sharearray.obtain

local ffi = require "ffi"
local lazy = require "sharearray.lazy"
local library = require "sharearray.library"
local loop = require "sharearray.loop"
local place_ = require "sharearray.place"

local build = lazy "sharearray.build"
local builders = lazy "sharearray.builders"
local renewal = lazy "sharearray.renewal"
local wait = lazy "sharearray.wait"

local M = {}

local C, GET, YIELDS = library.C, library.GET, library.YIELDS

-- Interpreted code would look all these up, or parse them, at every call: those who waited for an array are woken
-- together, and each of them runs this with cold caches.
local READY, BUILD, WAIT, FILLED = library.READY, library.BUILD, library.WAIT, library.FILLED
local attach, remember = C.sharearray_attach, place_.remember
local new_ticket = ffi.typeof("sharearray_ticket")

-- What the core fills in, kept from an attach that is over. While one goes on, a finalizer may begin another.
local spare

local function new_outs()
  return { ticket = new_ticket(), map = library.new_map_out(), build = library.new_build_out(),
    message = library.new_message() }
end

local function recursive(id)
  return nil, ("sharearray: '%s': it is being built by this very coroutine: the function that builds an id must "
    .. "not ask for it"):format(id), "recursive"
end

-- Takes a build over, and loads what runs it. Where that fails, the lock must not be left to nobody.
local function own(handle)
  local loaded, run, take = pcall(function() return builders.run, build.own end)
  if loaded then return run, take(handle) end
  C.sharearray_build_delete(handle)
  error(run, 0)
end

--- `value`, or a newer one if it has grown too old or the origin has one. See sharearray.renewal.
function M.renewed(self, id, source, value)
  local settings = self.settings
  if not (settings.max_age or settings.origin) or source == nil then return value end
  return renewal.renewed(self, id, source, value)
end

--- The value of `id`, whatever it takes.
-- @param self the store; its place is open
-- @param source nil for `get`
-- @tparam number flags 0, SHAREARRAY_GET or SHAREARRAY_REFRESH
-- @return[1] a view, or the table of a bundle
-- @return[2] nil, message, code
function M.obtain(self, id, source, flags)
  local place, settings = self.place, self.settings
  local out = spare or new_outs()
  spare = nil
  local ticket, message = out.ticket, out.message
  local deadline = settings.timeout >= 0 and wait.deadline(settings) or nil
  local me = settings.sleep and builders.current()
  if me then
    -- Other coroutines of this thread go on while this one sleeps; it cannot wait for itself.
    if flags ~= GET and builders.is_recursive(place.path .. id, me) then return recursive(id) end
    flags = flags + YIELDS
  end
  local looked = loop.now()
  local step = attach(place.handle, id, flags, ticket, out.map, out.build, message)
  if step == WAIT then
    local value, code
    step, value, code = wait.attach(self, id, flags, ticket, deadline, out.map, out.build, message)
    if step == FILLED then return value end
    if not step then return nil, value, code end
  end
  if step == READY then
    local value, text, code = remember(self, id, out.map[0], ticket.layout, ticket.seen, looked)
    spare = out
    if value == nil then return nil, text, code end
    return M.renewed(self, id, source, value)
  end
  if step ~= BUILD then
    local _, text, code = place_.failure(id, step, message)
    spare = out
    return nil, text, code
  end
  local run, handle = own(out.build[0])
  local value, reason, code = run(self, id, handle, source, deadline, ticket)
  -- Another machine may have built it long ago.
  if reason == build.FETCHED and settings.max_age then return M.renewed(self, id, source, value) end
  if value ~= nil then return value end
  return nil, reason, code
end

return M
