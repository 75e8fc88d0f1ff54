--- For the specs: processes that really run in parallel, and a private shared-memory directory.
--
-- A worker is a LuaJIT program given as text. It says what it has done in lines, and waits for lines
-- it is sent: specs wait for these events, not for time to pass.

local ffi = require "ffi"

ffi.cdef [[
typedef struct { int fd; short events; short revents; } machine_pollfd;
int fork(void);
int pipe2(int fds[2], int flags);
int dup2(int from, int to);
int close(int fd);
int execvp(const char *file, char *const argv[]);
int setenv(const char *name, const char *value, int overwrite);
int kill(int pid, int signal);
int waitpid(int pid, int *status, int options);
int getpid(void);
long read(int fd, void *bytes, size_t size);
long write(int fd, const void *bytes, size_t size);
int poll(machine_pollfd *fds, unsigned long count, int timeout);
int prctl(int option, unsigned long value);
void _exit(int status);
unsigned geteuid(void);
char *mkdtemp(char *template);
typedef struct { long seconds, nanoseconds; } machine_timespec;
int clock_gettime(int clock, machine_timespec *time);
]]

local C = ffi.C
local M = {}

local O_CLOEXEC, POLLIN, WNOHANG, PR_SET_PDEATHSIG = 0x80000, 1, 1, 1
local PATIENCE = 60 -- seconds; generous, since machines are busy

M.SIGKILL, M.SIGTERM, M.SIGINT, M.SIGSTOP, M.SIGCONT, M.SIGUSR1 = 9, 15, 2, 19, 18, 10
M.is_root = C.geteuid() == 0

local time = ffi.new("machine_timespec")

