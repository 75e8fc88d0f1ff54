--- Processes that wait for a builder: from the publication to the last one's view, or first element.

local ffi = require "ffi"
local machine = require "support.machine"
local baseline = require "harness.baseline"
local measure = require "harness.measure"
local nginx = require "harness.nginx"
local sharearray = require "sharearray"

ffi.cdef "int usleep(unsigned microseconds); double link_clock;"

local board_path = measure.directory .. "/board"

local function sleep(seconds) ffi.C.usleep(seconds * 1e6) end

-- Until all have said that they are about to wait, and then some, so that they do.
local function until_waiting(board, count)
  for slot = 1, count do
    while board[slot] ~= -1 do sleep(0.001) end
  end
  sleep(0.1 + count / 1000)
end

-- The time from the publication to the last view, when all have theirs and are sent home.
local function last_of(board, count, start, finish)
  for slot = 1, count do
    while board[slot] == -1 do sleep(0.001) end
  end
  baseline.C.baseline_wake(ffi.cast("uint32_t *", board) + 1)
  finish()
  local last = 0
  for slot = 1, count do last = math.max(last, board[slot]) end
  os.remove(board_path)
  return last - start
end

local function start(count, argv_of)
  local list = {}
  for slot = 1, count do list[slot] = argv_of(tostring(slot)) end
  return baseline.start(list)
end

local IDLE_ROUNDS = 5
local idle = {} -- share of a core that 200 waiters take

