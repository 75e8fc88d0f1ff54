--- Announcements of new versions, for `sharearray.origin.redis`: one subscribed connection for each origin of
-- a process. In nginx a timer reads from it; elsewhere whoever looks up reads what has come, without waiting.
-- @module sharearray.origin.redis_news

local client_ = require "sharearray.origin.redis_client"
local C = require("sharearray.cdefs").C

local M = {}

local RETRY = 5000   -- ms between two tries to subscribe
local READ_MS = 1000 -- a reload waits for a timer's read: not longer than this
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
  if socket then
    assert(socket:send(("*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%s\r\n"):format(#self.channel, self.channel)))
  elseif client.subscribe and client.read_reply then
    assert(client:subscribe(self.channel))
  else
    client_.close(client)
    error("this client cannot listen", 0)
  end
  self.client, self.socket, self.all = client, socket, self.all + 1
end

-- One message from a socket: an array of bulk strings and numbers. nil: there was none in time.
local function read_message(socket)
  local line, problem, partial = socket:receive "*l"
  if not line then
    if problem == "timeout" and (partial or "") == "" then return nil end
    error(problem, 0)
  end
  local items = {}
  for i = 1, tonumber(line:match "^%*(%d+)") or 0 do
    local head = assert(socket:receive "*l")
    local size = tonumber(head:match "^%$(%d+)")
    items[i] = size and assert(socket:receive(size + 2)):sub(1, -3) or head:sub(2)
  end
  return items
end

-- In nginx ---------------------------------------------------------------------------------------------

local function read_on(self)
  while not ngx.worker.exiting() do
    local items, problem
    if self.socket then
      items = read_message(self.socket)
    else
      items, problem = self.client:read_reply()
      if not items and problem ~= "timeout" then error(problem, 0) end
    end
    if items then note(self, items[1], items[3]) end
  end
end

local function set_timeout(self)
  if self.socket then self.socket:settimeout(READ_MS) else self.client:set_timeout(READ_MS) end
end

local function listen(premature, self)
  if premature then return end
  local ok = pcall(subscribe, self)
  if ok then
    pcall(set_timeout, self)
    pcall(read_on, self)
  end
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
    if items then note(self, items[1], items[3]) end
  end
end

local function listen_between(self)
  local pid = self.connections:process()
  if self.pid ~= pid then -- a child leaves its parent's connection alone
    self.client, self.socket, self.pid, self.retry_at = nil, nil, pid, 0
  end
  if not self.client then
    if C.sharearray_clock() < self.retry_at then return end
    if not pcall(subscribe, self) or not self.socket then return lost(self) end
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
