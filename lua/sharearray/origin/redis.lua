--- An origin in Redis 6 or later, alone or as a Cluster.
--
--     local redis = require "sharearray.origin.redis"
--     local store = sharearray.new { origin = redis.new { host = "10.0.0.5" } }
--
-- All keys of an entry have its prefix and id as their hash tag, so that a Cluster has them on one node:
--
--     sharearray:{<key>}                 "<version> <bytes> <crc> <chunk bytes>": what is current
--     sharearray:{<key>}:<version>:<i>   chunk i of that version
--     sharearray:{<key>}:lease           the token of who builds; ends by itself
--     sharearray:{<key>}:fence           the token of who got the last lease; outlives it, until given back
--
-- A version is complete before the first key names it, and the old one's chunks stay a while for those who
-- are reading them. Chunks that nobody came to name end by themselves.
--
-- The fence: whoever publishes shows his token, and is refused if another one got the lease since: a holder that
-- was taken for dead, and was not, does no harm. A number would begin anew with a Redis that is restarted empty.
-- @module sharearray.origin.redis

local ffi = require "ffi"
local client = require "sharearray.origin.redis_client"
local common = require "sharearray.origin.common"
local news = require "sharearray.origin.redis_news"

local M = {}

local MIB = 2 ^ 20
local LARGEST = 2 ^ 53 -- bytes that a number counts exactly
local COPIES = 4 -- of a piece: that redis-lua makes
local FENCE_MS = 7 * 86400 * 1000
local ORPHAN_MS = 600 * 1000 -- and as much as a slow upload takes:
local SLOWEST = MIB / 1000   -- bytes in a ms

-- KEYS lease, fence; ARGV token, ms, ms of the fence. 0: somebody else has it. Asked again with the same token,
-- after a reply that was lost, it is granted again.
local ACQUIRE = [[
local token = redis.call('GET', KEYS[1])
if token and token ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1]]

-- KEYS lease, fence; ARGV token, ms. One that ended, and that nobody took since, is taken back.
local RENEW = [[
for _, key in ipairs(KEYS) do
  local token = redis.call('GET', key)
  if token and token ~= ARGV[1] then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1]]

-- KEYS lease, fence; ARGV token, ms of the fence. A renewal that is under way must not take it back: it is to find
-- the fence in another's hand. pcall, for a Redis that is full: there the lease goes all the same.
local RELEASE = [[
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.pcall('SET', KEYS[2], 'nobody', 'PX', ARGV[2]) end
return 1]]

-- Lets the chunks that a manifest names end after a while. Redis serves nobody meanwhile: so many that it would be
-- felt are those of a manifest that is damaged.
local EXPIRE_CHUNKS = [[
local function expire_chunks(manifest, text, ms)
  local version, bytes, _, chunk = string.match(text, '^(%d+) (%d+) (%d+) (%d+)$')
  local count = version and math.ceil(tonumber(bytes) / tonumber(chunk))
  if not count or count > 2 ^ 20 then return end
  for i = 0, count - 1 do
    redis.call('PEXPIRE', manifest .. ':' .. version .. ':' .. i, ms)
  end
end
]]

-- KEYS manifest, fence; ARGV token, manifest's text, first part of the chunks' names, their count, ms to live
-- (0: for ever), ms that the old chunks live on, channel, announcement, ms of the fence. A fence that is
-- gone (Redis was restarted empty) has let nobody by.
local COMMIT = EXPIRE_CHUNKS .. [[
local token = redis.call('GET', KEYS[2])
if token and token ~= ARGV[1] then return 'fenced' end
local live = tonumber(ARGV[5])
for i = 0, ARGV[4] - 1 do
  local chunk = ARGV[3] .. i
  if redis.call('EXISTS', chunk) == 0 then return 'lost' end
  if live > 0 then redis.call('PEXPIRE', chunk, live) else redis.call('PERSIST', chunk) end
end
local old = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2])
if live > 0 then redis.call('PEXPIRE', KEYS[1], live) end
if not token then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[9]) end
if old and old ~= ARGV[2] then expire_chunks(KEYS[1], old, ARGV[6]) end
redis.call('PUBLISH', ARGV[7], ARGV[8])
return 'ok']]

-- KEYS manifest; ARGV ms that the chunks live on.
local REMOVE = EXPIRE_CHUNKS .. [[
local old = redis.call('GET', KEYS[1])
if not old then return 0 end
expire_chunks(KEYS[1], old, ARGV[1])
return redis.call('DEL', KEYS[1])]]

local function ms(seconds) return ("%.0f"):format(math.max(1, seconds * 1000)) end

local function manifest_of(key) return "sharearray:{" .. key .. "}" end

