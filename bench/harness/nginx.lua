--- Runs a script in the workers of a real nginx.

local machine = require "support.machine"
local measure = require "harness.measure"

local M = {}

local MODULES = "/usr/lib/nginx/modules"

--- Why there can be none here, or nil.
function M.missing()
  local modules = io.open(MODULES .. "/ngx_http_lua_module.so")
  if not modules then return "nginx with its Lua module is not installed" end
  modules:close()
end

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

local function working_directory() return (machine.shell "pwd"):match "[^\n]+" end

--- Starts it; the process's lines are the script's.
-- @tparam string script in bench/nginx
-- @tparam number workers 0 for one process that is both master and worker
-- @tparam[opt] table env further variables
function M.start(script, workers, env)
  local here = working_directory()
  local directory = measure.build .. "/nginx"
  machine.shell("mkdir -p " .. directory)
  local holes = {
    USER = machine.is_root and "user root;" or "",
    MASTER = workers == 0 and "off" or "on",
    WORKERS = math.max(workers, 1),
    DIRECTORY = directory,
    MODULES = MODULES,
    LUA_PATH = package.path,
    LUA_CPATH = package.cpath,
    SCRIPT = here .. "/bench/nginx/" .. script,
  }
  local path = directory .. "/nginx.conf"
  local file = assert(io.open(path, "w"))
  file:write((read "bench/nginx/nginx.conf":gsub("@([%u_]+)@", holes)))
  file:close()
  return machine.start({ "/usr/sbin/nginx", "-p", directory, "-c", path }, env)
end

--- The next line that is no word of nginx's own.
function M.line(process, seconds)
  while true do
    local line, why = process:line(seconds or 120)
    if not line then error("nginx: " .. why) end
    if not line:find "^nginx: %[" then return line end
  end
end

function M.stop(process)
  process:kill(machine.SIGTERM)
  process:wait()
end

return M
