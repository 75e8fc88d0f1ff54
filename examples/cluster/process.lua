-- One process of a cluster: what a program that shares arrays between machines looks like. `run` starts many.
--
--     process.lua PORT load ID [SECONDS]   the array, built (which takes SECONDS) if nobody in the cluster has it
--     process.lua PORT refresh ID          a newer version
--     process.lua PORT watch ID VALUE      asks until it has the version of that VALUE
--
-- Its machine is the directory in SHAREARRAY_SHM_PATH, its Redis the one (or a Cluster's node) at PORT.
local sharearray = require "sharearray"
local redis = require "sharearray.origin.redis"
local socket = require "socket"

local port, verb, id, argument = ...

local store = sharearray.new {
  origin = redis.new { port = tonumber(port), lease = 3 },
  log_func = function(line) io.stderr:write(line, "\n") end,
}

-- Stands for hours of work. `alive` renews the lease, and costs nothing when it is called too often.
local function build(seconds, value)
  return function(alloc, alive)
    print "builds"
    io.stdout:flush()
    local x = alloc("float32", { 1000, 1000 })
    local stop = socket.gettime() + seconds
    repeat
      socket.sleep(0.01)
      alive()
    until socket.gettime() >= stop
    x:fill(value)
    return x
  end
end

local function show(x)
  print(("value %g of %s (%d, %d)"):format(x(999, 999), tostring(x.dtype), x.shape[1], x.shape[2]))
end

if verb == "load" then
  show(assert(store:cache(id, build(tonumber(argument) or 0.5, 1))))
elseif verb == "refresh" then
  show(assert(store:refresh(id, build(0, 2))))
elseif verb == "watch" then
  local x
  repeat
    x = assert(store:cache(id, error))
    socket.sleep(0.01)
  until x(0, 0) == tonumber(argument)
  show(x)
end