--- Seconds of CLOCK_REALTIME (0, what `stat` compares with) or CLOCK_MONOTONIC (1).
function M.now(clock)
  C.clock_gettime(clock or 1, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

--- The interpreter the specs run under.
M.luajit = os.getenv("SHAREARRAY_TEST_LUAJIT") or "luajit"

--- Whether that is the script of `make valgrind`; and how much longer than natively a process may take.
M.under_valgrind = M.luajit:find("/valgrind/", 1, true) ~= nil
M.slowness = M.under_valgrind and 20 or os.getenv "ASAN_OPTIONS" and 4 or 1

local Process = {}
Process.__index = Process

local function child(argv, env, input, output)
  C.prctl(PR_SET_PDEATHSIG, M.SIGKILL)
  C.dup2(input, 0)
  C.dup2(output, 1)
  C.dup2(output, 2)
  for name, value in pairs(env) do C.setenv(name, value, 1) end
  local vector = ffi.new("char *[?]", #argv + 1)
  for i, argument in ipairs(argv) do vector[i - 1] = ffi.cast("char *", argument) end
  C.execvp(argv[1], vector)
  C._exit(127)
end

--- Starts a program. `argv` is a list; `env` a table of further variables.
function M.start(argv, env)
  local input, output = ffi.new("int[2]"), ffi.new("int[2]")
  assert(C.pipe2(input, O_CLOEXEC) == 0 and C.pipe2(output, O_CLOEXEC) == 0)
  local pid = C.fork()
  if pid == 0 then child(argv, env or {}, input[0], output[1]) end
  C.close(output[1])
  -- The reader's end stays open here, too: who tells something to a process that has ended would die of SIGPIPE.
  return setmetatable({ pid = pid, input = input[1], reader = input[0], output = output[0], text = "", seen = "" },
    Process)
end

--- Starts a worker: `code` is Lua text with `sharearray`, `ffi`, `say(...)`, `hear()`, `die()` and
-- `now(clock)` at hand (spec/support/worker.lua), and `...` being the further arguments, as strings.
function M.worker(code, arguments, env)
  local argv = { M.luajit, "spec/support/worker.lua" }
  for _, argument in ipairs(arguments or {}) do argv[#argv + 1] = tostring(argument) end
  local variables = { MACHINE_CODE = code }
  for name, value in pairs(env or {}) do variables[name] = value end
  return M.start(argv, variables)
end

--- Starts a Python program of spec/support.
function M.python(script, arguments, env)
  local argv = { "/usr/bin/python3", "spec/support/" .. script }
  for _, argument in ipairs(arguments) do argv[#argv + 1] = argument end
  return M.start(argv, env)
end

local function fill(self, deadline)
  local fds = ffi.new("machine_pollfd[1]", { { self.output, POLLIN, 0 } })
  local left = math.max(0, deadline - M.now())
  local ready = C.poll(fds, 1, math.min(left, 3600) * 1000)
  if ready == 0 and left <= 0 then return nil, "time is up" end
  if ready <= 0 then return "" end
  local buffer = ffi.new("char[65536]")
  local n = C.read(self.output, buffer, 65536)
  if n <= 0 then return nil, "it has ended" end
  return ffi.string(buffer, n)
end

--- The next line that the process says; nil and a reason if none comes.
function Process:line(seconds)
  local deadline = M.now() + (seconds or PATIENCE)
  while true do
    local line, rest = self.text:match("^(.-)\n(.*)$")
    if line then
      self.text = rest
      return line
    end
    local more, why = fill(self, deadline)
    if not more then return nil, why .. (self.text ~= "" and ": " .. self.text or "") end
    self.text, self.seen = self.text .. more, self.seen .. more
  end
end

--- Waits for exactly this line.
function Process:expect(expected)
  local line, why = self:line()
  if line ~= expected then
    error(("expected the line '%s', got %s\n%s"):format(expected, line and "'" .. line .. "'" or why, self.seen), 2)
  end
end

--- Sends a line.
function Process:tell(line)
  line = (line or "") .. "\n"
  C.write(self.input, line, #line)
end

function Process:kill(signal)
  C.kill(self.pid, signal or M.SIGKILL)
end

--- Waits for the end: the exit status, or minus the signal that killed it; and all it said.
function Process:wait(seconds)
  local deadline = M.now() + (seconds or PATIENCE)
  local status = ffi.new("int[1]")
  C.close(self.input)
  C.close(self.reader)
  while true do
    local more = fill(self, deadline)
    if not more then break end
    self.text, self.seen = self.text .. more, self.seen .. more
  end
  local ended = C.waitpid(self.pid, status, WNOHANG)
  if ended == 0 and M.now() >= deadline then
    self:kill()
    C.waitpid(self.pid, status, 0)
    error("process did not end in time; it said:\n" .. self.seen, 2)
  end
  if ended == 0 then C.waitpid(self.pid, status, 0) end
  C.close(self.output)
  local signal = bit.band(status[0], 0x7f)
  return signal == 0 and bit.rshift(status[0], 8) or -signal, self.seen
end

--- Waits for a good end, and returns what was said.
function Process:finish(seconds)
  local status, said = self:wait(seconds)
  if status ~= 0 then error(("process ended with status %d; it said:\n%s"):format(status, said), 2) end
  return said
end

--- A fresh private directory, under `parent` or /dev/shm.
function M.directory(parent)
  local template = (parent or "/dev/shm") .. "/sharearray_spec.XXXXXX"
  local buffer = ffi.new("char[?]", #template + 1, template)
  assert(C.mkdtemp(buffer) ~= nil, "mkdtemp " .. template)
  return ffi.string(buffer)
end

--- Runs a shell command; its output and whether it succeeded.
function M.shell(command)
  local pipe = io.popen("{ " .. command .. "\n} 2>&1; echo \"status $?\"")
  local text = pipe:read("*a")
  pipe:close()
  local output, status = text:match("^(.*)status (%d+)\n$")
  return output, status == "0"
end

function M.remove(directory)
  assert(directory:find("sharearray_spec", 1, true))
  M.shell("rm -rf '" .. directory .. "'")
end

--- The names in a directory, sorted, without the counter pages.
function M.names(directory)
  local list = {}
  for name in M.shell("ls -A '" .. directory .. "'"):gmatch("[^\n]+") do
    if not name:find(".changes.", 1, true) then list[#list + 1] = name end
  end
  return list
end

return M
