-- zlib, which is loaded when it is first needed: what goes on without it, and what is said by the rest.

local machine = require "support.machine"

-- Where a library is that the loader finds first, and that is none.
local function hide(directory, worker, arguments)
  machine.shell(("mkdir '%s/hidden' && : >'%s/hidden/libz.so.1'"):format(directory, directory))
  return machine.worker(worker, arguments,
    { SHAREARRAY_SHM_PATH = directory, LD_LIBRARY_PATH = directory .. "/hidden" })
end

describe("without zlib", function()
  local directory

  before_each(function() directory = machine.directory() end)
  after_each(function() machine.remove(directory) end)

  it("arrays are built, attached and imported, and the rest says what is missing, until it is there", function()
    machine.shell(([[/usr/bin/python3 -c '
import numpy
numpy.save("%s/a.npy", numpy.arange(3))
numpy.savez("%s/a.npz", x=numpy.arange(3))']]):format(directory, directory))
    local process = hide(directory, [[
      local directory = ...
      local function refused(source)
        local value, problem, code = sharearray.cache("bundle", source)
        assert(value == nil and code == "io", code)
        assert(problem:find("zlib cannot be loaded: ", 1, true), problem)
        assert(problem:find("libz.so.1", 1, true), problem)
      end
      local x = assert(sharearray.cache("x", function(alloc) return alloc("float32", 3) end))
      assert(assert(sharearray.get "x")(0) == 0)
      assert(assert(sharearray.cache("file", sharearray.file(directory .. "/a.npy")))(2) == 2)
      refused(sharearray.file(directory .. "/a.npz"))
      refused { x = sharearray.array { 1 } }
      refused(function(alloc)
        alloc { x = { "float32", 3 } }
        error "too late"
      end)
      say "refused"
      hear()
      assert(assert(sharearray.cache("bundle", sharearray.file(directory .. "/a.npz"))).x(2) == 2)
      say "there"
    ]], { directory })
    process:expect "refused"
    assert.same({ "a.npy", "a.npz", "hidden", "sharearray_file.npy", "sharearray_x.npy" }, machine.names(directory))
    machine.shell("rm '" .. directory .. "/hidden/libz.so.1'")
    process:tell()
    process:expect "there"
    process:finish()
  end)

  it("a bundle of others is attached", function()
    machine.worker([[assert(sharearray.cache("bundle", { x = sharearray.array { 7 } }))]], {},
      { SHAREARRAY_SHM_PATH = directory }):finish()
    hide(directory, [[assert(assert(sharearray.get "bundle").x(0) == 7)]]):finish()
  end)

  it("an origin is gone without", function()
    machine.shell(("cd '%s'; mkdir origin first second third"):format(directory))
    local code = [[
      local origin = require "sharearray.origin.directory".new((...) .. "/origin")
      local said = {}
      local store = sharearray.new { origin = origin, log_func = function(text) said[#said + 1] = text end,
        shm_path = (...) .. "/" .. select(2, ...) }
      local value, problem, code = store:cache("x", sharearray.array { 7 })
      say(value and value(0) or code .. " " .. problem)
      say(table.concat(said, " "))
    ]]
    local process = hide(directory, code, { directory, "first" })
    process:expect "7"
    local said = process:line()
    assert.truthy(said:find "'x': not given to the origin: zlib cannot be loaded", said)
    process:finish()
    machine.worker(code, { directory, "second" }, { SHAREARRAY_SHM_PATH = directory }):finish()
    process = hide(directory, code, { directory, "third" })
    said = process:line()
    assert.truthy(said:find "^io sharearray: 'x': zlib cannot be loaded", said)
    process:finish()
    assert.same({}, machine.names(directory .. "/third"))
  end)
end)

describe("zlib", function()
  -- As packagers' tools read it: no library is needed that is not named to them.
  it("is named in the core's notes, and not loaded by who only attaches", function()
    local core = package.searchpath("sharearray.core", package.cpath)
    local file = assert(io.open(core, "rb"))
    local all = file:read "*a"
    file:close()
    assert.truthy(all:find("\10\12\124\64FDO\0[{\"feature\":\"npz\",", 1, true))
    assert.truthy(all:find('"soname":["libz.so.1"]}]', 1, true))
    local directory = machine.directory()
    local said = machine.worker([[
      local x = assert(sharearray.cache("x", sharearray.array { 1 }))
      local maps = assert(io.open "/proc/self/maps"):read "*a"
      say(maps:find("libz", 1, true) and "loaded" or "not loaded")
      assert(sharearray.cache("y", { x = x }))
      maps = assert(io.open "/proc/self/maps"):read "*a"
      say(maps:find("libz", 1, true) and "loaded" or "not loaded")
    ]], {}, { SHAREARRAY_SHM_PATH = directory }):finish()
    machine.remove(directory)
    assert.equal("not loaded\nloaded\n", said)
  end)
end)
