--- Every call and allocation of the core, failed under the Lua functions: each gives its result, or nil, a
-- message and a code; nothing leaks, nothing is left behind, and the next call works.
-- Runs with build/spec/fail_preload.so preloaded (spec/support/fail_preload.c).

local ffi = require "ffi"
local machine = require "support.machine"
local sharearray = require "sharearray"

ffi.cdef [[
void fault_begin(long at, int error, int lasting);
long fault_end(void);
long fault_given(void);
int fault_descriptors(void);
]]

local C = ffi.C
local ERRORS = { ENOSPC = 28, ENOMEM = 12, EMFILE = 24, EIO = 5, EACCES = 13, EINTR = 4, EAGAIN = 11, EDQUOT = 122 }
local QUICK = { ENOSPC = 28, EMFILE = 24, EIO = 5 }
local CODES = { timeout = true, absent = true, no_space = true, corrupt = true, denied = true, unsupported = true,
  io = true }

local base = machine.directory()
local directory = base .. "/shm"
machine.shell(("mkdir %s && /usr/bin/python3 spec/torture/numpy_peer.py sources %s"):format(directory, base))

local seven = sharearray.array({ 7, 7, 7 }, "int32")

local function fill(alloc)
  local x = alloc("int32", { 30, 40 })
  x:fill(7)
  return x
end

local function fill_bundle(alloc)
  local t = alloc { a = { "int32", { 30 } }, b = { { "int32", { 4 } } } }
  t.a:fill(7)
  t.b[1]:fill(7)
  t.words = { "seven" }
  return t
end

local OPERATIONS = {
  { "cache, in place", function(store) return store:cache("x", fill) end },
  { "cache of an array", function(store) return store:cache("x", seven) end },
  { "cache of a bundle, in place", function(store) return store:cache("x", fill_bundle) end },
  { "cache of a bundle", function(store) return store:cache("x", { a = seven, b = { seven, 1 } }) end },
  { "cache of an .npy file", function(store) return store:cache("x", sharearray.file(base .. "/fortran.npy")) end },
  { "cache of an .npz file", function(store) return store:cache("x", sharearray.file(base .. "/deflated.npz")) end },
  { "refresh", function(store) return store:refresh("x", fill) end, there = true },
  { "a hit", function(store) return store:cache("x", error) end, there = true },
  { "get", function(store) return store:get("x") end, there = true },
  { "get of nothing", function(store) return store:get("x") end },
  { "free", function(store) return store:free("x") end, there = true },
  { "stat", function(store) return store:stat("x") end, there = true },
  { "list", function(store) return store:list() end, there = true },
}

local settings = { shm_path = directory, timeout = 5 }

local function mappings()
  local count = 0
  for line in io.lines("/proc/self/maps") do
    if line:find(directory, 1, true) then count = count + 1 end
  end
  return count
end

local function settle()
  collectgarbage()
  collectgarbage()
  return C.fault_descriptors(), mappings()
end

-- Every value of whatever is there.
local function is_whole(value)
  if type(value) ~= "table" then return value.size > 0 and value:reshape({ -1 })(value.size - 1) == 7 end
  return is_whole(value.a)
end

local function check_result(ok, value, text, code)
  if not ok then return "raised " .. tostring(value) end
  if value ~= nil then return end
  if type(text) ~= "string" or not text:find "^sharearray: " then return "a message like " .. tostring(text) end
  if not CODES[code] then return "the code " .. tostring(code) end
end

-- One more call, without faults; then nothing is there but what it gives.
local function check_next()
  local store = sharearray.new(settings)
  local value, text = store:cache("x", seven)
  if value == nil then return "the next call says " .. text end
  if not is_whole(value) then return "the next call gives other data" end
  if not store:list() then return "the next list fails" end
  local names = machine.names(directory)
  if #names ~= 1 or names[1] ~= "sharearray_x.npy" then return "left behind: " .. table.concat(names, " ") end
end

-- Calls the core made; a complaint or nil.
local function run(operation, at, error_, lasting)
  sharearray.free("x", settings)
  if operation.there then assert(sharearray.cache("x", seven, settings)) end
  local descriptors, mapped = settle()
  local store = sharearray.new(settings)
  C.fault_begin(at, error_, lasting)
  local ok, value, text, code = pcall(operation[2], store)
  local made = tonumber(C.fault_end())
  local problem = check_result(ok, value, text, code)
  value, store = nil, nil -- luacheck: ignore
  local descriptors_now, mapped_now = settle()
  if descriptors_now ~= descriptors then problem = problem or "a descriptor leaks" end
  if mapped_now > mapped then problem = problem or "a mapping leaks" end
  return made, problem or check_next()
end

local function complain(operation, at, name, lasting, problem)
  print(("# %s: call %d, %s%s: %s"):format(operation, at, name, lasting == 1 and " for ever" or "", problem))
end

-- Interrupted, or asked to try again, for ever is nothing that a call can be.
local function can_last(name) return name ~= "EINTR" and name ~= "EAGAIN" end

local function sweep(operation, errors)
  local failures, faults = 0, 0
  local calls = run(operation, 0, 0, 0)
  for at = 1, calls do
    for name, number in pairs(errors) do
      for lasting = 0, can_last(name) and 1 or 0 do
        local _, problem = run(operation, at, number, lasting)
        faults = faults + 1
        if problem then
          failures = failures + 1
          if failures <= 5 then complain(operation[1], at, name, lasting, problem) end
        end
      end
    end
  end
  print(("%s Lua: %s: %d calls, %d faults%s"):format(failures == 0 and "ok" or "not ok", operation[1], calls, faults,
    failures > 0 and (", %d of them wrong"):format(failures) or ""))
  io.stdout:flush()
  return failures
end

local failures = 0
local errors = os.getenv "QUICK" and QUICK or ERRORS
run(OPERATIONS[1], 0, 0, 0) -- what is loaded or grows once
for _, operation in ipairs(OPERATIONS) do failures = failures + sweep(operation, errors) end
machine.remove(base)
os.exit(failures == 0 and 0 or 1)
