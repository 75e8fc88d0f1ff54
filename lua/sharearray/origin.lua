--- Origins: what a store asks after its own directory, and fills after a build, so that many machines
-- run a function once.
--
-- An origin is a table with four methods. `key` is the entry's prefix and id. Each method may block as
-- long as it likes, but for a time limit of its own; each may raise, which counts as a failure.
--
--     origin:fetch(key, have, open)
--         Looks for a version of `key` other than `have` (a string, or nil: any), calls
--         `write = open(bytes)` with its size, then `write(pointer, size)` for all of its bytes in their
--         order, piece by piece: a Lua string or a `const char *`. Where `open` gives nil nothing is to
--         be copied. It may be called again, to start over.
--         Returns  version, crc      as `publish` was given them, when all is written
--                  nil               there is no other version, or `open` gave nil
--                  nil, message      the origin could not be asked
--                  version, nil, message   what it has of this version is damaged
--
--     origin:publish(key, entry, lease)
--         Makes the entry the current version, in one step: until then, and if it breaks off, `fetch`
--         has the old one. `entry` has `version` (a string of digits), `bytes`, `crc` (CRC-32, a
--         number), `kind` ("npy" or "npz"), `data` (`const char *`, valid during the call only), and
--         `breathe()`, to be called every now and then. Refuses if others took the lease meanwhile.
--         Returns true; or nil, message[, true where it may well succeed if tried again soon].
--
--     origin:lease(key)
--         The right to build `key` in the whole cluster, which ends by itself some time after its
--         holder died. Returns a lease; nil where another machine holds it; nil, message where the
--         origin could not be asked. A lease has `every`, in seconds, and the methods `renew()` (true;
--         or nil, message where it is lost), called that often or less, and `release()`.
--
--     origin:remove(key)
--         Returns whether there was something; or nil, message.
--
-- And it may have
--
--     required     true: what cannot ask the origin does not build by itself, but fails: `origin`
--     poll         seconds between two looks for a newer version, 1 if there is none
--     origin:news(key)    a number that changes when a new version of `key` was announced, without
--                  waiting for anything; nil where nobody listens. With it a look is needed only now
--                  and then, for what an announcement missed.
--
-- The version is the date of the content, and the entry's file bears it: whatever happens to a process,
-- the two cannot part. Versions are only ever compared for being the same: machines whose clocks differ
-- do no harm, and what the origin has is what counts.
-- @module sharearray.origin

local ffi = require "ffi"
local draft = require "sharearray.draft"
local library = require "sharearray.library"
local lifetime = require "sharearray.lifetime"
local wait = require "sharearray.wait"
local C = require("sharearray.cdefs").C

local M = {}

local POLL, LISTENING, HOLD_BACK = 1, 30, 10 -- seconds
local FIRST, LONGEST = 0.02, 0.25            -- seconds between two tries to get the lease
local AGAIN = { 0.5, 1, 2 }                  -- seconds between tries to publish
local PIECE = 4 * 2 ^ 20                     -- bytes to sum between two breaths

if not pcall(function() return ffi.C.getpid end) then ffi.cdef "int getpid(void);" end

local function to_string(version) return version ~= 0 and tostring(version):match("%d+") or nil end

-- nil for what would not come back as the same text, and so never be the version that a file bears.
local function to_version(text)
  if type(text) ~= "string" or not text:match("^%d+$") or #text < 10 or #text > 19 then return nil end
  local version = tonumber(text:sub(1, -10)) * 1000000000LL + tonumber(text:sub(-9))
  return version > 0 and to_string(version) == text and version or nil
end

-- What an origin's method returned, or nil, message.
local function ask(origin, method, ...)
  local ok, first, second, third = pcall(origin[method], origin, ...)
  if ok then return first, second, third end
  return nil, tostring(first)
end

-- Sessions -------------------------------------------------------------------------------------------

-- What passes between one build and the origin.
local Session = {}
Session.__index = Session

