--- Announcements of new versions, for `sharearray.origin.redis`: one subscribed connection for each origin of
-- a process. In nginx a timer reads from it; elsewhere whoever looks up reads what has come, without waiting.
-- @module sharearray.origin.redis_news

local client_ = require "sharearray.origin.redis_client"
local C = require("sharearray.cdefs").C

local M = {}

local RETRY = 5000                  -- ms between two tries to subscribe
local PING, SILENCE = 20, 60 * 1000 -- in nginx: seconds, and ms after which the other side counts as dead
local ONCE = 3       -- of sharearray_first()

local News = {}
News.__index = News

--- @param connections what `redis_client.new` gave
-- @tparam string channel
function M.new(connections, channel)
  return setmetatable({ connections = connections, channel = channel, counts = {}, all = 0, retry_at = 0 }, News)
end

-- A message is "<key> <version>".
local function note(self, kind, text)
  local key = kind == "message" and text:match("^(%S+) ")
  if key then self.counts[key] = (self.counts[key] or 0) + 1 end
end

-- While nobody listened anything may have been announced.
local function lost(self)
  if self.client then client_.close(self.client) end
  self.client, self.socket = nil, nil
  self.retry_at = C.sharearray_clock() + RETRY
end

local function subscribe(self)
  local client = self.connections:open()
  local socket = client_.socket_of(client)
  if not socket then
    client_.close(client)
    error("this client cannot listen", 0)
  end
  self.client, self.socket = client, socket
  assert(socket:send(("*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%s\r\n"):format(#self.channel, self.channel)))
  self.all = self.all + 1
end

-- One message from a socket: an array of bulk strings and numbers.
local function read_message(socket)
  local line, items = assert(socket:receive "*l"), {}
  for i = 1, tonumber(line:match "^%*(%d+)") or 0 do
    local head = assert(socket:receive "*l")
    local size = tonumber(head:match "^%$(%d+)")
    items[i] = size and assert(socket:receive(size + 2)):sub(1, -3) or head:sub(2)
  end
  return items
end

-- In nginx ---------------------------------------------------------------------------------------------

local function read_on(self)
  pcall(function()
    while true do
      local items = read_message(self.socket)
      note(self, items[1], items[3])
    end
  end)
  self.reading = false
end

-- A read that waits for long would hold a reload up, and one that times out is logged as an error: so a light
-- thread reads, this one looks after the worker and pings, and the answers are messages too.
local function watch(self)
  self.socket:settimeout(SILENCE)
  self.reading = true
  local reader = ngx.thread.spawn(read_on, self)
  local seconds = 0
  while self.reading and not ngx.worker.exiting() do
    ngx.sleep(1)
    seconds = seconds + 1
    if seconds % PING == 0 then assert(self.socket:send "*1\r\n$4\r\nPING\r\n") end
  end
  if self.reading then ngx.thread.kill(reader) end
end

local function listen(premature, self)
  if premature then return end
  if pcall(subscribe, self) then pcall(watch, self) end
  lost(self)
  if not ngx.worker.exiting() then ngx.timer.at(RETRY / 1000, listen, self) end
end

-- With nginx's code cache off each request has an origin of its own, which a timer would keep for ever:
-- the first one in a worker has it.
local function start_timer(self)
  if self.started or ngx.get_phase() == "init" then return end
  self.started = true
  if C.sharearray_first(ONCE) == 1 then ngx.timer.at(0, listen, self) end
end

-- Elsewhere ----------------------------------------------------------------------------------------------

local function drain(self)
  local select = require("socket").select
  while select({ self.socket }, nil, 0)[1] do
    local items = read_message(self.socket)
    note(self, items[1], items[3])
  end
end

local function listen_between(self)
  local pid = self.connections:process()
  if self.pid ~= pid then -- a child leaves its parent's connection alone
    self.client, self.socket, self.pid, self.retry_at = nil, nil, pid, 0
  end
  if not self.client then
    if C.sharearray_clock() < self.retry_at then return end
    if not pcall(subscribe, self) then return lost(self) end
  end
  if not pcall(drain, self) then lost(self) end
end

--- A number that changes when `key` was announced; nil where nobody listens.
function News:of(key)
  if ngx and ngx.timer then start_timer(self) else listen_between(self) end
  if not self.client then return nil end
  return self.all + (self.counts[key] or 0)
end

return M
