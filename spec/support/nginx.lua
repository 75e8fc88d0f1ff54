--- For the specs: a real nginx with its Lua module, a master and its workers, on a Unix socket.
local cjson = require "cjson"
local ffi = require "ffi"
local machine = require "support.machine"

local M = {}

local PATIENCE = 60 -- seconds; generous, since machines are busy

local MODULES = "/usr/lib/nginx/modules/"

-- `ffi.C.access` would do too; io.open needs no declaration.
local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

--- Whether there is an nginx with Lua to be had; else nil and why.
function M.is_there()
  if not exists(MODULES .. "ngx_http_lua_module.so") or not machine.shell("command -v nginx"):find("nginx") then
    return nil, "needs nginx with its Lua module"
  end
  return true
end

--- Calls `check` again and again until it returns something true, which is returned.
function M.eventually(check, what, seconds)
  local deadline = machine.now() + (seconds or PATIENCE)
  while true do
    local result = check()
    if result then return result end
    if machine.now() > deadline then error("waited in vain for " .. what, 2) end
    ffi.C.poll(nil, 0, 5)
  end
end

local CONFIGURATION = [[
load_module %(modules)ndk_http_module.so;
load_module %(modules)ngx_http_lua_module.so;
daemon off;
worker_processes %(workers);
pid %(home)/pid;
error_log %(home)/error.log notice;
%(user)
%(main)
events { worker_connections 1024; accept_mutex off; }
http {
  access_log off;
  client_body_temp_path %(home)/t1; proxy_temp_path %(home)/t2; fastcgi_temp_path %(home)/t3;
  uwsgi_temp_path %(home)/t4; scgi_temp_path %(home)/t5;
  keepalive_requests 1000000;
  lua_package_path "%(home)/lua/?.lua;%(home)/lua/?/init.lua;%(path)";
  lua_package_cpath "%(home)/lib/?.so;%(cpath)";
  lua_shared_dict counts 1m;
  %(http)
  server {
    listen unix:%(home)/socket;
    lua_check_client_abort on;
    %(server)
  }
}
]]

-- What every location may use, loaded in front of its code.
local PRELUDE = [[
local sharearray = require "sharearray.resty"
local counts = ngx.shared.counts
local function count(what) return (counts:incr(what, 1, 0)) end
]]

--- A location whose content is this Lua text, with `sharearray` and `count(what)` at hand.
function M.location(path, code)
  return ("location %s { content_by_lua_block {\n%s%s\n} }\n"):format(path, PRELUDE, code)
end

local Server = {}
Server.__index = Server

--- A port of the loopback interface that nobody uses.
function M.free_port()
  return tonumber((machine.shell([[/usr/bin/python3 -c 'import socket; s = socket.socket()
s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])']])))
end

-- The library's files where any worker's user can read them.
local function make_home(prefix)
  local home = machine.directory("/tmp")
  local core = prefix and prefix .. "/lib/lua/5.1/sharearray/core.so"
    or assert(package.searchpath("sharearray.core", package.cpath))
  local modules = prefix and prefix .. "/share/lua/5.1/sharearray" or "lua/sharearray"
  assert(select(2, machine.shell(([[
    cd '%s' && mkdir -p lib/sharearray lua && cp '%s' lib/sharearray/ && cd - && cp -r '%s' '%s/lua' &&
      chmod -R a+rX '%s']]):format(home, core, modules, home, home))))
  return home
end

--- Starts a server: `options` has `server` and `http` (text for these blocks), `main`, `workers` (2),
-- `user` (whom the workers run as, if this is root), `env`, `prefix` (of an installation that is used). Or
-- `configuration`, a whole one that logs to `%(home)/error.log`, listening at `address`.
function M.start(options)
  local home = make_home(options.prefix)
  local configuration = options.configuration or CONFIGURATION
  local values = {
    modules = MODULES, home = home, workers = options.workers or 2, main = options.main or "",
    user = machine.is_root and "user " .. (options.user or "root") .. ";" or "",
    http = options.http or "", server = options.server or "",
    path = package.path, cpath = package.cpath,
  }
  local file = assert(io.open(home .. "/nginx.conf", "w"))
  file:write((configuration:gsub("%%%((%w+)%)", values)))
  file:close()
  local self = setmetatable({ home = home, socket = options.address or home .. "/socket" }, Server)
  -- Its module runs in the LuaJIT it was linked with, whichever one runs the specs.
  self.master = machine.start({ "env", "-u", "LD_LIBRARY_PATH", "nginx", "-p", home, "-c", home .. "/nginx.conf" },
    options.env)
  local started = pcall(self.expect_log, self, "start worker process %d+", values.workers)
  if started then return self end
  self.master:kill()
  error("nginx did not start: " .. select(2, self.master:wait()) .. self:log(), 2)
end

--- What the server has logged so far.
function Server:log()
  local file = io.open(self.home .. "/error.log")
  if not file then return "" end
  local text = file:read "*a"
  file:close()
  return text
end

--- Waits until the log has `pattern` so many times.
function Server:expect_log(pattern, times)
  local ok = pcall(M.eventually, function()
    return select(2, self:log():gsub(pattern, "")) >= (times or 1)
  end, pattern)
  if not ok then error(("the log never said '%s':\n%s"):format(pattern, self:log()), 2) end
end

--- The pids of the workers that are alive, in the order of their start.
function Server:workers()
  local list = {}
  for pid in self:log():gmatch("start worker process (%d+)") do
    if exists("/proc/" .. pid .. "/environ") then list[#list + 1] = tonumber(pid) end
  end
  return list
end

--- A client, see spec/support/http.py.
function Server:client(...)
  return machine.python("http.py", { self.socket, ... })
end

-- The answers of a client that sends.
function Server.answers(client)
  local list = {}
  for line in client:finish():gmatch("[^\n]+") do
    if line ~= "sent" then list[#list + 1] = cjson.decode(line) end
  end
  return list
end

--- Sends requests, `count, path, ...`, all at once, and returns the answers.
function Server:send(...)
  return self.answers(self:client("send", ...))
end

--- One request: body and status.
function Server:get(path)
  local answer = self:send("1", path)[1]
  return answer.body, answer.status
end

--- Ends what a client of `ping` began: its report.
function Server.report(client)
  client:tell()
  local _, said = client:wait()
  return cjson.decode(said:match("(%b{})%s*$"))
end

local SIGHUP, SIGQUIT = 1, 3

function Server:reload() ffi.C.kill(self:pid(), SIGHUP) end

--- Tells it to finish what it does, and exit.
function Server:quit() ffi.C.kill(self:pid(), SIGQUIT) end

function Server:pid()
  local file = assert(io.open(self.home .. "/pid"))
  local pid = file:read "*n"
  file:close()
  return pid
end

--- Ends the server and removes its files.
function Server:stop()
  self.master:kill(machine.SIGTERM)
  self.master:wait()
  machine.remove(self.home)
end

return M