--- @param drafts those of the build
-- @param deadline when waiting for another machine ends, as in `wait`
-- @tparam[opt] boolean patient false: if another machine builds, be content with what is there
function M.session(drafts, deadline, patient)
  local place, settings, id = drafts.place, drafts.settings, drafts.id
  return setmetatable({
    drafts = drafts, deadline = deadline, patient = patient ~= false,
    place = place, settings = settings, id = id,
    origin = settings.origin, key = place.prefix .. id,
    have = to_string(C.sharearray_version(place.handle, id)),
  }, Session)
end

-- The origin is out of the game: this machine builds for itself, unless the user forbids it.
local function fail(self, what, reason)
  self.failed = true
  if self.origin.required then
    draft.raise(("sharearray: '%s': %s: %s"):format(self.id, what, reason), "origin")
  end
  wait.warn(self.settings, self.id, ("%s: %s; this machine goes on without it"):format(what, reason))
end

--- Throws away what was fetched, says so, and is content with anything else from now on.
function Session:reject(reason)
  wait.warn(self.settings, self.id, ("the origin's version %s is damaged and thrown away: %s"):format(self.fetched,
    reason))
  if self.draft then self.drafts:discard(self.draft) end
  self.have, self.draft, self.fetched = self.fetched, nil, nil
end

local function held_by(holder) return holder[1] or error("the build it belonged to is over", 0) end

local function take(self, pointer, size)
  self.crc = draft.crc32(self.id, self.crc, pointer, size)
  local message = library.new_message()
  local code = C.sharearray_draft_write(self.draft, pointer, size, message)
  if code < 0 then draft.refuse(self.id, code, message) end
end

-- A function for an origin to write with. A refusal of this machine's is kept: what becomes of it on
-- its way through foreign code is not known.
local function make_write(holder)
  local since = 0
  return function(pointer, size)
    local self = held_by(holder)
    self.written, since = self.written + size, since + size
    if self.written > self.bytes then error("more bytes than were announced", 0) end
    local taken, refusal = pcall(take, self, pointer, size)
    if not taken then
      self.refusal = refusal
      error(refusal, 0)
    end
    if since >= PIECE then
      since = 0
      wait.breathe(self.settings)
      self:alive()
    end
  end
end

local function make_open(holder)
  return function(bytes)
    local self = held_by(holder)
    if type(bytes) ~= "number" or bytes < 1 or bytes % 1 ~= 0 then error("open: a number of bytes is wanted", 0) end
    if self.draft then self.drafts:discard(self.draft) end
    self.draft = nil
    local ok, result = pcall(self.drafts.empty, self.drafts, bytes)
    if not ok then
      self.refusal = result
      error(result, 0)
    end
    self.draft, self.bytes, self.written, self.crc = result, bytes, 0, 0
    return make_write(holder)
  end
end

--- What the origin has and this machine has not, as a draft that is complete; nil if there is nothing.
function Session:fetch()
  if self.failed then return nil end
  local version, crc, reason = ask(self.origin, "fetch", self.key, self.have, make_open(lifetime.holder(self)))
  if self.refusal then error(self.refusal, 0) end
  if not version then
    if self.draft then self.drafts:discard(self.draft) end
    self.draft = nil
    if crc then fail(self, "the origin cannot be asked", crc) end
    return nil
  end
  self.fetched = version
  if type(crc) ~= "number" then reason = tostring(reason)
  elseif not to_version(version) then reason = "its version is no date"
  elseif not self.draft or self.written ~= self.bytes then reason = "it is shorter than it should be"
  elseif self.crc ~= crc then reason = ("its CRC-32 is %08x, not %08x"):format(self.crc, crc)
  else return self.draft
  end
  return self:reject(reason)
end

local function take_lease(self)
  local lease, reason = ask(self.origin, "lease", self.key)
  if not lease and reason then return fail(self, "the origin gives no lease", reason) end
  if lease then
    self.lease, self.renew_at, self.pid = lease, C.sharearray_clock() + lease.every * 1000, ffi.C.getpid()
  end
end

