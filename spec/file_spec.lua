-- Files as sources: .npy and .npz of any order and compression, damaged ones, progress.
local ffi = require "ffi"
local machine = require "support.machine"
local sharearray = require "sharearray"

ffi.cdef "int truncate(const char *path, long length);"

describe("sharearray.file", function()
  local directory, store

  before_each(function()
    directory = machine.directory()
    store = sharearray.new { shm_path = directory }
  end)

  after_each(function() machine.remove(directory) end)

  -- Runs a Python program, to which the directory is `d`.
  local function python(program)
    machine.start({ "/usr/bin/python3", "-c", "import numpy, sys, zipfile\nd = sys.argv[1]\n" .. program, directory })
      :finish()
  end

  local function write(name, bytes)
    local file = assert(io.open(directory .. "/" .. name, "w"))
    file:write(bytes)
    file:close()
    return directory .. "/" .. name
  end

  local function read(name)
    local file = assert(io.open(directory .. "/" .. name))
    local bytes = file:read("*a")
    file:close()
    return bytes
  end

  -- A source that fails: its code and message. Nothing may be left in the store, not even a lock.
  local function refusal(name, opts)
    local before = table.concat(machine.names(directory), " ")
    local view, message, code = store:cache("x", sharearray.file(directory .. "/" .. name, opts))
    assert.is_nil(view)
    assert.equal(before, table.concat(machine.names(directory), " "))
    assert.same({ sharearray.array({ 1 })(0) }, assert(store:cache("x", sharearray.array({ 1 }))):totable())
    store:free("x")
    return code, message
  end

  it("gives what NumPy wrote: dtypes, byte and axis orders, ranks, versions, zips", function()
    local COUNT = 600
    local numpy = machine.python("files.py", { directory, "7", tostring(COUNT) })
    numpy:expect("ready")
    for i = 0, COUNT - 1 do
      local path = ("%s/%d.%s"):format(directory, i, i % 4 == 0 and "npz" or "npy")
      local value = assert(store:cache(tostring(i), sharearray.file(path)))
      assert.equal(i % 4 == 0 and "table" or "cdata", type(value))
    end
    numpy:tell()
    assert.truthy(numpy:finish():find("checked " .. COUNT, 1, true))
  end)

  it("converts arrays that are larger than its buffers", function()
    python [[
a = numpy.arange(3 * 10**6, dtype="f8")
numpy.save(d + "/tall.npy", a.reshape((3 * 10**5, 10), order="F"))
numpy.save(d + "/long.npy", a.astype(">f8").reshape((10**6, 3), order="F"))
numpy.save(d + "/cube.npy", a.reshape((100, 300, 100), order="F"))
numpy.savez(d + "/all.npz", big=a.astype(">f8"), tall=a.reshape((3 * 10**5, 10), order="F"))
]]
    local tall = assert(store:cache("tall", sharearray.file(directory .. "/tall.npy")))
    local long = assert(store:cache("long", sharearray.file(directory .. "/long.npy")))
    local cube = assert(store:cache("cube", sharearray.file(directory .. "/cube.npy")))
    local all = assert(store:cache("all", sharearray.file(directory .. "/all.npz")))
    for i = 0, 3e5 - 1, 7 do
      for j = 0, 9 do
        if tall(i, j) ~= i + j * 3e5 or all.tall(i, j) ~= tall(i, j) then error(i .. " " .. j) end
      end
    end
    for i = 0, 1e6 - 1, 7 do
      for j = 0, 2 do if long(i, j) ~= i + j * 1e6 then error(i .. " " .. j) end end
    end
    for i = 0, 99 do
      for j = 0, 299 do
        for k = 0, 99, 9 do if cube(i, j, k) ~= i + j * 100 + k * 30000 then error(i) end end
      end
    end
    for i = 0, 3e6 - 1, 7 do if all.big(i) ~= i then error(i) end end
  end)

  it("gives a bundle of ours the same form again, compressed or not", function()
    local numbers = sharearray.array({ 1, 2, 3 }, "int16")
    assert(store:cache("ours", { list = { numbers, sharearray.array({ { 1.5 } }) }, name = "n", n = 7, none = {} }))
    python [[
to = zipfile.ZipFile(d + "/c.npz", "w", zipfile.ZIP_DEFLATED)
to.writestr("README", "not an array")
with zipfile.ZipFile(d + "/sharearray_ours.npy") as source, to:
    for name in source.namelist():
        to.writestr(name, source.read(name))
]]
    for _, name in ipairs { "sharearray_ours.npy", "c.npz" } do
      local again = assert(store:refresh("again", sharearray.file(directory .. "/" .. name)))
      assert.same({ 1, 2, 3 }, again.list[1]:totable())
      assert.same({ { 1.5 } }, again.list[2]:totable())
      assert.same({ "n", 7, {} }, { again.name, again.n, again.none })
    end
  end)

  it("gives a bundle of ours with a great vocabulary again, but inflates none", function()
    local text = ("word "):rep(14 * 2 ^ 20)
    assert(store:cache("ours", { x = sharearray.array({ 1 }), text = text }))
    local path = directory .. "/sharearray_ours.npy"
    assert.is_true(assert(store:refresh("again", sharearray.file(path))).text == text)
    python [[
with zipfile.ZipFile(d + "/bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("sharearray.json", bytes(65 * 2**20))
]]
    local _, message, code = store:refresh("again", sharearray.file(directory .. "/bomb.npz"))
    assert.equal("unsupported", code)
    assert.truthy(message:find("sharearray.json is not usable: it is larger than 64 MiB", 1, true), message)
  end)

  it("is decided by content, follows links, and may be what a function returns", function()
    python [[
numpy.save(d + "/a.npy", numpy.arange(3))
numpy.savez(d + "/b.npz", x=numpy.arange(4))
]]
    os.rename(directory .. "/a.npy", directory .. "/really.npz")
    machine.shell(("ln -s really.npz '%s/link'"):format(directory))
    local calls = 0
    local source = function()
      calls = calls + 1
      return sharearray.file(directory .. "/link")
    end
    assert.same({ 0, 1, 2 }, assert(store:cache("a", source)):totable())
    assert.same({ 0, 1, 2 }, assert(store:cache("a", source)):totable())
    assert.equal(1, calls)
    assert.same({ 0, 1, 2, 3 }, assert(store:refresh("a", sharearray.file(directory .. "/b.npz"))).x:totable())
    assert.same({ 0, 1, 2 }, assert(store:refresh("a", source)):totable())
  end)

  it("reads nothing before a build runs", function()
    local source = sharearray.file(directory .. "/later.npy")
    python 'numpy.save(d + "/later.npy", numpy.arange(3))'
    assert.equal(3, #assert(store:cache("a", source)))
    os.remove(directory .. "/later.npy")
    assert.equal(3, #assert(store:cache("a", source)))
  end)

  it("reports progress and lets an event loop run", function()
    python [[
numpy.save(d + "/large.npy", numpy.zeros(10**7))
numpy.savez_compressed(d + "/large.npz", a=numpy.zeros(10**7, ">f8"), b=numpy.zeros((1000, 2000), order="F"))
numpy.save(d + "/none.npy", numpy.zeros((0, 3)))
]]
    for name, expected in pairs { ["large.npy"] = 8e7, ["large.npz"] = 9.6e7, ["none.npy"] = 0 } do
      local breaths, last, total, count = 0, 0, nil, 0
      local function progress(done, all)
        assert(done >= last and done - last <= 64 * 2 ^ 20)
        last, total, count = done, all, count + 1
      end
      local function sleep(seconds)
        assert(seconds == 0)
        breaths = breaths + 1
      end
      assert(store:cache(name, sharearray.file(directory .. "/" .. name, { progress = progress }), { sleep = sleep }))
      assert.same({ expected, expected }, { last, total })
      assert.is_true(count >= expected / (64 * 2 ^ 20) and count > 0 and breaths >= count)
    end
  end)

  it("an error in progress is the callback's, as it is", function()
    python 'numpy.save(d + "/a.npy", numpy.zeros(10))'
    local problem = { "mine" }
    local view, err, code = store:cache("x", sharearray.file(directory .. "/a.npy", {
      progress = function() error(problem) end,
    }))
    assert.is_nil(view)
    assert.equal(problem, err)
    assert.equal("callback", code)
    assert.same({ "a.npy" }, machine.names(directory))
  end)

  it("a coroutine that is dropped in the middle gives everything back", function()
    python 'numpy.save(d + "/a.npy", numpy.zeros(10**7))'
    local started = coroutine.create(function()
      store:cache("x", sharearray.file(directory .. "/a.npy"), { sleep = coroutine.yield })
    end)
    assert(coroutine.resume(started))
    assert.same({ "a.npy", "sharearray_x.npy.lock" }, machine.names(directory))
    started = nil -- luacheck: ignore
    for _ = 1, 4 do collectgarbage() end
    assert.same({ "a.npy" }, machine.names(directory))
    assert.equal("", (machine.shell("ls -l /proc/$PPID/fd | grep -F '" .. directory .. "'")))
  end)

  it("whose builder is killed in the middle is loaded by the next one", function()
    python [[
numpy.save(d + "/a.npy", numpy.ones(10**7))
numpy.savez(d + "/b.npz", x=numpy.ones((1000, 2000), order="F"))
]]
    for _, name in ipairs { "a.npy", "b.npz" } do
      local killed = machine.worker([[
        local path = ...
        sharearray.cache("x", sharearray.file(path, { progress = die }))
      ]], { directory .. "/" .. name }, { SHAREARRAY_SHM_PATH = directory })
      assert.equal(-9, (killed:wait()))
      local value = assert(store:cache("x", sharearray.file(directory .. "/" .. name)))
      assert.equal(1, type(value) == "table" and value.x(999, 1999) or value(1e7 - 1))
      assert.is_true(store:free("x"))
    end
    assert.same({ "a.npy", "b.npz" }, machine.names(directory))
  end)

  it("blames the caller for wrong arguments", function()
    local function blamed(expected, ...)
      local ok, err = pcall(function(...) return (sharearray.file(...)) end, ...)
      assert.is_false(ok)
      assert.truthy(err:find("file_spec.lua", 1, true), err)
      assert.truthy(err:find(expected, 1, true), err)
    end
    blamed("must be a string, got nil")
    blamed("must be a string, got number", 7)
    blamed("must be a string", "")
    blamed("must be a string", "a\0b")
    blamed("options must be a table", "a", 7)
    blamed("unknown option 'progres' (there is progress)", "a", { progres = print })
    blamed("option 'progress' must be a function", "a", { progress = true })
    -- A bundle holds arrays, not promises of them.
    local ok, err = pcall(store.cache, store, "x", { a = sharearray.array({ 1 }), b = sharearray.file "b.npy" })
    assert.is_false(ok)
    assert.truthy(err:find("its member 'b' is a userdata", 1, true), err)
  end)

  it("says io for what is not there, unsupported for what is no file, denied where it may not", function()
    local code, message = refusal("absent.npy")
    assert.equal("io", code)
    assert.truthy(message:find(directory .. "/absent.npy: there is no such file", 1, true), message)
    machine.shell(("mkfifo '%s/fifo'; mkdir '%s/folder'"):format(directory, directory))
    for _, name in ipairs { "fifo", "folder" } do
      code, message = refusal(name)
      assert.equal("unsupported", code)
      assert.truthy(message:find("no regular file", 1, true))
    end
    if not machine.is_root then
      machine.shell(("touch '%s/mine'; chmod 0 '%s/mine'"):format(directory, directory))
      assert.equal("denied", (refusal("mine")))
    end
  end)

  it("says no_space, with the figures, before anything is copied", function()
    write("huge.npy", "")
    python [[
with open(d + "/huge.npy", "wb") as file:
    numpy.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": True, "shape": (10**7, 10**7)})
    file.truncate(file.tell() + 8 * 10**14)
]]
    local code, message = refusal("huge.npy")
    assert.equal("no_space", code)
    assert.truthy(message:find("800000000000128 bytes needed", 1, true), message)
  end)

  it("a file that shrinks while it is read is corrupt, not SIGBUS", function()
    for _, name in ipairs { "a.npy", "f.npy", "s.npz", "c.npz" } do
      python [[
numpy.save(d + "/a.npy", numpy.zeros(10**7))
numpy.save(d + "/f.npy", numpy.zeros((1000, 10**4), order="F"))
numpy.savez(d + "/s.npz", a=numpy.zeros(10**7))
numpy.savez_compressed(d + "/c.npz", a=numpy.random.default_rng(1).random(10**7))
]]
      local code, message = refusal(name, {
        progress = function() ffi.C.truncate(directory .. "/" .. name, 5000) end,
      })
      assert.equal("corrupt", code)
      assert.truthy(message:find("became shorter while it was read", 1, true), message)
    end
  end)

  describe("refuses", function()
    -- The name, a program that writes bad.npz, the code, words of the message. The programs have:
    local HELPERS = [[
import io
def save(function=numpy.savez):
    function(d + "/bad.npz", first=numpy.arange(100), second=numpy.arange(5))
def patch(at, *values, offset=0):
    b = bytearray(open(d + "/bad.npz", "rb").read())
    start = b.index(at) + offset
    b[start:start + len(values)] = values
    open(d + "/bad.npz", "wb").write(b)
def add(name, text, mode="a", way=zipfile.ZIP_STORED):
    with zipfile.ZipFile(d + "/bad.npz", mode, way) as archive: archive.writestr(name, text)
]]
    local FORM = "its member sharearray.json is not usable: "
    local cases = {
      { "a stored member whose bytes changed", "save(); patch(b'second', 77, offset=180)", "corrupt",
        "its member second.npy is not usable: its CRC-32 does not match" },
      { "a deflated member with another CRC", "save(numpy.savez_compressed); patch(b'PK\\1\\2', 1, 2, offset=16)",
        "corrupt", "its member first.npy is not usable: its CRC-32 does not match" },
      { "a deflated member that is no deflate",
        "save(numpy.savez_compressed); patch(b'first', *([255] * 40), offset=40)", "corrupt",
        "its member first.npy is not usable: " },
      { "an encrypted member", "save(); patch(b'PK\\1\\2', 1, offset=8)", "unsupported", "encrypted" },
      { "a member in bzip2", "add('a.npy', b'x' * 99, 'w', zipfile.ZIP_BZIP2)", "unsupported", "method 12" },
      { "a zip without arrays", "add('a.txt', 'x', 'w')", "unsupported", "without .npy members" },
      { "an empty zip", 'zipfile.ZipFile(d + "/bad.npz", "w").close()', "unsupported", "without .npy members" },
      { "a pickle in an archive", 'numpy.savez(d + "/bad.npz", a=numpy.array([{}], dtype=object))', "unsupported",
        "its member a.npy is not usable: its elements are Python objects" },
      { "a bomb behind a small header", [[
f = io.BytesIO(); numpy.save(f, numpy.arange(3)); f.write(bytes(10**8))
add("a.npy", f.getvalue(), "w", zipfile.ZIP_DEFLATED)]], "corrupt", "longer than its header says" },
      { "a form that is none", "save(); add('sharearray.json', '{')", "corrupt", FORM },
      { "a form that is no table", "save(); add('sharearray.json', '5')", "corrupt", FORM .. "the form is no table" },
      { "a form with an array too many", [[save(); add("sharearray.json", '{"a":{"$array":"third"}}')]], "corrupt",
        FORM .. "the form names a member that is not there" },
      { "text", 'open(d + "/bad.npz", "w").write("hello")', "corrupt", "no .npy file" },
      { "nothing", 'open(d + "/bad.npz", "w")', "corrupt", "ends inside its magic" },
    }
    for _, case in ipairs(cases) do
      local name, program, expected, words = unpack(case)
      it(name, function()
        python(HELPERS .. program)
        local code, message = refusal("bad.npz")
        assert.truthy(message:find(words, 1, true), message)
        assert.truthy(message:find("cannot import " .. directory .. "/bad.npz: ", 1, true), message)
        assert.equal(expected, code)
      end)
    end

    it("every truncation", function()
      python 'numpy.savez_compressed(d + "/bad.npz", a=numpy.arange(9))\nnumpy.save(d + "/bad.npy", numpy.arange(9))'
      for _, name in ipairs { "bad.npy", "bad.npz" } do
        local bytes = read(name)
        for cut = 0, #bytes - 1 do
          write(name, bytes:sub(1, cut))
          local view, _, code = store:cache("x", sharearray.file(directory .. "/" .. name))
          assert.is_nil(view)
          assert.equal("corrupt", code)
        end
      end
      assert.same({ "bad.npy", "bad.npz" }, machine.names(directory))
    end)
  end)
end)
