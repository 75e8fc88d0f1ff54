-- sharearray.origin.directory: plain files that machines share, with real processes that are killed and stopped.
local directory_origin = require "sharearray.origin.directory"
local machine = require "support.machine"
local nginx = require "support.nginx"
local sharearray = require "sharearray"

-- A store of machine `...`, with an origin in the directory of the second argument.
local STORE = [[
  local shm_path, path, lease = ...
  local store = sharearray.new{ shm_path = shm_path, log_func = function(line) say(line) end,
    origin = require("sharearray.origin.directory").new(path, { lease = tonumber(lease), poll = 0.05 }) }
]]

describe("sharearray.origin.directory", function()
  local shared, machines

  before_each(function()
    shared, machines = machine.directory("/tmp"), {}
    for i = 1, 3 do machines[i] = machine.directory() end
  end)

  after_each(function()
    machine.remove(shared)
    for _, directory in ipairs(machines) do machine.remove(directory) end
  end)

  local function store(i, options)
    return sharearray.new { shm_path = machines[i], origin = directory_origin.new(shared, options or { poll = 0.01 }) }
  end

  local function number(n)
    return function() return sharearray.array({ n }) end
  end

  local function worker(i, code, lease) return machine.worker(STORE .. code, { machines[i], shared, lease or 30 }) end

  local function files(pattern)
    local list = {}
    for _, name in ipairs(machine.names(shared)) do
      if name:find(pattern) then list[#list + 1] = name end
    end
    return list
  end

  it("6 processes on 3 machines, cold: fn once, all equal", function()
    local workers = {}
    for i = 1, 6 do
      workers[i] = worker((i - 1) % 3 + 1, [[
        say "ready"
        hear()
        local x = assert(store:cache("x", function(alloc)
          say "builds"
          local x = alloc("float32", 2^20)
          for i = 0, x.size - 1 do x.data[i] = i end
          return x
        end))
        say(x(2^20 - 1), x.size)
      ]])
    end
    for _, process in ipairs(workers) do process:expect "ready" end
    for _, process in ipairs(workers) do process:tell() end
    local builds, answers = 0, 0
    for _, process in ipairs(workers) do
      local said = process:finish()
      builds = builds + select(2, said:gsub("builds\n", ""))
      answers = answers + select(2, said:gsub("1048575 1048576\n", ""))
    end
    assert.equal(1, builds)
    assert.equal(6, answers)
    local sums = machine.shell(("cat %s/*.npy | wc -c; md5sum %s/*.npy %s | cut -c1-32 | uniq | wc -l"):format(shared,
      shared, table.concat(machines, "/*.npy ") .. "/*.npy"))
    assert.equal("4194432\n1\n", sums)
  end)

  it("holds plain NumPy files, which survive a reboot", function()
    assert(store(1):cache("x", number(7)))
    assert(store(1):cache("b", { w = sharearray.array { 1, 2 }, name = "v1" }))
    for _, directory in ipairs(machines) do machine.shell("rm -f " .. directory .. "/*") end
    local said, ok = machine.shell(("cd %s && /usr/bin/python3 -c 'import numpy, glob; load = lambda pattern: "
      .. "numpy.load(glob.glob(pattern)[0]); print(load(\"*_x.*.npy\"), load(\"*_b.*.npz\")[\"w\"])'"):format(shared))
    assert.is_true(ok, said)
    assert.equal("[7.] [1. 2.]\n", said)
    assert.equal(7, assert(store(1):cache("x", error))(0))
    assert.equal("v1", assert(store(2):cache("b", error)).name)
  end)

  it("a newer version is taken, one before it kept, older ones removed", function()
    local a, b = store(1), store(2)
    assert(a:cache("x", number(1)))
    assert(b:cache("x", error))
    for i = 2, 5 do
      assert(a:refresh("x", number(i)))
      local deadline = machine.now() + 60
      repeat until assert(b:cache("x", error))(0) == i or machine.now() > deadline
      assert.equal(i, b:get "x"(0))
    end
    assert.equal(2, #files "npy$")
    assert.is_true(a:free "x")
    assert.same({}, machine.names(shared))
  end)

  it("a leaseholder that was killed is replaced, and what it left goes", function()
    worker(1, [[store:cache("x", function() die() end)]], 1):wait()
    -- Killed in the midst of a publication.
    local token = machine.shell("cut -d' ' -f1 " .. shared .. "/*.lease"):match "%x+"
    local orphan = ("%s/sharearray_x.%s.npy"):format(shared, token)
    machine.shell(("echo partial > %s; touch %s/sharearray_x.%s.new"):format(orphan, shared, token))
    local start = machine.now()
    assert.equal(2, assert(store(2, { lease = 1 }):cache("x", number(2)))(0))
    local took = machine.now() - start
    assert.is_true(took > 0.9 and took < 30, took)
    assert.is_nil(io.open(orphan))
    assert.equal(2, #files "") -- the version, and what says that it is current
    assert.equal(2, assert(store(3):cache("x", error))(0))
  end)

  it("a holder that builds for long keeps the lease by its beat", function()
    local builder = worker(1, [[
      store:cache("x", function(_, alive)
        say "builds"
        local stop = now() + 2.5
        while now() < stop do alive() end
        return sharearray.array{1}
      end)
    ]], 0.5)
    builder:expect "builds"
    assert.equal(1, assert(store(2, { lease = 0.5 }):cache("x", error))(0))
    builder:finish()
  end)

  it("a late publication of a holder that was taken for dead is refused", function()
    local late = worker(1, [[
      store:cache("x", function()
        say "builds"
        hear()
        return sharearray.array{1}
      end)
      say(store:get("x")(0))
      local deadline = now() + 60
      repeat until store:cache("x", error)(0) == 2 or now() > deadline
      say(store:get("x")(0))
    ]], 0.5)
    late:expect "builds"
    late:kill(machine.SIGSTOP)
    assert.equal(2, assert(store(2, { lease = 0.5 }):cache("x", number(2)))(0))
    late:kill(machine.SIGCONT)
    late:tell()
    local said = late:finish()
    assert.truthy(said:find "not given to the origin: this machine was taken for dead", said)
    assert.truthy(said:find "\n1\n2\n$", said) -- it served its own, and found the cluster's
    assert.equal(2, assert(store(3):cache("x", error))(0))
    assert.equal(1, #files "npy$")
  end)

  for what, harm in pairs {
    ["that is cut off"] = "truncate -s -1 %s/*.npy",
    ["that is missing"] = "rm %s/*.npy",
    -- dd asks for memory in a way that AddressSanitizer, which may be preloaded, does not let pass.
    ["with a byte changed"] = "for file in %s/*.npy; do printf x "
      .. "| env -u LD_PRELOAD dd of=$file bs=1 seek=130 conv=notrunc; done",
    ["whose .current is garbage"] = "sed -i s/^/garbage/ %s/*.current",
  } do
    it("a version " .. what .. " is thrown away, said, and rebuilt", function()
      assert(store(1):cache("x", number(1)))
      assert.is_true(select(2, machine.shell(harm:format(shared))))
      local said = {}
      local other = sharearray.new { shm_path = machines[2], origin = directory_origin.new(shared),
        log_func = function(line) said[#said + 1] = line end }
      assert.equal(2, assert(other:cache("x", number(2)))(0))
      assert.truthy(table.concat(said):find "damaged and thrown away", table.concat(said))
      assert.equal(2, assert(store(3):cache("x", error))(0))
    end)
  end

  it("a publication that is killed leaves the old version whole", function()
    assert(store(1):cache("x", number(1)))
    local builder = worker(1, [[
      store:refresh("x", error)
      store:refresh("x", function(alloc) return alloc("float32", 2^24) end)
    ]], 1)
    nginx.eventually(function() return #files "npy$" == 2 end, "the publication")
    builder:kill()
    builder:wait()
    local other = store(2, { lease = 1 })
    assert.equal(1, assert(other:cache("x", error))(0))
    assert.equal(3, assert(other:refresh("x", number(3)))(0))
    assert.equal(2, #files "npy$") -- the new one and the one before
  end)

  it("a directory that is not there, or full: the machine goes on by itself, unless it must not", function()
    local missing = directory_origin.new(shared .. "/missing")
    assert.equal(1, assert(sharearray.new { shm_path = machines[1], origin = missing }:cache("x", number(1)))(0))
    missing.required = true
    local _, text, code = sharearray.new { shm_path = machines[2], origin = missing }:cache("x", number(1))
    assert.equal("origin", code)
    assert.truthy(text:find("no directory " .. shared .. "/missing", 1, true), text)
  end)

  it("a disk that is full keeps the old version", function()
    if not machine.is_root then return pending "needs root" end
    assert.is_true(select(2, machine.shell(("mount -t tmpfs -o size=1m none '%s'"):format(shared))))
    finally(function() machine.shell("umount '" .. shared .. "'") end)
    assert(store(1):cache("x", number(1)))
    local said = {}
    local full = sharearray.new { shm_path = machines[1], origin = directory_origin.new(shared),
      log_func = function(line) said[#said + 1] = line end }
    assert.equal(2 ^ 20, assert(full:refresh("x", function(alloc) return alloc("float32", 2 ^ 20) end)).size)
    assert.truthy(table.concat(said):find "not given to the origin: the disk is full", table.concat(said))
    assert.equal(1, assert(store(2):cache("x", error))(0))
    assert.same(2, #machine.names(shared))
  end)

  it("a publication that cannot be made current leaves nothing", function()
    machine.shell(("mkdir '%s/sharearray_x.current'"):format(shared))
    assert.equal(1, assert(store(1):cache("x", number(1)))(0))
    assert.same({ "sharearray_x.current" }, machine.names(shared))
    machine.shell(("rmdir '%s/sharearray_x.current'"):format(shared))
  end)

  it("a .current that names files elsewhere is damaged, and they stay", function()
    assert(store(1):cache("x", number(1)))
    local victim = shared .. ".victim"
    machine.shell(("touch '%s'; sed -i 's|-$|../%s|' %s/*.current"):format(victim, victim:match "[^/]*$", shared))
    finally(function() os.remove(victim) end)
    assert.equal(2, assert(store(2):cache("x", number(2)))(0))
    assert.is_true(store(2):free "x")
    assert.truthy(io.open(victim))
  end)

  it("checks its arguments", function()
    assert.error_matches(function() directory_origin.new() end, "the path of a directory must be a string")
    assert.error_matches(function() directory_origin.new("/tmp", { leese = 1 }) end,
      "unknown option 'leese' %(there are lease, poll, required%)")
    assert.error_matches(function() directory_origin.new("/tmp", { lease = 0 }) end, "option 'lease' must be a number")
  end)
end)