-- Sleeps, on the id's counter for want of anything else. False and why where nobody can.
local function pause(self, seconds)
  local ticket = ffi.new("sharearray_ticket", {
    seen = C.sharearray_changes_of(self.place.handle, self.id), recheck = seconds * 1000,
  })
  return wait.once(self.place, self.settings, self.id, ticket, seconds, 1)
end

local function wait_for_lease(self, round)
  local seconds = wait.remaining(self.deadline)
  if not self.patient then draft.raise("another machine is building it", "held") end
  if seconds == 0 then
    draft.raise(("sharearray: '%s': timed out after %g s: another machine is building it; wait longer (option timeout)")
      :format(self.id, self.settings.timeout), "timeout")
  end
  if round == 1 then wait.say(self.settings, self.id, "another machine is building it; waiting") end
  -- Not all at once: a thousand machines may be waiting.
  local longest = math.min(FIRST * 2 ^ round, LONGEST) * (0.75 + math.random() / 2)
  local slept, why = pause(self, math.min(seconds, longest))
  if slept == false then fail(self, "another machine is building it, and nobody can wait for it here", why) end
end

--- What the cluster has, as a draft; or nil: this process is to build it, most likely as the holder of the
-- lease. Raises a refusal.
function Session:obtain()
  local round = 0
  while true do
    local found = self:fetch()
    if found then
      self:release()
      return found
    end
    -- With the lease in hand it has looked once more.
    if self.lease or self.failed then return nil end
    take_lease(self)
    if not self.lease and not self.failed then
      round = round + 1
      wait_for_lease(self, round)
    end
  end
end

-- A child of a fork has its parent's lease before its eyes, and not in its hand.
local function held_lease(self) return self.lease and self.pid == ffi.C.getpid() and self.lease or nil end

--- To be called as often as one likes while the source runs: renews the lease.
function Session:alive()
  local lease = held_lease(self)
  if not lease or self.renewing or C.sharearray_clock() < self.renew_at then return end
  self.renewing, self.renew_at = true, C.sharearray_clock() + lease.every * 1000
  local renewed, reason = ask(lease, "renew")
  self.renewing = false
  if not renewed then
    wait.warn(self.settings, self.id, "the origin's lease is not renewed: " .. tostring(reason))
  end
end

-- A source that calls neither `alloc` nor `alive` for a long time most likely makes garbage: the
-- collector finalizes this proxy once in a cycle, and so calls from the midst of whatever is running.
-- Not under an event loop: there renewing may yield, which a finalizer cannot, and a timer does it.
local function renew_by_collector(holder)
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = function()
    local session = holder[1]
    if not session or not session.running then return end
    pcall(session.alive, session)
    renew_by_collector(holder)
  end
end

--- Calls the source with `alloc` and `alive`, and renews the lease meanwhile.
function Session:run(source, alloc)
  self.running = true
  local holder = lifetime.holder(self)
  if not self.settings.sleep then renew_by_collector(holder) end
  return source(alloc, function()
    if holder[1] then holder[1]:alive() end
  end)
end

--- Dates a draft that is about to be published: as the origin does, or now.
function Session:date(complete)
  self.running = false
  local version_out, message = ffi.new("int64_t[1]"), library.new_message()
  version_out[0] = self.fetched and to_version(self.fetched) or 0
  local code = C.sharearray_draft_version(complete, version_out, message)
  if code < 0 then draft.refuse(self.id, code, message) end
  self.version = to_string(version_out[0])
end

-- The CRC-32 of the file; nil, message.
local function sum(self, map)
  local crc, at, length = 0, 0, tonumber(map.length)
  while at < length do
    local size = math.min(PIECE, length - at)
    local problem
    crc, problem = draft.try_crc32(crc, ffi.cast("const char *", map.base) + at, size)
    if not crc then return nil, problem end
    at = at + size
    wait.breathe(self.settings)
    self:alive()
  end
  return crc
end

-- What an origin calls while it publishes.
local function make_breathe(holder)
  return function()
    local self = held_by(holder)
    wait.breathe(self.settings)
    self:alive()
  end
end

