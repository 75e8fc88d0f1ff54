--- An origin in a directory: on whatever file system the machines share, or on disk, so that the data
-- survives a reboot.
--
--     local directory = require "sharearray.origin.directory"
--     local store = sharearray.new { origin = directory.new "/mnt/shared/arrays" }
--
-- What lies there:
--
--     <key>.<token>.npy or .npz   a version, a plain NumPy file
--     <key>.current               one line: "<version> <bytes> <crc> <file> <file before it or ->"
--     <key>.lease                 who builds: "<token> <beat>"
--
-- A version is written and synced under its own name, then a rename makes it current. The one before it is
-- kept until the next publication, for machines that are reading it; older ones go.
--
-- The lease rests on nothing but exclusive creation and rename, which NFS (3 and later), Lustre and CephFS
-- keep, and on no machine's clock: its holder changes the beat, and whoever saw one beat for the whole
-- `lease` time takes it away. It is good manners and no lock: where a file system shows old data for a while, or
-- two machines take a dead lease away in the same millisecond, a function may run twice. What is current is always
-- one whole version all the same. A holder that was taken for dead looks at the lease before it makes its
-- version current, and gives up; between that look and the rename lies a gap of microseconds.
-- @module sharearray.origin.directory

local common = require "sharearray.origin.common"
local ffi = require "ffi"
local C = require("sharearray.cdefs").C

local M = {}

local PIECE = 2 ^ 20 -- bytes

-- Streams of Lua's io are FILE pointers to the FFI.
for name, declaration in pairs {
  fread = "size_t fread(void *bytes, size_t size, size_t count, void *stream)",
  fwrite = "size_t fwrite(const void *bytes, size_t size, size_t count, void *stream)",
  fileno = "int fileno(void *stream)",
  fsync = "int fsync(int fd)",
} do
  if not pcall(function() return ffi.C[name] end) then ffi.cdef(declaration .. ";") end
end

