-- Huge pages where the tmpfs gives them by advice, and pages that are entered before they are used.

local ffi = require "ffi"
local machine = require "support.machine"
local sharearray = require "sharearray"

local MEGABYTE = 2 ^ 20

-- Kilobytes of the mappings under a directory that smaps counts under a name.
local function mapped(directory, name)
  local sum, inside = 0, false
  for line in io.lines "/proc/self/smaps" do
    if line:find "^%x+%-%x+ " then inside = line:find(directory, 1, true) end
    local kilobytes = inside and line:match("^" .. name .. ":%s+(%d+) kB")
    sum = sum + (tonumber(kilobytes) or 0)
  end
  return sum
end

local function collect()
  collectgarbage()
  collectgarbage()
end

describe("on a tmpfs with huge=advise", function()
  local directory, mounted

  before_each(function()
    directory = machine.directory()
    mounted = machine.is_root and select(2, machine.shell("mount -t tmpfs -o huge=advise,size=32m none " .. directory))
  end)

  after_each(function()
    collect()
    if mounted then machine.shell("umount " .. directory) end
    machine.remove(directory)
  end)

  local function try(name, run)
    it(name, function()
      if not mounted then return pending("no tmpfs with huge=advise can be mounted here") end
      if machine.under_valgrind then return pending("valgrind places mappings where it likes") end
      run(sharearray.new { shm_path = directory })
    end)
  end

  try("an array that is built in place lies in huge pages", function(store)
    local x = assert(store:cache("x", function(alloc)
      local x = alloc("float32", { 3 * MEGABYTE })
      x:fill(7)
      return x
    end))
    assert.equal(7, x(3 * MEGABYTE - 1))
    assert.is_true(mapped(directory, "ShmemPmdMapped") >= 8 * 1024)
  end)

  try("so does one that is copied, whose bytes are the same at every seam", function(store)
    local source = ffi.new("int32_t[?]", 3 * MEGABYTE)
    for i = 0, 3 * MEGABYTE - 1 do source[i] = i end
    local x = assert(store:cache("x", source))
    for i = 0, x.size - 1 do
      if x.data[i] ~= i then error("element " .. i .. " is " .. x.data[i]) end
    end
    assert.is_true(mapped(directory, "ShmemPmdMapped") >= 8 * 1024)
  end)

  try("and a bundle", function(store)
    local big, small = ffi.new("uint8_t[?]", 5 * MEGABYTE, 1), ffi.new("uint8_t[?]", 3, 2)
    big[5 * MEGABYTE - 1] = 9
    store:cache("x", { big = big, small = small, name = "both" })
    local y = assert(sharearray.new({ shm_path = directory, trust = { 1 } }):get "x")
    assert.same({ 9, 2, "both" }, { y.big(5 * MEGABYTE - 1), y.small(2), y.name })
  end)

  try("one that does not fit is no_space, and no SIGBUS", function(store)
    for _, source in ipairs { ffi.new("uint8_t[?]", 24 * MEGABYTE), function(alloc)
      return alloc("uint8", { 24 * MEGABYTE })
    end } do
      assert(store:cache("half", function(alloc) return alloc("uint8", { 12 * MEGABYTE }) end))
      local view, message, code = store:cache("x", source)
      assert.same({ nil, "no_space" }, { view, code })
      assert.truthy(message:find("bytes needed", 1, true))
      store:free "half"
      collect()
    end
    assert.same({}, machine.names(directory))
  end)
end)

describe("prefault", function()
  local directory

  before_each(function() directory = machine.directory() end)
  after_each(function() machine.remove(directory) end)

  it("enters the pages when an array is attached", function()
    local store = sharearray.new { shm_path = directory }
    store:cache("x", ffi.new("uint8_t[?]", 4 * MEGABYTE)):close()
    collect()
    local x = assert(store:get "x")
    assert.is_true(mapped(directory, "Rss") < 1024)
    x:close()
    x = assert(store:get("x", { prefault = true }))
    assert.is_true(mapped(directory, "Rss") >= 4096)
    x:close()
    store:free "x"
  end)

  it("is a boolean", function()
    local ok, message = pcall(sharearray.get, "x", { prefault = 1 })
    assert.is_false(ok)
    assert.truthy(message:find("option 'prefault' must be a boolean", 1, true))
  end)
end)
