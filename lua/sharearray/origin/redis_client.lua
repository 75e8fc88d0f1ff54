--- Connections to Redis, for `sharearray.origin.redis`: whose client speaks, which are kept, and which node
-- of a Cluster has a key.
--
--     where                          client
--     nginx, a phase with cosockets  resty.redis; without it redis-lua over a cosocket: neither blocks
--     nginx's start, any other Lua   redis-lua over LuaSocket
--     option `connect`               whatever it returns
--
-- Of a client only this is asked: methods `get`, `set`, `getrange`, `setrange`, `del` and `eval` (and `asking`, for a
-- Cluster whose slots move), which return the reply, or raise, or return nil or false and a message.
-- @module sharearray.origin.redis_client

local ffi = require "ffi"

local M = {}

local KEPT_MS, KEPT = 30000, 16 -- of nginx's own pool: how long, how many in a worker
local REDIRECTIONS = 5

-- Phases with cosockets, and those in which nobody minds if the process blocks.
local COSOCKETS = { server_rewrite = true, rewrite = true, access = true, content = true, timer = true, preread = true,
  ssl_cert = true, ssl_session_fetch = true, ssl_client_hello = true }
local BLOCKS = { init = true, init_worker = true }

if not pcall(function() return ffi.C.getpid end) then ffi.cdef "int getpid(void);" end

local function optional(module)
  local ok, result = pcall(require, module)
  return ok and result or nil
end

local function need(module, why)
  return optional(module) or error(("the Lua module %s is missing (%s)"):format(module, why), 0)
end

local function nginx_phase() return ngx and ngx.get_phase and ngx.get_phase() or nil end

local function with_resty(resty, host, port, timeout)
  local client = resty:new()
  client:set_timeout(timeout * 1000)
  local ok, problem = client:connect(host, port)
  if not ok then error(("could not connect to %s:%d [%s]"):format(host, port, tostring(problem)), 0) end
  return client
end

local function over_cosocket(host, port, timeout)
  local redis = need("redis", "resty.redis would do too; Debian's lua-redis has it")
  local socket = ngx.socket.tcp()
  socket:settimeout(timeout * 1000)
  local ok, problem = socket:connect(host, port)
  if not ok then error(("could not connect to %s:%d [%s]"):format(host, port, tostring(problem)), 0) end
  local client = redis.connect { socket = socket }
  client.set_keepalive = function(self, ...) return self.network.socket:setkeepalive(...) end
  return client
end

local function over_luasocket(host, port, timeout)
  local redis = need("redis", "Debian's lua-redis has it")
  return redis.connect { host = host, port = port, timeout = timeout }
end

-- A new client of the node at this address.
local function connect(self, host, port)
  if self.connect then
    local client, problem = self.connect(host, port)
    if not client then error("the user's connect failed: " .. tostring(problem), 0) end
    return client
  end
  host, port = host or self.host, port or self.port
  local phase = nginx_phase()
  if not phase or BLOCKS[phase] then return over_luasocket(host, port, self.timeout) end
  if not COSOCKETS[phase] then error(("the phase %s cannot speak to Redis"):format(phase), 0) end
  local resty = optional "resty.redis"
  if resty then return with_resty(resty, host, port, self.timeout) end
  return over_cosocket(host, port, self.timeout)
end

--- The socket under a client of redis-lua's or resty.redis', else nil. To listen on it and do other things too:
-- both clients would wait for the next message.
function M.socket_of(client)
  if type(client) ~= "table" then return nil end
  if type(client.network) == "table" then return client.network.socket end
  return rawget(client, "_sock")
end

--- Closes a client, of whatever kind.
function M.close(client)
  local socket = M.socket_of(client)
  if socket then
    pcall(socket.close, socket)
  elseif client.close then
    pcall(client.close, client)
  end
end

local Connections = {}
Connections.__index = Connections

