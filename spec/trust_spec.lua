-- What stands under a name and must not be trusted: refused quickly, and left alone.
local ffi = require "ffi"
local machine = require "support.machine"
local sharearray = require "sharearray"

ffi.cdef [[int chown(const char *path, unsigned uid, unsigned gid);]]

-- How to squat: a shell command, `P` being the path.
local TRICKS = {
  ["a symbolic link"] = "ln -s /etc/hostname P",
  ["a dangling symbolic link"] = "ln -s /nonexistent/x P",
  ["a FIFO"] = "mkfifo P",
  ["a directory"] = "mkdir P",
  ["a file that everybody can write"] = "cp GOOD P; chmod 0666 P",
  ["a hard link"] = "cp GOOD other; ln other P",
  ["another user's file"] = "cp GOOD P; chown 12345 P",
  ["another user's file that one's group can write"] = "cp GOOD P; chmod 0664 P; chown 12345 P",
}

describe("under a name, what cannot be trusted:", function()
  local directory, store

  before_each(function()
    directory = machine.directory()
    store = sharearray.new { shm_path = directory, timeout = 20 }
    assert(store:cache("good", sharearray.array({ 1, 2, 3 })))
  end)

  after_each(function() machine.remove(directory) end)

  local function picture()
    return (machine.shell("cd " .. directory .. " && ls -lni --time-style=full-iso | grep -v changes"))
  end

  local function squat(trick, name)
    local command = trick:gsub("P", name):gsub("GOOD", "sharearray_good.npy")
    local output, ok = machine.shell(("cd %s && { %s; }"):format(directory, command))
    assert(ok, output)
  end

  for name, trick in pairs(TRICKS) do
    for _, suffix in ipairs { ".npy", ".npy.lock" } do
      it(name .. ", as " .. suffix, function()
        if trick:find("chown") and not machine.is_root then pending("needs root") return end
        squat(trick, "sharearray_x" .. suffix)
        local before = picture()
        local started = machine.now()
        for _, call in ipairs { "cache", "get" } do
          local view, err, code = store[call](store, "x", call == "cache" and sharearray.array({ 1 }) or nil)
          assert.is_nil(view)
          assert.equal("untrusted", code, tostring(err))
          assert.truthy(err:find("sharearray_x.npy", 1, true) and err:find("'x'", 1, true))
        end
        assert.equal("untrusted", assert(store:stat("x")).state)
        assert(store:list())
        assert.is_true(machine.now() - started < 10)
        assert.equal(before, picture())
      end)
    end
  end

  it("another user's lock is not waited for, and another user's file not replaced by refresh or free", function()
    if not machine.is_root then pending("needs root") return end
    squat("cp GOOD P; chown 12345 P", "sharearray_x.npy")
    local before = picture()
    local _, _, code = store:refresh("x", sharearray.array({ 1 }))
    assert.equal("untrusted", code)
    _, _, code = store:free("x")
    assert.equal("untrusted", code)
    assert.equal(before, picture())
  end)

  it("the option trust lets a named user's entries in", function()
    if not machine.is_root then pending("needs root") return end
    squat("cp GOOD P; chown 12345 P", "sharearray_x.npy")
    assert.equal(3, assert(store:get("x", { trust = { 12345 } }))(2))
    local _, _, code = store:get("x", { trust = { 54321 } })
    assert.equal("untrusted", code)
  end)

  it("an owner's own untrusted file is replaced by refresh and removed by free", function()
    squat("cp GOOD P; chmod 0666 P", "sharearray_x.npy")
    assert.equal(5, assert(store:refresh("x", sharearray.array({ 5 })))(0))
    squat("rm P; ln -s /etc/hostname P", "sharearray_x.npy")
    assert.is_true(store:free("x"))
    assert.is_nil((store:get("x")))
  end)

  it("shm_path itself may be a symbolic link", function()
    local link = directory .. "/link"
    machine.shell("ln -s . " .. link)
    assert.equal(3, assert(sharearray.get("good", { shm_path = link }))(2))
  end)

  it("published files are 0444 less the umask, or as the option mode says", function()
    local umask = machine.worker([[
      ffi.cdef "unsigned umask(unsigned mask);"
      ffi.C.umask(tonumber("027", 8))
      sharearray.cache("masked", sharearray.array({1}))
      sharearray.cache("modal", sharearray.array({1}), {mode = "0400"})
    ]], {}, { SHAREARRAY_SHM_PATH = directory })
    umask:finish()
    assert.equal("440\n400\n", (machine.shell(("cd %s && stat -c %%a sharearray_masked.npy sharearray_modal.npy")
      :format(directory))))
  end)

  it("with owner, root gives away what it builds, and the owner can refresh and free it", function()
    if not machine.is_root then pending("needs root") return end
    machine.shell("chmod 1777 " .. directory)
    local owned = sharearray.new { shm_path = directory, owner = 12345 }
    assert(owned:cache("mine", function(alloc)
      local info = machine.shell("stat -c %u " .. directory .. "/sharearray_mine.npy.lock")
      assert.equal("12345\n", info)
      return alloc("int8", 1)
    end))
    assert.equal(12345, assert(owned:stat("mine")).owner)
    assert.equal("12345\n", (machine.shell("stat -c %u " .. directory .. "/sharearray_.changes.12345")))
    local worker = machine.worker([[
      ffi.cdef "int setuid(unsigned uid);"
      assert(ffi.C.setuid(12345) == 0)
      assert(sharearray.refresh("mine", sharearray.array({4})))
      say(sharearray.get("mine")(0))
      say(assert(sharearray.get("good"))(0)) -- root's is trusted
      local _, _, code = sharearray.free("good")
      say(code)
      say(sharearray.free("mine"))
    ]], {}, { SHAREARRAY_SHM_PATH = directory })
    assert.equal("4\n1\ndenied\ntrue\n", worker:finish())
  end)

  it("a trusted user's lock that is never given back costs the timeout, and says whose it is", function()
    if not machine.is_root then pending("needs root") return end
    machine.shell("chmod 1777 " .. directory)
    local holder = machine.worker([[
      ffi.cdef "int setuid(unsigned uid);"
      assert(ffi.C.setuid(12345) == 0)
      sharearray.cache("y", function() say "holds"; hear() end)
    ]], {}, { SHAREARRAY_SHM_PATH = directory })
    holder:expect("holds")
    local user = machine.worker([[
      ffi.cdef "int setuid(unsigned uid);"
      assert(ffi.C.setuid(12346) == 0)
      local started = now()
      local _, err, code = sharearray.cache("y", sharearray.array({ 1 }), { timeout = 1, trust = { 12345 } })
      local waited = now() - started
      say(code, waited >= 0.9 and waited < 20, err:find("12345", 1, true) ~= nil)
      _, _, code = sharearray.cache("y", sharearray.array({ 1 }), { timeout = 20 })
      say(code, now() - started < 20)
    ]], {}, { SHAREARRAY_SHM_PATH = directory })
    assert.equal("timeout true true\nuntrusted true\n", user:finish())
    holder:kill()
    holder:wait()
  end)

  it("another user's lock under the name of a free id is left, and not waited for", function()
    if not machine.is_root then pending("needs root") return end
    squat("touch P; chown 12345 P; chmod 0600 P", "sharearray_y.npy.lock")
    local started = machine.now()
    local _, _, code = store:cache("y", sharearray.array({ 1 }))
    assert.equal("untrusted", code)
    assert.is_true(machine.now() - started < 5)
  end)
end)
