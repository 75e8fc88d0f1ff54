--- How soon a builder that is killed is replaced.

local ffi = require "ffi"
local machine = require "support.machine"
local baseline = require "harness.baseline"
local measure = require "harness.measure"
local sharearray = require "sharearray"

ffi.cdef "int usleep(unsigned microseconds);"

local ROUNDS = measure.choose(50, 15)

local BUILDER = [[
  sharearray.cache("takeover", function() say "building" hear() end)
]]
local WAITER = [[
  say "waiting"
  sharearray.cache("takeover", function() say(now(1)) return sharearray.array { 1 } end)
]]

local worst = 0
for round = 1, ROUNDS do
  local builder = machine.worker(BUILDER)
  builder:expect "building"
  local waiter = machine.worker(WAITER)
  waiter:expect "waiting"
  ffi.C.usleep(100000 + 70000 * round / ROUNDS) -- at every phase of its looks
  local killed = baseline.now()
  builder:kill(machine.SIGKILL)
  local began = assert(tonumber((waiter:line())))
  worst = math.max(worst, began - killed)
  builder:wait()
  waiter:finish()
  sharearray.free "takeover"
end
measure.fact { work = ("take-over after SIGKILL of the builder, the worst of %d"):format(ROUNDS), ours = worst * 1e3,
  unit = "ms", most = 100 }