local function read_file(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

local function sync(file, path)
  assert(file:flush())
  if ffi.C.fsync(ffi.C.fileno(file)) ~= 0 then error("cannot write " .. path .. " to disk", 0) end
  assert(file:close())
end

-- Calls `fill(file)` on a new file, and leaves it on disk or not at all.
local function write_file(path, fill)
  local file = assert(io.open(path, "wb"))
  local ok, problem = pcall(function()
    file:setvbuf "no"
    fill(file)
    sync(file, path)
  end)
  if ok then return end
  pcall(file.close, file)
  os.remove(path)
  error(problem, 0)
end

local Directory = {}
Directory.__index = Directory

local function path_of(self, name) return self.path .. "/" .. name end

-- A missing directory is a failure, not an origin that has nothing: a share may not be mounted.
local function check_there(self)
  local there = io.open(self.path .. "/.", "rb")
  if not there then error(("no directory %s"):format(self.path), 0) end
  there:close()
end

local function manifest(self, key)
  local text = read_file(path_of(self, key .. ".current"))
  if not text then return nil end
  local version, bytes, crc, file, before = text:match("^(%d+) (%d+) (%d+) ([^%s/]+) ([^%s/]+)\n$")
  return { text = text, version = version, bytes = tonumber(bytes), crc = tonumber(crc), file = file, before = before }
end

-- Fetch ---------------------------------------------------------------------------------------------------

local function copy(file, write)
  local buffer = ffi.new("char[?]", PIECE)
  while true do
    local size = tonumber(ffi.C.fread(buffer, 1, PIECE, file))
    if size == 0 then return end
    write(buffer, size)
  end
end

-- The file that is current; a newer one where that was removed in between; or nil.
local function open_current(self, key, have)
  local current, file
  repeat
    local last = current
    current = manifest(self, key)
    if not current or (current.version and current.version == have) then return nil end
    file = current.file and io.open(path_of(self, current.file), "rb")
  until file or (last and last.text == current.text)
  return current, file
end

function Directory:fetch(key, have, open)
  check_there(self)
  local current, file = open_current(self, key, have)
  if not current then return nil end
  if not current.version then return "0", nil, "its .current file is not one" end
  if not file then return current.version, nil, current.file .. " is missing" end
  if file:seek "end" ~= current.bytes then
    file:close()
    return current.version, nil, current.file .. " is not as long as it should be"
  end
  file:seek "set"
  file:setvbuf "no"
  local ok, write = pcall(open, current.bytes)
  local wanted, problem = ok and write, write
  if wanted then ok, problem = pcall(copy, file, write) end
  file:close()
  if not ok then error(problem, 0) end
  if not wanted then return nil end
  return current.version, current.crc
end

-- Lease ---------------------------------------------------------------------------------------------------

local Lease = {}
Lease.__index = Lease

local function token_in(text) return text and text:match("^%x+") end

-- Changes the beat in place: if the lease was taken away meanwhile, that file is nobody's any more.
function Lease:renew()
  local file = io.open(self.path, "r+b")
  local mine = file and token_in(file:read "*l") == self.token
  if mine then
    self.beat = self.beat + 1
    file:seek "set"
    file:write(("%s %08d\n"):format(self.token, self.beat))
    mine = file:flush()
  end
  if file then file:close() end
  if mine then return true end
  return nil, "another machine has it"
end

function Lease:is_mine() return token_in(read_file(self.path)) == self.token end

function Lease:release()
  if self:is_mine() then os.remove(self.path) end
end

-- What a publication left that broke off, unless it came to be current.
local function clean_up(self, key, token)
  if not token then return end
  local current = manifest(self, key) or {}
  for _, kind in ipairs { "npy", "npz", "new" } do
    local name = ("%s.%s.%s"):format(key, token, kind)
    if name ~= current.file and name ~= current.before then os.remove(path_of(self, name)) end
  end
end

-- Takes a lease away that showed the beat `text` for too long. Whoever renames it has it alone; if it is
-- another one by now, it goes back.
local function take_away(self, key, path, text)
  local aside = path .. "." .. common.token()
  if not os.rename(path, aside) then return end
  if read_file(aside) ~= text then
    if not read_file(path) then os.rename(aside, path) end
    return
  end
  os.remove(aside)
  clean_up(self, key, token_in(text))
end

function Directory:lease(key)
  check_there(self)
  local path = path_of(self, key .. ".lease")
  local text = read_file(path)
  if text then
    local now, seen = C.sharearray_clock(), self.seen[key]
    if not seen or seen.text ~= text then
      self.seen[key] = { text = text, since = now }
      return nil
    end
    if now - seen.since < self.period * 1000 then return nil end
    self.seen[key] = nil
    take_away(self, key, path, text)
  end
  local file, problem = io.open(path, "wx") -- O_EXCL
  if not file then
    if read_file(path) then return nil end
    return nil, problem
  end
  local lease = setmetatable({ path = path, token = common.token(), beat = 0, every = self.period / 3 }, Lease)
  file:write(("%s %08d\n"):format(lease.token, 0))
  if not file:close() then
    os.remove(path)
    return nil, "cannot write " .. path
  end
  return lease
end

-- Publish and remove --------------------------------------------------------------------------------------

local function write_data(entry, file)
  for at = 0, entry.bytes - 1, PIECE do
    local size = math.min(PIECE, entry.bytes - at)
    if ffi.C.fwrite(entry.data + at, 1, size, file) ~= size then error("the disk is full, or cannot be written", 0) end
    entry.breathe()
  end
end

-- The version in the file `name` is current from now on, unless that is refused.
local function make_current(self, key, entry, lease, name)
  local before = manifest(self, key) or {}
  if not lease:is_mine() then
    return nil, "this machine was taken for dead, and another one has the lease or had it: refused"
  end
  local fresh = path_of(self, ("%s.%s.new"):format(key, lease.token))
  write_file(fresh, function(file)
    assert(file:write(("%s %.0f %.0f %s %s\n"):format(entry.version, entry.bytes, entry.crc, name, before.file or "-")))
  end)
  assert(os.rename(fresh, path_of(self, key .. ".current")))
  if before.before and before.before ~= "-" then os.remove(path_of(self, before.before)) end
  return true
end

function Directory:publish(key, entry, lease)
  local name = ("%s.%s.%s"):format(key, lease.token, entry.kind)
  write_file(path_of(self, name), function(file) write_data(entry, file) end)
  local ok, done, refusal = pcall(make_current, self, key, entry, lease, name)
  if ok and done then return true end
  clean_up(self, key, lease.token)
  return nil, ok and refusal or done
end

function Directory:remove(key)
  check_there(self)
  local current = manifest(self, key)
  if not current then return false end
  os.remove(path_of(self, key .. ".current"))
  for _, name in ipairs { current.file or "-", current.before or "-" } do
    if name ~= "-" then os.remove(path_of(self, name)) end
  end
  return true
end

local checks = { lease = common.seconds, poll = common.seconds, required = common.boolean }

--- An origin in the directory `path`, which has to exist.
-- @tparam string path
-- @tparam[opt] table opts `lease`: seconds after which a dead builder is replaced (30); `poll`, `required`: see
--   `sharearray.origin`
function M.new(path, opts)
  if type(path) ~= "string" or path == "" or path:find("\0", 1, true) then
    error("the path of a directory must be a string", 2)
  end
  local values = common.options(opts, { lease = 30 }, checks)
  return setmetatable({ path = path, period = values.lease, poll = values.poll, required = values.required, seen = {} },
    Directory)
end

return M