local function parse(text)
  local version, bytes, crc, chunk = text:match("^(%d+) (%d+) (%d+) (%d+)$")
  if not version or tonumber(bytes) == 0 or tonumber(bytes) > LARGEST or tonumber(chunk) == 0 then return nil end
  return version, tonumber(bytes), tonumber(crc), tonumber(chunk)
end

-- Chunks travel in pieces, of which a client has a copy or two in Lua strings. Those of one chunk: from, to
-- (the last byte), counted within it.
local function pieces(size, limit)
  local list = {}
  for from = 0, size - 1, limit do list[#list + 1] = { from, math.min(from + limit, size) - 1 } end
  return list
end

local Redis = {}
Redis.__index = Redis

-- Fetch ---------------------------------------------------------------------------------------------------

-- The copies of a piece are garbage at once. Left to itself the collector lets it pile up to the size of
-- all that the program keeps.
local function collect(self) collectgarbage("step", self.piece * COPIES / 1024) end

-- Copies all chunks; false and the number of the one that is not what it should be.
local function copy(self, command, manifest, version, bytes, chunk, write)
  for i = 0, math.ceil(bytes / chunk) - 1 do
    local name = ("%s:%s:%d"):format(manifest, version, i)
    for _, piece in ipairs(pieces(math.min(chunk, bytes - i * chunk), self.piece)) do
      local text = command("getrange", name, piece[1], piece[2])
      if not text or #text ~= piece[2] - piece[1] + 1 then return false, i end
      write(text, #text)
      collect(self)
    end
  end
  return true
end

local function fetch(command, self, key, have, open)
  local manifest = manifest_of(key)
  local text = command("get", manifest)
  while text do
    local version, bytes, crc, chunk = parse(text)
    if not version then return "0", nil, "its manifest is not one" end
    if version == have then return nil end
    local write = open(bytes)
    if not write then return nil end
    local complete, at = copy(self, command, manifest, version, bytes, chunk, write)
    if complete then return version, crc end
    -- It may have been replaced more than a while ago: then there is a newer one to copy.
    local now = command("get", manifest)
    if now == text then return version, nil, ("chunk %d of %d is lost"):format(at + 1, math.ceil(bytes / chunk)) end
    text = now
  end
  return nil
end

function Redis:fetch(key, have, open)
  return self.connections:run(key, fetch, self, key, have, open)
end

-- Publish -------------------------------------------------------------------------------------------------

local function chunk_name(key, version, i) return ("%s:%s:%d"):format(manifest_of(key), version, i) end

local function upload(self, command, key, entry, i)
  local name, start = chunk_name(key, entry.version, i), i * self.chunk
  -- First of all it gets its end, lest it stay for ever if this process dies.
  command("set", name, "", "PX", math.ceil(ORPHAN_MS + entry.bytes / SLOWEST))
  -- Backwards, so that Redis reserves the whole chunk at once.
  local list = pieces(math.min(self.chunk, entry.bytes - start), self.piece)
  for j = #list, 1, -1 do
    local from, to = list[j][1], list[j][2]
    command("setrange", name, from, ffi.string(entry.data + start + from, to - from + 1))
    collect(self)
    entry.breathe()
  end
end

-- After a reply that was lost it may be current already: then its chunks are not to be touched any more.
local function is_current(command, key, entry)
  local text = command("get", manifest_of(key))
  return text and parse(text) == entry.version
end

local function publish(command, self, key, entry, lease)
  if is_current(command, key, entry) then return "ok" end
  local count = math.ceil(entry.bytes / self.chunk)
  for i = 0, count - 1 do upload(self, command, key, entry, i) end
  local manifest = manifest_of(key)
  local text = ("%s %.0f %.0f %.0f"):format(entry.version, entry.bytes, entry.crc, self.chunk)
  local live = self.expire and ms(self.expire) or 0
  return command("eval", COMMIT, 2, manifest, manifest .. ":fence", lease.token, text,
    ("%s:%s:"):format(manifest, entry.version), count, live, ms(self.grace), self.channel,
    key .. " " .. entry.version, FENCE_MS)
end

local REFUSALS = {
  fenced = "this machine was taken for dead, and another one has the lease or had it: refused",
  lost = "Redis lost a chunk while others were written",
}

-- Errors of Redis' own that pass, such as while it is being restarted, or fails over. What is none of its own is
-- the connection's.
local PASSING = { LOADING = true, CLUSTERDOWN = true, MASTERDOWN = true, TRYAGAIN = true, READONLY = true, BUSY = true }

local function delete_chunks(command, self, key, entry)
  if is_current(command, key, entry) then return true end
  for i = 0, math.ceil(entry.bytes / self.chunk) - 1 do command("del", chunk_name(key, entry.version, i)) end
end

-- What a publication that broke off leaves would end by itself, but a full Redis wants the room now. True where it
-- did not break off.
local function clean_up(self, key, entry)
  local _, done = pcall(self.connections.run, self.connections, key, delete_chunks, self, key, entry)
  return done == true
end

function Redis:publish(key, entry, lease)
  local ok, result = pcall(self.connections.run, self.connections, key, publish, self, key, entry, lease)
  if ok and result == "ok" then return true end
  if clean_up(self, key, entry) then return true end
  result = tostring(result)
  if ok then return nil, REFUSALS[result] or result, result == "lost" end
  return nil, result, not result:find "^%u+ " or PASSING[result:match "^%u+"]
end

-- Lease ---------------------------------------------------------------------------------------------------

local Lease = {}
Lease.__index = Lease

local function renew(origin, key, token)
  local manifest = manifest_of(key)
  return origin.connections:run(key, function(command)
    return command("eval", RENEW, 2, manifest .. ":lease", manifest .. ":fence", token, ms(origin.period))
  end) == 1
end

local function release(origin, key, token)
  local manifest = manifest_of(key)
  origin.connections:run(key, function(command)
    return command("eval", RELEASE, 2, manifest .. ":lease", manifest .. ":fence", token, FENCE_MS)
  end)
end

function Lease:renew()
  if renew(self.origin, self.key, self.token) then return true end
  return nil, "another machine has it"
end

function Lease:release()
  self.over = true
  release(self.origin, self.key, self.token)
end

-- In nginx a source may sleep for long: a timer renews, as long as there is a lease to be renewed. One whose
-- request was aborted goes with the coroutine that held it, and is given back here.
local function renew_by_timer(origin, lease)
  local holder = setmetatable({ lease }, { __mode = "v" })
  local key, token, every = lease.key, lease.token, lease.every
  local function tick(premature)
    local held = holder[1]
    if held and held.over then return end
    if premature or not held then
      pcall(release, origin, key, token)
      return
    end
    pcall(renew, origin, key, token)
    ngx.timer.at(every, tick)
  end
  pcall(ngx.timer.at, every, tick)
end

function Redis:lease(key)
  local manifest, token = manifest_of(key), common.token()
  local granted = self.connections:run(key, function(command)
    return command("eval", ACQUIRE, 2, manifest .. ":lease", manifest .. ":fence", token, ms(self.period), FENCE_MS)
  end)
  if granted == 0 then return nil end
  local lease = setmetatable({ origin = self, key = key, token = token, every = self.period / 3 }, Lease)
  if ngx and ngx.timer and ngx.get_phase() ~= "init" then renew_by_timer(self, lease) end
  return lease
end

-- The rest ------------------------------------------------------------------------------------------------

function Redis:remove(key)
  return self.connections:run(key, function(command)
    return command("eval", REMOVE, 1, manifest_of(key), ms(self.grace))
  end) == 1
end

function Redis:news(key) return self.announcements:of(key) end

local checks = { host = common.text, port = common.natural(65535), timeout = common.seconds,
  chunk = common.natural(512 * MIB), piece = common.natural(512 * MIB), lease = common.seconds,
  expire = common.seconds, grace = common.seconds, poll = common.seconds, required = common.boolean }

local DEFAULTS = { host = "127.0.0.1", port = 6379, timeout = 2, chunk = 16 * MIB, piece = MIB / 4, lease = 30,
  grace = 60 }

function checks.connect(value) return type(value) == "function", "a function that returns a client" end

--- An origin. Nothing is asked before it is used.
-- @tparam[opt] table opts
--   host, port ("127.0.0.1", 6379); or connect(host, port), which returns a connected client, with TLS and a
--   password if need be: host and port are nil, or those of a Cluster's node.
--   timeout: seconds for one command (2); not with connect.
--   chunk: bytes of a Redis value (16 MiB). piece: bytes in one command (256 KiB), larger where the way to Redis is
--   long: a process holds a few of them.
--   lease: seconds after which a dead builder is replaced (30).
--   expire: seconds after which Redis forgets an entry (never).
--   grace: seconds that a replaced version's chunks stay for those who are reading them (60).
--   poll, required: see `sharearray.origin`.
function M.new(opts)
  local values = common.options(opts, DEFAULTS, checks)
  local connections = client.new(values)
  local channel = "sharearray:news"
  return setmetatable({
    connections = connections, channel = channel, announcements = news.new(connections, channel),
    chunk = values.chunk, piece = values.piece, period = values.lease, expire = values.expire, grace = values.grace,
    poll = values.poll, required = values.required,
  }, Redis)
end

return M