--- Gives what was built to the origin. It is published on this machine already, whatever comes of it.
function Session:publish(map)
  -- Without the lease nothing is published; nor is what another builder of this machine published first.
  if not held_lease(self) or to_string(C.sharearray_version(self.place.handle, self.id)) ~= self.version then return end
  local crc, problem = sum(self, map)
  if not crc then return wait.warn(self.settings, self.id, "not given to the origin: " .. problem) end
  local entry = {
    version = self.version, bytes = tonumber(map.length), crc = crc,
    kind = map.array.kind == 0 and "npz" or "npy", data = ffi.cast("const char *", map.base),
    breathe = make_breathe(lifetime.holder(self)),
  }
  local done, reason, again
  for round = 1, #AGAIN + 1 do
    done, reason, again = ask(self.origin, "publish", self.key, entry, self.lease)
    if done or not again or not AGAIN[round] or pause(self, AGAIN[round]) == false then break end
    self:alive()
  end
  if done then
    wait.say(self.settings, self.id, "given to the origin")
  else
    wait.warn(self.settings, self.id, "not given to the origin: " .. tostring(reason))
  end
end

--- Gives the lease back.
function Session:release()
  local lease = held_lease(self)
  self.running, self.lease = false, nil
  if lease then ask(lease, "release") end
end

-- Looks -----------------------------------------------------------------------------------------------

-- origin -> where and which -> when to look next, in ms, and the news at the last look
local looks = setmetatable({}, { __mode = "k" })
-- origin -> until when it is not asked, in ms: to hear that it is away may take seconds, for each id
local silent = setmetatable({}, { __mode = "k" })

local function look_of(origin, name)
  local of_origin = looks[origin]
  if not of_origin then
    of_origin = {}
    looks[origin] = of_origin
  end
  local look = of_origin[name]
  if not look then
    look = { at = 0 }
    of_origin[name] = look
  end
  return look
end

--- Whether the origin has another version than this machine: asks it now and then, or when told to.
function M.has_newer(place, settings, id)
  local origin = settings.origin
  local look, key = look_of(origin, place.path .. id), place.prefix .. id
  local now = C.sharearray_clock()
  if now < (silent[origin] or 0) then return false end
  local news = origin.news and ask(origin, "news", key) or nil
  if now < look.at and (news == look.news or look.held_back) then return false end
  local poll = news and math.max(LISTENING, origin.poll or 0) or origin.poll or POLL
  look.at, look.news, look.held_back = now + poll * 1000 * (0.9 + math.random() / 5), news, false
  -- In a phase of nginx that cannot wait nobody can be asked.
  if settings.sleep and settings.sleep(0) == false then return false end
  local newer = false
  local _, reason = ask(origin, "fetch", key, to_string(C.sharearray_version(place.handle, id)), function()
    newer = true
  end)
  if not newer and reason then
    wait.warn(settings, id, "the origin cannot be asked for a newer version: " .. tostring(reason))
    silent[origin] = C.sharearray_clock() + HOLD_BACK * 1000
  end
  return newer
end

--- Asks for this id again in a while only: what it has is of no use.
function M.hold_back(place, settings, id)
  local look = look_of(settings.origin, place.path .. id)
  look.at, look.held_back = C.sharearray_clock() + HOLD_BACK * 1000, true
end

--- Seconds since the content of what stands under the id was built, on whichever machine.
function M.age(place, id)
  local version = C.sharearray_version(place.handle, id)
  return version == 0 and 0 or os.time() - tonumber(version) / 1e9
end

--- Removes the entry from the origin.
-- @return[1] whether there was one
-- @return[2] nil, message, "origin" where it must not fail
function M.remove(place, settings, id)
  local removed, reason = ask(settings.origin, "remove", place.prefix .. id)
  if removed ~= nil then return removed end
  reason = "not removed from the origin: " .. tostring(reason)
  if settings.origin.required then return nil, ("sharearray: '%s': %s"):format(id, reason), "origin" end
  wait.warn(settings, id, reason)
  return false
end

return M
