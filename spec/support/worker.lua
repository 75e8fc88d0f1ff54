--- What a worker process runs: the program text in MACHINE_CODE, with a few functions at hand.
-- Started by `machine.worker` only.

local ffi = require "ffi"

ffi.cdef [[
typedef struct { long seconds, nanoseconds; } worker_timespec;
int clock_gettime(int clock, worker_timespec *time);
int kill(int pid, int signal);
int getpid(void);
]]

local names = setmetatable({ sharearray = require "sharearray", ffi = ffi }, { __index = _G })

--- Says a line to the spec.
function names.say(...)
  local words = {}
  for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
  io.stdout:write(table.concat(words, " "), "\n")
  io.stdout:flush()
end

--- Waits for a line from the spec.
function names.hear() return io.read("*l") end

--- Dies as by kill -9.
function names.die() ffi.C.kill(ffi.C.getpid(), 9) end

local time = ffi.new("worker_timespec")

--- Seconds of CLOCK_REALTIME (0) or CLOCK_MONOTONIC (1).
function names.now(clock)
  ffi.C.clock_gettime(clock or 1, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

setfenv(assert(loadstring(os.getenv("MACHINE_CODE"), "=worker")), names)(...)
