--- For the specs: real Redis servers, alone or as a Cluster of three, on free ports of the loopback interface
-- and in temporary folders.
local machine = require "support.machine"
local nginx = require "support.nginx"

local M = {}

--- Whether there is a Redis, and a client for LuaJIT; else nil and why.
function M.is_there()
  if not select(2, machine.shell "command -v redis-server && command -v redis-cli") then
    return nil, "needs redis-server"
  end
  if not pcall(require, "redis") or not pcall(require, "socket") then return nil, "needs Debian's lua-redis" end
  return true
end

local Server = {}
Server.__index = Server

-- Options of redis-server, over these.
local function arguments(self, options)
  local list = { "redis-server", "--port", tostring(self.port), "--bind", "127.0.0.1", "--dir", self.home, "--save", "",
    "--appendonly", "no", "--logfile", self.home .. "/log" }
  for name, value in pairs(options) do
    list[#list + 1] = "--" .. name
    list[#list + 1] = tostring(value)
  end
  return list
end

function Server:launch()
  self.process = machine.start(arguments(self, self.options))
  nginx.eventually(function() return self:cli "ping" == "PONG" end, "Redis")
end

--- Starts a server; `options` are redis-server's, without their dashes.
function M.start(options)
  local self = setmetatable({ home = machine.directory "/tmp", port = nginx.free_port(), options = options or {} },
    Server)
  self:launch()
  return self
end

--- What redis-cli says to a command, without the last line's end.
function Server:cli(command)
  return (machine.shell(("redis-cli -h 127.0.0.1 -p %d %s"):format(self.port, command)):gsub("\n$", ""))
end

--- The names of all keys, sorted.
function Server:keys()
  local list = {}
  for name in self:cli("--scan"):gmatch "%S+" do list[#list + 1] = name end
  table.sort(list)
  return list
end

function Server:kill(signal) self.process:kill(signal) end

--- Ends the server as a machine's crash does, and waits for that.
function Server:crash()
  self.process:kill(machine.SIGKILL)
  self.process:wait()
  self.process = nil
end

function Server:stop()
  if self.process then self:crash() end
  machine.remove(self.home)
end

--- Three nodes that share the slots: a list of servers.
function M.cluster()
  local nodes = {}
  for i = 1, 3 do
    nodes[i] = M.start { ["cluster-enabled"] = "yes", ["cluster-port"] = nginx.free_port() }
  end
  for i, node in ipairs(nodes) do
    node:cli(("cluster addslotsrange %d %d"):format((i - 1) * 5461, i == 3 and 16383 or i * 5461 - 1))
    node:cli(("cluster meet 127.0.0.1 %d %d"):format(nodes[1].port, nodes[1].options["cluster-port"]))
  end
  for _, node in ipairs(nodes) do
    nginx.eventually(function()
      local info = node:cli "cluster info"
      return info:find "cluster_state:ok" and info:find "cluster_known_nodes:3"
    end, "the cluster")
  end
  return nodes
end

return M
