--- The C baselines (bench/baseline), through FFI.

local ffi = require "ffi"

ffi.cdef [[
double baseline_now(void);
double baseline_attach(const char *format, const char *directory, int files, int count);
double baseline_run(char *const argv[]);
int baseline_start(char *const argv[]);
volatile double *baseline_board(const char *path, int count);
double baseline_cpu_time(int pid);
void baseline_wait(const uint32_t *word, uint32_t value);
void baseline_wake(uint32_t *word);
void baseline_wait_in(volatile double *board, int slot);
double baseline_write(const char *path, const void *bytes, size_t size);
double baseline_fill(const char *path, size_t count);
double baseline_reserve_and_fill(const char *path, size_t count);
double baseline_copy_huge(const char *path, const void *bytes, size_t size);
double baseline_fill_huge(const char *path, size_t count);
double baseline_scan(const void *bytes, size_t size);
int waitpid(int pid, int *status, int options);
]]

for place = 0, 3 do
  local declarations = ([[
double baseline_sum_PLACE(const float *x, size_t count);
double baseline_sum_guarded_PLACE(const float *x, size_t size, size_t count);
double baseline_gather_PLACE(const float *x, const int32_t *index, size_t count);
double baseline_gather_guarded_PLACE(const float *x, uint32_t size, const int32_t *index, size_t indices, size_t count);
double baseline_sum_rows_PLACE(const float *x, size_t rows, size_t columns);
]]):gsub("PLACE", place)
  ffi.cdef(declarations)
end

local library = assert(os.getenv "BENCH_BUILD", "start the benchmarks with make bench") .. "/baseline.so"
local C = ffi.load(library)

local M = { C = C }

--- Says that this process has what it waited for, in the slot that `baseline_wait_in` was called with.
M.arrive = assert(package.loadlib(library, "baseline_arrive"))

--- Seconds of CLOCK_MONOTONIC.
function M.now() return C.baseline_now() end

local function vector(argv)
  local pointers = ffi.new("char *[?]", #argv + 1)
  for i, argument in ipairs(argv) do pointers[i - 1] = ffi.cast("char *", argument) end
  return pointers
end

--- Seconds from the start of a program to its end.
-- @tparam table argv list of strings
function M.run(argv)
  local seconds = C.baseline_run(vector(argv))
  if seconds < 0 then error("it failed: " .. table.concat(argv, " ")) end
  return seconds
end

--- Starts programs, one for each list of arguments; a function that waits for all of them.
-- @treturn table their pids
-- @treturn function
function M.start(list)
  local pids = {}
  for i, argv in ipairs(list) do
    pids[i] = C.baseline_start(vector(argv))
    if pids[i] < 0 then error("it cannot be started: " .. table.concat(argv, " ")) end
  end
  return pids, function()
    local status = ffi.new("int[1]")
    for i, pid in ipairs(pids) do
      ffi.C.waitpid(pid, status, 0)
      if status[0] ~= 0 then error("it failed: " .. table.concat(list[i], " ")) end
    end
  end
end

--- Doubles that several processes share.
function M.board(path, count)
  local board = C.baseline_board(path, count)
  assert(board ~= nil, "cannot map " .. path)
  return board
end

--- CPU seconds that processes have used so far, together.
function M.cpu_time(pids)
  local sum = 0
  for _, pid in ipairs(pids) do sum = sum + C.baseline_cpu_time(pid) end
  return sum
end

return M