--- @param options host, port, timeout in seconds; or connect
function M.new(options)
  return setmetatable({
    host = options.host, port = options.port, timeout = options.timeout, connect = options.connect,
    idle = {},  -- address -> a client
    nodes = {}, -- key -> address, where that is not the first node
  }, Connections)
end

--- A client of one's own, to be closed by `close`.
function Connections:open() return connect(self) end

--- The pid: a child must not speak on its parent's connections.
function Connections:process()
  local pid = ffi.C.getpid()
  if self.pid ~= pid then self.idle, self.pid = {}, pid end
  return pid
end

local function take(self, address)
  self:process()
  local client = self.idle[address]
  if client then
    self.idle[address] = nil
    return client, true
  end
  return connect(self, address:match("^(.*):(%d+)$"))
end

local function keep(self, address, client)
  local phase = nginx_phase()
  if client.set_keepalive and phase and not BLOCKS[phase] then
    pcall(client.set_keepalive, client, KEPT_MS, KEPT)
  elseif phase or self.idle[address] then
    M.close(client)
  else
    self.idle[address] = client
  end
end

-- One command: the reply, nil for Redis's nil; or nil, message.
local function invoke(client, name, ...)
  local method = client[name]
  if not method then return nil, ("the Redis client has no command '%s'"):format(name) end
  local ok, reply, problem = pcall(method, client, ...)
  if not ok then return nil, (tostring(reply):gsub("^.*redis error: ", "")) end
  if (reply == nil or reply == false) and problem then return nil, tostring(problem) end
  if reply == false or (ngx and reply == ngx.null) then return nil end
  return reply
end

-- Tells a node that it is to answer for a slot which is on its way to it. redis-lua has no name for this.
local function ask(client)
  local _, problem
  if client.raw_cmd then _, problem = invoke(client, "raw_cmd", "ASKING") else _, problem = invoke(client, "asking") end
  if problem then error(problem, 0) end
end

local function address_in(problem, host)
  local new_host, port = problem:match("^%u+ %d+ (%S*):(%d+)")
  if not port then return nil end
  return (new_host ~= "" and new_host or host) .. ":" .. port
end

-- What `run` passes to its work: command(name, ...) returns the reply, or raises. No closure: code that LuaJIT
-- compiled for one would keep the connection of a coroutine that was dropped for ever.
local Command = {}

local function converse(self, key)
  local address = self.nodes[key] or ("%s:%d"):format(self.host or "", self.port or 0)
  if self.connect and not self.nodes[key] then address = "" end
  local command = setmetatable({ connections = self, key = key, address = address }, Command)
  command.client, command.reused = take(self, address)
  return command
end

local function move(command, to)
  keep(command.connections, command.address, command.client)
  command.client, command.address = nil, to -- nil: should the next line raise
  command.client, command.reused = take(command.connections, to)
end

function Command.__call(self, name, ...)
  for _ = 1, REDIRECTIONS do
    local reply, problem = invoke(self.client, name, ...)
    if not problem then
      self.reused = false
      return reply
    end
    local host = self.address:match("^(.*):") or ""
    if problem:find("^MOVED ") then
      move(self, address_in(problem, host))
      self.connections.nodes[self.key] = self.address
    elseif problem:find("^ASK ") then
      move(self, address_in(problem, host))
      ask(self.client)
    elseif self.reused then -- the connection may have been dead for hours
      M.close(self.client)
      self.client, self.reused = connect(self.connections, self.address:match("^(.*):(%d+)$")), false
    else
      error(problem, 0)
    end
  end
  error("redirected too often", 0)
end

--- Calls `work(command, ...)` with a connection to the node that has `key`, and returns what it returns.
-- A failure closes the connection: nobody knows what would come through it next.
function Connections:run(key, work, ...)
  local command = converse(self, key)
  local ok, first, second, third = pcall(work, command, ...)
  if ok then
    keep(self, command.address, command.client)
    return first, second, third
  end
  if command.client then M.close(command.client) end
  self.nodes[key] = nil -- it may be that node which is gone
  error(first, 0)
end

return M