-- From the link, which bench/programs/link_clock.c has seen, until each has its `until_`: "view" or "element".
local function ours(count, until_)
  return function()
    local board = baseline.board(board_path, count + 1)
    local finish
    local x = sharearray.array({ 0 }, "float32")
    assert(sharearray.cache("wake", function()
      local pids
      pids, finish = start(count, function(slot)
        return { machine.luajit, "bench/programs/waiter.lua", board_path, tostring(count + 1), slot, "wake", until_ }
      end)
      until_waiting(board, count)
      if count == 200 and #idle < IDLE_ROUNDS then
        local before, at = baseline.cpu_time(pids), measure.now()
        sleep(2)
        idle[#idle + 1] = (baseline.cpu_time(pids) - before) / (measure.now() - at)
      end
      return x
    end))
    local seconds = last_of(board, count, ffi.C.link_clock, finish)
    sharearray.free "wake"
    return seconds
  end
end

local C_fcntl = [[
struct bench_flock { short type, whence; long start, length; int pid; };
int open(const char *path, int flags, ...);
int close(int fd);
int fcntl(int fd, int command, ...);
]]
pcall(ffi.cdef, C_fcntl)

local function hold_lock(path)
  local O_RDWR_CREAT_CLOEXEC, F_OFD_SETLK, F_WRLCK = 0x80042, 37, 1
  local fd = ffi.C.open(path, O_RDWR_CREAT_CLOEXEC, ffi.cast("int", 384))
  assert(fd >= 0 and ffi.C.fcntl(fd, F_OFD_SETLK, ffi.new("struct bench_flock", F_WRLCK)) == 0)
  return function() ffi.C.close(fd) end
end

local function bare(kind, count, until_)
  local path = measure.directory .. "/bare"
  return function()
    local board = baseline.board(board_path, count + 1)
    local unlock = kind == "lock" and hold_lock(path .. ".lock")
    local _, finish = start(count, function(slot)
      if kind == "luajit" then
        return { machine.luajit, "bench/programs/bare_waiter.lua", board_path, tostring(count + 1), slot, path, until_ }
      end
      return { measure.build .. "/waiter", kind, board_path, tostring(count + 1), slot, path, until_ }
    end)
    until_waiting(board, count)
    local file = assert(io.open(path .. ".new", "w"))
    file:write(("\0"):rep(4096))
    file:close()
    os.rename(path .. ".new", path)
    local published = measure.now()
    if unlock then unlock() else baseline.C.baseline_wake(ffi.cast("uint32_t *", board)) end
    local seconds = last_of(board, count, published, finish)
    os.remove(path)
    os.remove(path .. ".lock")
    return seconds
  end
end

local function python(count)
  return function()
    local process = machine.start { "/usr/bin/python3", "bench/python/waiters.py", tostring(count),
      measure.directory .. "/python.npy" }
    process:expect "waiting"
    process:tell "publish"
    local seconds = assert(tonumber((process:line(120))))
    process:finish()
    return seconds
  end
end

local lock_used
local function resty(count)
  return function()
    local process = nginx.start("wait.lua", count + 1, { BENCH_WAITERS = tostring(count) })
    local seconds = assert(tonumber(nginx.line(process)))
    lock_used = nginx.line(process)
    nginx.stop(process)
    return seconds
  end
end

local no_nginx = nginx.missing()

-- Rounds of ours, of C's two ways to wait, and of what LuaJIT itself takes, woken with cold caches. Of two processes it
-- is chance whether the second one's core sleeps deeply, or has other work: those take more rounds, which are short.
local function rounds(count, until_)
  local full = count == 2 and 61 or until_ == "view" and 21 or 11
  return measure.rounds(measure.choose(full, count == 2 and 15 or count == 200 and 3 or 5), {
    { "ours", ours(count, until_) }, { "futex", bare("futex", count, until_) }, { "lock", bare("lock", count, until_) },
    { "luajit", bare("luajit", count, until_) },
  })
end

local BY_FUTEX, BY_LOCK = "C: blocked on a futex, then open, mmap", "C: blocked on a lock, then open, mmap"
local BY_FFI = "LuaJIT: the system calls of the first one by FFI, nothing else"

local function to_last_view(count)
  local work, samples = ("wake: %d processes, from link to last view"):format(count), rounds(count, "view")
  local function row(against, theirs, most)
    measure.row { work = work, against = against, ours = samples.ours, theirs = theirs, unit = "ms", most = most }
  end
  row(BY_FUTEX, samples.futex, 1.5)
  row(BY_LOCK, samples.lock, 1.5)
  row(BY_FFI, samples.luajit)
  measure.row { work = work .. ": those of LuaJIT, without the library", against = BY_FUTEX, ours = samples.luajit,
    theirs = samples.futex, unit = "ms" }
  return samples, work
end

-- The same until each has looked at an element, which an interpreter that has just woken up is slow at.
local function to_first_element(count)
  local work, samples = ("wake: %d processes, to the last one's first element"):format(count), rounds(count, "element")
  for _, pair in ipairs { { BY_FUTEX, samples.futex }, { BY_FFI, samples.luajit } } do
    measure.row { work = work, against = pair[1], ours = samples.ours, theirs = pair[2], unit = "ms" }
  end
end

for _, count in ipairs { 2, 16, 64, 200 } do
  measure.progress("%d processes", count)
  local samples, work = to_last_view(count)
  if not measure.quick then to_first_element(count) end
  local curves = { { "sharearray", samples.ours }, { "C, futex", samples.futex } }
  local rivals = { { "ours", ours(count, "view") } }
  if not no_nginx then rivals[#rivals + 1] = { "resty", resty(count) } end
  if count == 200 or not measure.quick then rivals[#rivals + 1] = { "python", python(count) } end
  local slow = measure.rounds(measure.choose(3, 1), rivals, true)
  if slow.resty then
    local note = lock_used == "resty.lock" and "" or " (its documented back-off)"
    measure.row { work = work, against = "lua-resty-lock in nginx" .. note, ours = slow.ours, theirs = slow.resty,
      unit = "ms", ahead = 1 }
    curves[#curves + 1] = { "lua-resty-lock", slow.resty }
  end
  if slow.python then
    measure.row { work = work, against = "Python: polls once a second", ours = slow.ours, theirs = slow.python,
      unit = "ms", ahead = count == 200 and 40 or 1 }
    curves[#curves + 1] = { "Python", slow.python }
  end
  for _, curve in ipairs(curves) do measure.point("wake", curve[1], count, measure.median(curve[2]) * 1e3) end
end
if no_nginx then measure.skip("wake: lua-resty-lock in nginx", no_nginx) end
measure.fact { work = "wake: 200 processes while they wait", ours = measure.median(idle) * 100, unit = "% of a core",
  most = 5 }
