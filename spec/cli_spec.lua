-- The command: run as a process, in a private directory, as a shell runs it.
local cjson = require "cjson"
local machine = require "support.machine"
local sharearray = require "sharearray"

local ROOT = machine.shell("pwd"):match("[^\n]+")
local COMMAND = ROOT .. "/bin/sharearray"

local directory, scratch, store -- of one test; scratch is on a disk

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

-- Runs a shell command in `scratch`: exit status, standard output, standard error.
local function shell(command)
  local status = machine.shell(("cd '%s' && { %s; } >'%s/out' 2>'%s/err'; echo $?"):format(scratch, command, scratch,
    scratch))
  return tonumber(status), read(scratch .. "/out"), read(scratch .. "/err")
end

-- `variables` are set for the shell that runs it.
local function run(arguments, variables)
  return shell(("export LUAJIT='%s' SHAREARRAY_SHM_PATH='%s' %s; '%s' %s"):format(machine.luajit, directory,
    variables or "", COMMAND, arguments))
end

-- Runs what has to go well, in silence: its output.
local function good(arguments)
  local status, out, err = run(arguments)
  assert.same({ 0, "" }, { status, err })
  return out
end

-- Runs what has to fail: its message.
local function bad(expected, arguments, variables)
  local status, out, err = run(arguments, variables)
  assert.same({ expected, "" }, { status, out }, err)
  assert.truthy(err:find("^sharearray: [^\n]+\n"), err)
  assert.is_nil(err:find("%.lua:%d") or err:find("traceback"), err)
  return err
end

local function has(text, part) assert.truthy(text:find(part, 1, true), text) end

-- A process in the midst of a build, by `cache` or `refresh`; it goes on when it is told.
local function builder_of(call, id)
  local builder = machine.worker([[
    local call, id = ...
    sharearray[call](id, function(alloc)
      say "building"
      hear()
      return alloc("int8", 1)
    end)
  ]], { call, id }, { SHAREARRAY_SHM_PATH = directory })
  builder:expect("building")
  return builder
end

local function ids()
  local list = {}
  for i, info in ipairs(assert(store:list())) do list[i] = info.id end
  return table.concat(list, " ")
end

before_each(function()
  directory, scratch = machine.directory(), machine.directory("/tmp")
  store = sharearray.new { shm_path = directory }
end)

after_each(function()
  machine.remove(directory)
  machine.remove(scratch)
end)

local function two_entries()
  assert(store:cache("train", sharearray.array({ { 1, 2, 3 }, { 4, 5, 6 } }, "float32")))
  assert(store:cache("model", {
    weight = sharearray.array({ 1.5, 2.5 }, "float64"), layers = { sharearray.array({ 7 }, "uint8") }, name = "tiny",
  }))
end

describe("sharearray ls", function()
  it("prints only its head where nothing is", function()
    assert.equal("ID  SIZE  AGE  OWNER  STATE  CONTENT\n", good "ls")
    assert.equal("[]\n", good "ls --json")
  end)

  it("prints a line for each entry, in columns", function()
    two_entries()
    local lines, owner = {}, machine.shell("id -un"):match("%S+")
    for line in good "ls":gmatch("[^\n]+") do lines[#lines + 1] = line end
    assert.equal(3, #lines)
    assert.truthy(lines[3]:find("^train   +152   +%d+s  " .. owner .. " +ready  float32 %(2, 3%)$"), lines[3])
    assert.truthy(lines[2]:find("^model   .* ready  bundle of %d members$"), lines[2])
    for _, line in ipairs { lines[2], lines[3] } do
      assert.equal(lines[1]:find("STATE", 1, true), line:find("ready", 1, true))
      assert.equal(lines[1]:find("AGE", 1, true) + #"AGE", line:find(" *" .. owner))
    end
  end)

  it("rounds sizes to three digits", function()
    assert(store:cache("big", function(alloc) return alloc("uint8", 3 * 2 ^ 20 + 2 ^ 19) end))
    has(good "ls", "  3.5M  ")
  end)

  it("names the builder of what is being built", function()
    local builder = builder_of("cache", "x")
    assert.truthy(good "ls":find("\nx  +0    +%-  %S+ +building  by %S+, process " .. builder.pid .. "\n"), good "ls")
    assert.equal(builder.pid, cjson.decode(good "ls --json")[1].builder.pid)
    builder:tell()
    builder:finish()
  end)

  it("shows no control characters of a long dtype, which are the file's own", function()
    local fields = {}
    for i = 1, 40 do fields[i] = ("('f%d',\r\t\n'|u1')"):format(i) end
    local header = ("{'descr': [%s], 'fortran_order': False, 'shape': (1,)}"):format(table.concat(fields, ", "))
    local length = 1014 -- with the 10 bytes before it, a multiple of 64
    header = header .. (" "):rep(length - 1 - #header) .. "\n"
    write(directory .. "/sharearray_fields.npy",
      "\147NUMPY\1\0" .. string.char(length % 256, math.floor(length / 256)) .. header .. ("x"):rep(40))
    local line = good "ls":match "\n(fields.*)\n$"
    assert.truthy(line:find("^fields +1.0K .* ready +%[%('f1',%?%?%?'|u1'%)"), line)
    assert.is_nil(line:find "%c", line)
  end)

  it("names who is replacing what is there", function()
    two_entries()
    local builder = builder_of("refresh", "train")
    assert.truthy(good "ls":find(" ready +float32 %(2, 3%); being replaced by %S+, process " .. builder.pid .. "\n"))
    builder:tell()
    builder:finish()
    assert.truthy(good "ls":find(" ready +int8 %(1,%)\n"))
  end)

  it("writes JSON", function()
    two_entries()
    assert(store:cache("scalar", sharearray.array(5)))
    local list = cjson.decode(good "ls --json")
    assert.equal(3, #list)
    local train = list[3]
    assert.same({ "train", "array", "float32", { 2, 3 }, 24, 152, "ready" },
      { train.id, train.kind, train.dtype, train.shape, train.nbytes, train.bytes, train.state })
    assert.equal(machine.shell("id -un"), train.owner_name .. "\n")
    has(good "ls --json", '"shape":[]')
  end)

  it("looks where the options say", function()
    local other = machine.directory()
    finally(function() machine.remove(other) end)
    assert(sharearray.cache("x", sharearray.array({ 1 }), { shm_path = other, prefix = "other_" }))
    has(good("ls --shm-path " .. other .. " --prefix other_"), "\nx ")
    has(good("--shm-path " .. other .. " --prefix other_ ls"), "\nx ")
    assert.is_nil(good("--shm-path " .. other .. " ls"):find("\nx "))
  end)
end)

describe("sharearray stat", function()
  it("shows an array", function()
    two_entries()
    store = nil
    local out = good "stat train"
    for _, line in ipairs { "id        train\n", "path      " .. directory .. "/sharearray_train.npy\n",
      "state     ready\n", "dtype     float32\n", "shape     (2, 3)\n", "size      152 (152 bytes)\n" } do
      has(out, line)
    end
    local mode = machine.shell("stat -c %a " .. directory .. "/sharearray_train.npy"):match("%d+")
    assert.truthy(out:find("owner     %S+, mode 0" .. mode .. "\n"), out)
  end)

  it("counts the processes that have it mapped, and what they save", function()
    local view = assert(store:cache("x", function(alloc) return alloc("float64", 1000) end))
    local worker = machine.worker([[
      local view = assert(sharearray.get("x"))
      say(view.size)
      hear()
    ]], {}, { SHAREARRAY_SHM_PATH = directory })
    worker:expect("1000")
    local me = require("ffi").C.getpid()
    local info = cjson.decode(good "stat x --json")
    table.sort(info.processes)
    local both = { me, worker.pid }
    table.sort(both)
    assert.same({ both, 8000 }, { info.processes, info.saved })
    has(good "stat x", ("attached  2 (%d, %d)"):format(both[1], both[2]))
    has(good "stat x", "saved     7.8K\n")
    worker:tell()
    worker:finish()
    assert.same({ { me }, 0 }, { cjson.decode(good "stat x --json").processes,
      cjson.decode(good "stat x --json").saved })
    view:close()
    collectgarbage() -- the array that alloc gave
    collectgarbage()
    has(good "stat x --json", '"processes":[]')
  end)

  it("does not count those that hold an older version", function()
    assert(store:cache("x", sharearray.array({ 1 })))
    local old = store:get("x")
    assert(sharearray.new({ shm_path = directory, mode = "0400" }):refresh("x", sharearray.array({ 2 }))):close()
    has(good "stat x --json", '"processes":[]')
    assert.equal(1, old(0))
  end)

  it("says what is wrong with an entry", function()
    write(directory .. "/sharearray_bad.npy", ("this is no array"):rep(20))
    local out = good "stat bad"
    has(out, "state     corrupt\n")
    assert.truthy(out:find("\nreason    %S"), out)
  end)

  it("fails where there is none", function()
    has(bad(1, "stat nothing"), "'nothing'")
  end)
end)

describe("sharearray load", function()
  before_each(function()
    assert(store:cache("source", sharearray.array({ { 1, 2 }, { 3, 4 } }, "int16")))
    good "save source train.v1.npy"
    store:free("source")
  end)

  it("takes the file's name as the id, and says what it does", function()
    local status, out, err = run "load train.v1.npy"
    assert.same({ 0, "" }, { status, out }, err)
    assert.same({ { 1, 2 }, { 3, 4 } }, assert(store:get("train.v1")):totable())
    has(err, "sharearray: 'train.v1': building\n")
    has(err, "sharearray: 'train.v1': 100% of ")
    has(err, "sharearray: 'train.v1': published, int16 (2, 2)")
    assert.is_nil(err:find("[\r\27]"))
  end)

  it("takes another id", function()
    assert.equal(0, (run "load train.v1.npy --id other"))
    assert.equal("other", ids())
  end)

  it("leaves what is there, unless told to replace it", function()
    assert(store:cache("train.v1", sharearray.array({ 9 })))
    local status, out, err = run "load train.v1.npy"
    assert.same({ 0, "" }, { status, out })
    has(err, "'train.v1' is there already")
    assert.same({ 9 }, store:get("train.v1"):totable())
    assert.equal(0, (run "load --refresh train.v1.npy"))
    assert.same({ 2, 2 }, sharearray.get("train.v1", { shm_path = directory }).shape)
  end)

  it("draws a bar on a terminal", function()
    local status, out = shell(("LUAJIT='%s' SHAREARRAY_SHM_PATH='%s' script -qec '%s load train.v1.npy' /dev/null")
      :format(machine.luajit, directory, COMMAND))
    assert.equal(0, status)
    assert.truthy(out:find("\r%[#+%] 100%% of %d+\r?\nsharearray: [^\n]+ in [%d.]+ s\r?\n$"), out)
    assert.equal("train.v1", ids())
  end)

  it("fails with one message where the file is missing or no array", function()
    write(scratch .. "/text.npy", "this is no array")
    for _, name in ipairs { "none.npy", "text.npy" } do
      local status, out, err = run("load " .. name)
      assert.same({ 1, "" }, { status, out })
      local reason = err:match("\nsharearray: ([^\n]+)\n$") or err:match("^sharearray: ([^\n]+)\n$")
      assert.truthy(reason and reason:find(name:match("%a+"), 1, true), err)
      assert.is_nil(err:find("not built"), err)
    end
    assert.equal("", ids())
  end)

  it("refuses a name that can be no id", function()
    has(bad(2, "load 'a b.npy'"), "'a b' can be no id: give one with --id")
    has(bad(2, "load x.npy --id 'a b'"), "invalid id 'a b'")
  end)

  it("ends quietly when interrupted", function()
    local builder = builder_of("cache", "x")
    local load = machine.start({ COMMAND, "load", scratch .. "/train.v1.npy", "--id", "x" },
      { SHAREARRAY_SHM_PATH = directory, LUAJIT = machine.luajit })
    has(load:line(), "is building it; waiting")
    load:kill(machine.SIGINT)
    local status, said = load:wait()
    assert.equal(130, status)
    assert.is_nil(said:find("interrupted"), said)
    builder:tell()
    builder:finish()
  end)
end)

describe("sharearray save", function()
  it("writes the bytes of the entry, under its name only", function()
    two_entries()
    assert.equal("", good "save train a.npy")
    assert.equal(read(directory .. "/sharearray_train.npy"), read(scratch .. "/a.npy"))
    good "save model b.npz"
    assert.same({ "a.npy", "b.npz", "err", "out" }, machine.names(scratch))
    local status, out = shell("/usr/bin/python3 -c 'import numpy; f = numpy.load(\"b.npz\"); "
      .. "print(f[\"weight\"].tolist(), f[\"layers/1\"].tolist())'")
    assert.same({ 0, "[1.5, 2.5] [7]\n" }, { status, out })
  end)

  it("replaces a file only when told to", function()
    two_entries()
    write(scratch .. "/a.npy", "precious")
    has(bad(1, "save train a.npy"), "a.npy exists already: --force replaces it")
    assert.equal("precious", read(scratch .. "/a.npy"))
    good "save --force train a.npy"
    assert.equal(152, #read(scratch .. "/a.npy"))
    assert.same({ "a.npy", "err", "out" }, machine.names(scratch))
  end)

  it("leaves nothing behind when it fails", function()
    two_entries()
    has(bad(1, "save train none/a.npy"), "No such file or directory")
    machine.shell("mkdir " .. scratch .. "/folder")
    has(bad(1, "save --force train folder"), "folder: Is a directory")
    has(bad(1, "save train folder"), "exists already")
    has(bad(1, "save nothing a.npy"), "'nothing'")
    assert.same({ "err", "folder", "out" }, machine.names(scratch))
  end)

  it("leaves nothing behind when it is interrupted", function()
    assert(store:cache("big", function(alloc) return alloc("uint8", 2 ^ 29) end))
    local save = machine.start({ COMMAND, "save", "big", scratch .. "/a.npy" },
      { SHAREARRAY_SHM_PATH = directory, LUAJIT = machine.luajit })
    repeat until machine.names(scratch)[1]
    save:kill(machine.SIGINT)
    assert.equal(130, (save:wait()))
    assert.same({}, machine.names(scratch))
  end)

  it("leaves nothing behind, whichever of its instructions is interrupted", function()
    local said = machine.worker([[
      jit.off() -- compiled code never looks at a hook
      local system = require "sharearray.cli.system"
      local path, memory = ..., ffi.new("char[100]")
      local temporary, left, at = ("%s.%d.tmp"):format(path, system.pid), 0, 0
      local function is_interrupted(replace)
        local count, interrupted = 0, false
        pcall(function()
          debug.sethook(function()
            count = count + 1
            if count < at then return end
            interrupted = true
            debug.sethook() -- once, as LuaJIT's own
            error("interrupted!", 0)
          end, "", 1)
          system.save(path, memory, 100, replace)
          debug.sethook()
        end)
        return interrupted
      end
      for _, replace in ipairs { true, false } do
        at = 0
        repeat
          at = at + 1
          os.remove(path)
          local interrupted = is_interrupted(replace)
          if system.stat(temporary) then left = left + 1 end
          os.remove(temporary)
        until not interrupted
        assert(at > 50 and system.stat(path))
      end
      say("left", left)
    ]], { scratch .. "/a.npy" }, {}):finish()
    assert.equal("left 0\n", said)
  end)

  it("says that the disk is full", function()
    two_entries()
    local full = machine.directory()
    local _, mounted = machine.shell("mount -t tmpfs -o size=8k tmpfs " .. full)
    finally(function()
      machine.shell("umount " .. full)
      machine.remove(full)
    end)
    if not mounted then pending("needs mount") return end
    assert(store:cache("big", function(alloc) return alloc("uint8", 20000) end))
    has(bad(1, "save big " .. full .. "/a.npy"), "No space left")
    assert.same({}, machine.names(full))
  end)
end)

describe("sharearray head", function()
  it("prints what tostring gives of an array", function()
    local big = assert(store:cache("big", function(alloc) return alloc("float32", { 60000, 784 }) end))
    assert.equal(tostring(big) .. "\n", good "head big")
  end)

  it("prints each member of a bundle under its name", function()
    two_entries()
    assert.equal([[
layers/1
array([7], dtype=uint8, shape=(1,))
name = tiny
weight
array([1.5, 2.5], dtype=float64, shape=(2,))
]], good "head model")
  end)

  it("prints the corners of long lists, and nothing that commands a terminal", function()
    local words = {}
    for i = 1, 20000 do words[i] = "w" .. i end
    assert(store:cache("words", { vectors = sharearray.array({ 1 }, "uint8"), words = words, none = sharearray.null,
      map = {}, list = sharearray.as_list {}, ["odd\27[1m"] = "a\27[31m\0\nb" }))
    assert.equal([[
list = []
map = {}
none = null
odd\x1b[1m = a\x1b[31m\x00\x0ab
vectors
array([1], dtype=uint8, shape=(1,))
words/1 = w1
words/2 = w2
words/3 = w3
... 19994 more
words/19998 = w19998
words/19999 = w19999
words/20000 = w20000
]], good "head words")
  end)

  it("fails where there is none", function()
    has(bad(1, "head nothing"), "'nothing'")
  end)
end)

describe("sharearray free", function()
  before_each(two_entries)

  it("removes what is named", function()
    assert.equal("", good "free train")
    assert.equal("model", ids())
  end)

  it("goes on after an id that is not there, and fails", function()
    has(bad(1, "free nothing train"), "'nothing': nothing is there")
    assert.equal("model", ids())
  end)

  it("removes all of its prefix with --all", function()
    assert(sharearray.cache("x", sharearray.array({ 1 }), { shm_path = directory, prefix = "other_" }))
    good "free --all"
    assert.same({ "other_x.npy" }, machine.names(directory))
    good "free --all"
  end)

  it("takes ids or --all", function()
    bad(2, "free")
    bad(2, "free train --all")
    assert.equal("model train", ids())
  end)
end)

describe("sharearray gc", function()
  -- In this order, each later than the one before by the file system's clock.
  before_each(function()
    local times = {}
    for i, id in ipairs { "c", "a", "b" } do
      repeat
        assert(store:refresh(id, sharearray.array({ i }, "uint8")))
        times[i] = machine.shell("stat -c %z " .. directory .. "/sharearray_" .. id .. ".npy")
      until times[i] ~= times[i - 1]
    end
  end)

  local function removed(text)
    local list = {}
    for id in text:gmatch("removed? (%S+) %(129, %d+s old%)\n") do list[#list + 1] = id end
    return table.concat(list, " ")
  end

  it("removes what is older, the oldest first, and says so", function()
    assert.equal("", good "gc --older-than 1h")
    assert.equal("a b c", ids())
    assert.equal("c a b", removed(good "gc --older-than 0s"))
    assert.equal("", ids())
  end)

  it("keeps as many bytes as it is told, of the newest", function()
    assert.equal("", good "gc --keep-bytes 1K")
    assert.equal("c", removed(good "gc --keep-bytes 258"))
    assert.equal("a b", ids())
    assert.equal("a", removed(good "gc --keep-bytes 257 --older-than 7d"))
    assert.equal("b", ids())
  end)

  it("removes nothing in a dry run", function()
    local out = good "gc --keep-bytes 129 --dry-run"
    has(out, "would remove c ")
    assert.equal("c a", removed(out))
    assert.equal("a b c", ids())
  end)

  it("leaves what is being built, and what is not trusted", function()
    machine.shell("chmod 666 " .. directory .. "/sharearray_c.npy")
    local builder = builder_of("refresh", "x")
    assert.equal("a b", removed(good "gc --keep-bytes 0"))
    assert.equal("c x", ids())
    builder:tell()
    builder:finish()
  end)

  it("refuses what is no size or age, and neither", function()
    has(bad(2, "gc"), "--older-than, --keep-bytes")
    has(bad(2, "gc --older-than 2"), "'2' is no age")
    has(bad(2, "gc --older-than 2y"), "'2y' is no age")
    has(bad(2, "gc --keep-bytes 4X"), "'4X' is no size")
    has(bad(2, "gc --keep-bytes -1"), "-1")
    assert.equal("a b c", ids())
  end)

  it("knows all units", function()
    for _, size in ipairs { "0.5k", "1M", "1.5G", "2T", "1P" } do good("gc --keep-bytes " .. size) end
    for _, age in ipairs { "90s", "1.5m", "2h", "2d", "1w" } do good("gc --older-than " .. age) end
    assert.equal("a b c", ids())
  end)
end)

describe("sharearray doctor", function()
  -- What it says of one line's subject, and its exit status.
  local function diagnose(arguments)
    local status, out, err = run("doctor " .. (arguments or ""))
    assert.equal("", err)
    return out, status
  end

  it("finds nothing wrong with a sound store", function()
    two_entries()
    local out, status = diagnose()
    assert.equal(0, status, out)
    for _, line in ipairs { "ok     locks: none", "ok     entries: 2, all sound\n",
      "ok     counter page: " .. directory, "ok     mappings: " } do
      has(out, line)
    end
    assert.truthy(out:find("\n%a+ +huge pages: "), out)
  end)

  it("removes a dead Python builder's lock, and says so", function()
    write(directory .. "/sharearray_x.npy.lock", "")
    local out, status = diagnose()
    assert.equal(1, status)
    has(out, "wrong  'x': a dead builder's lock\n")
    assert.same({}, machine.names(directory))
    out, status = diagnose()
    assert.same({ 0, nil }, { status, out:find("wrong", 1, true) })
  end)

  it("removes a killed builder's lock, and leaves a live one's", function()
    local program = [[
      sharearray.cache((...), function()
        say "building"
        hear()
      end)
    ]]
    local dead = machine.worker(program, { "dead" }, { SHAREARRAY_SHM_PATH = directory })
    local live = machine.worker(program, { "live" }, { SHAREARRAY_SHM_PATH = directory })
    dead:expect("building")
    live:expect("building")
    has(diagnose(), "ok     locks: none is stale, 2 live\n")
    dead:kill()
    dead:wait()
    local out, status = diagnose()
    assert.equal(1, status)
    has(out, "wrong  'dead': a dead builder's lock\n")
    assert.is_nil(out:find("'live'", 1, true), out)
    live:tell()
    live:finish()
  end)

  local function spoiled(id, spoil)
    two_entries()
    local path = directory .. "/sharearray_" .. id .. ".npy"
    assert.truthy(select(2, machine.shell(spoil:gsub("FILE", path))))
    local out, status = diagnose()
    assert.equal(1, status, out)
    assert.is_nil(out:find("all sound", 1, true), out)
    return out
  end

  it("finds a partial entry", function()
    local out = spoiled("half", "head -c 140 " .. directory .. "/sharearray_train.npy >FILE")
    has(out, "wrong  'half' is partial: a dead builder left it\n       sharearray free half\n")
  end)

  it("finds a corrupt entry", function()
    local out = spoiled("text", "yes no array | head -c 1000 >FILE")
    has(out, "wrong  'text' is corrupt: ")
    has(out, "       sharearray free text\n")
  end)

  it("finds an entry that everybody can write", function()
    local out = spoiled("train", "chmod 666 FILE")
    has(out, "wrong  'train' is untrusted\n       ")
    has(out, "can be written by everybody")
  end)

  it("takes the users that --trust names for sound", function()
    if not machine.is_root then pending("only root can give files away") return end
    assert(store:cache("x", sharearray.array { 1 }, { owner = 33 }))
    assert.equal(1, select(2, diagnose()))
    local out, status = diagnose "--trust 33"
    assert.equal(0, status, out)
    has(good "ls --trust 33", " ready ")
    good "free x --trust 33"
    assert.same({ 2, "sharearray: malformed argument 'www-data'\n" },
      { (run "ls --trust www-data"), (select(3, run "ls --trust www-data")):match("^[^\n]+\n") })
  end)

  it("knows huge pages of a tmpfs only", function()
    local out = diagnose("--shm-path " .. scratch)
    if not out:find("not in memory", 1, true) then pending("/tmp is a tmpfs") return end
    assert.is_nil(out:find("huge", 1, true), out)
  end)

  it("finds a counter page that is none", function()
    local uid = require("ffi").C.geteuid()
    local page = ("%s/other_.changes.%d"):format(directory, uid)
    good "ls"
    local spoilt = { "echo no page >PAGE", "head -c 4096 /dev/zero >PAGE", "cp SOUND PAGE && chmod 666 PAGE" }
    for _, spoil in ipairs(spoilt) do
      local sound = ("%s/sharearray_.changes.%d"):format(directory, uid)
      assert.truthy(select(2, machine.shell((spoil:gsub("PAGE", page):gsub("SOUND", sound)))))
      local out, status = diagnose "--prefix other_"
      assert.equal(1, status, spoil)
      has(out, "wrong  counter page: " .. page .. " is not sound")
      has(out, "       rm " .. page)
    end
  end)

  it("finds no directory", function()
    local out, status = diagnose("--shm-path " .. directory .. "/none")
    assert.equal(1, status)
    assert.truthy(out:find("^wrong  .*No such file or directory"), out)
  end)

  it("hints that a disk is no memory", function()
    local kind = machine.shell("stat -f -c %T " .. scratch)
    if kind:find("tmpfs") then pending("needs a disk") return end
    assert.truthy(diagnose("--shm-path " .. scratch):find("^hint   " .. scratch .. " lies on %S+, not in memory"))
  end)

  describe("on a tmpfs of its own", function()
    local function mounted(options, test)
      local _, ok = machine.shell(("mount -t tmpfs -o %s tmpfs %s"):format(options, directory))
      if not ok then pending("needs mount") return end
      local done, problem = pcall(test)
      machine.shell("umount " .. directory)
      if not done then error(problem, 0) end
    end

    it("finds a container's 64 MB", function()
      mounted("size=64m", function()
        local out, status = diagnose()
        assert.equal(1, status)
        assert.truthy(out:find("^wrong  " .. directory .. ": tmpfs of 64M, 64M free; [^\n]*container"), out)
        has(out, "--shm-size=8g, or: mount -o remount,size=8g " .. directory .. "\n")
      end)
    end)

    it("finds that it is nearly full", function()
      mounted("size=80m", function()
        assert.truthy(select(2, machine.shell("fallocate -l 78m " .. directory .. "/ballast")))
        local out, status = diagnose()
        assert.equal(1, status)
        has(out, "nearly full\n       sharearray gc ")
      end)
    end)

    it("finds huge pages allowed", function()
      local switch = machine.shell("cat /sys/kernel/mm/transparent_hugepage/shmem_enabled")
      if not switch:find("[[]%l+%]") or switch:find("[deny]", 1, true) or switch:find("[force]", 1, true) then
        pending("the kernel's switch stands above the mount's") return
      end
      mounted("size=80m,huge=advise", function() has(diagnose(), "ok     huge pages: advise\n") end)
      mounted("size=80m", function()
        has(diagnose(), "hint   huge pages: off")
        has(diagnose(), "       mount -o remount,huge=advise " .. directory .. "\n")
      end)
    end)
  end)
end)

describe("the command line", function()
  it("says what is wrong with it, with status 2", function()
    has(bad(2, ""), "a command is required\nUsage: sharearray ")
    has(bad(2, "lss"), "unknown command 'lss'")
    has(bad(2, "stat"), "missing argument")
    has(bad(2, "ls --long"), "unknown option '--long'\nUsage: sharearray ls ")
    has(bad(2, "stat a/b"), "invalid id 'a/b'")
    has(bad(2, "free a ''"), "invalid id ''")
    has(bad(2, "--prefix a/b ls"), "option 'prefix' must be")
    has(bad(2, "--shm-path '' ls"), "option 'shm_path' must be")
  end)

  it("fails without its directory", function()
    has(bad(1, "--shm-path " .. directory .. "/none ls"), "No such file or directory")
  end)

  it("shows its version and help", function()
    assert.equal("sharearray " .. sharearray._VERSION .. "\n", good "--version")
    local help = good "--help"
    for name in ("ls stat load save head free gc doctor completion"):gmatch("%a+") do
      assert.truthy(help:find("\n +" .. name .. " "), name)
      assert.truthy(good(name .. " --help"):find("^Usage: sharearray " .. name .. " "), name)
    end
  end)

  it("completes words in the shells", function()
    local script = good "completion bash"
    write(scratch .. "/completion", script)
    local status, out = shell([[bash -c 'source ./completion; COMP_WORDS=(sharearray do) COMP_CWORD=1
      _sharearray sharearray do sharearray; echo "${COMPREPLY[@]}"']])
    assert.same({ 0, "doctor\n" }, { status, out })
    has(good "completion zsh", "#compdef sharearray")
    has(good "completion fish", "complete -c sharearray ")
    bad(2, "completion csh")
  end)

  it("dies quietly when nobody reads", function()
    local status, _, err = run("ls >&4", "A=; mkfifo pipe; exec 3<>pipe 4>pipe 3>&-")
    assert.same({ 128 + 13, "" }, { status, err })
  end)

  it("says that its output cannot be written", function()
    for _, arguments in ipairs { "ls", "ls --json", "doctor", "--version" } do
      has(bad(1, arguments .. " >/dev/full"), "cannot write: No space left on device")
    end
  end)
end)

describe("bin/sharearray", function()
  it("works through a link, and from a bare environment", function()
    machine.shell(("ln -s '%s' '%s/link'"):format(COMMAND, scratch))
    local status, out, err = shell(("SHAREARRAY_SHM_PATH=%s LUAJIT='%s' ./link ls"):format(directory, machine.luajit))
    assert.same({ 0, "ID  SIZE  AGE  OWNER  STATE  CONTENT\n", "" }, { status, out, err })
  end)

  it("works where make install puts it, with what lies there", function()
    shell("make -s -C '" .. ROOT .. "' install DESTDIR=" .. scratch .. " PREFIX=/usr")
    write(scratch .. "/usr/share/lua/5.1/sharearray/init.lua", "return { _VERSION = 'of the installed' }")
    local status, out, err = shell("LUAJIT='" .. machine.luajit .. "' usr/bin/sharearray --version")
    assert.same({ 0, "sharearray of the installed\n", "" }, { status, out, err })
  end)

  it("needs LuaJIT, and says so", function()
    has(bad(1, "ls", "LUAJIT=/none/luajit"), "no LuaJIT at /none/luajit")
    local lua, found = machine.shell("command -v lua5.1")
    if found then has(bad(1, "ls", "LUAJIT=" .. lua:match("%S+")), "Lua 5.1 is not LuaJIT") end
  end)

  it("finds a LuaJIT of another name", function()
    machine.shell(("mkdir %s/bin && cd %s/bin && ln -s $(command -v readlink) . && ln -s '%s' luajit2"):format(scratch,
      scratch, machine.shell("realpath $(command -v " .. machine.luajit .. ")"):match("%S+")))
    local status, _, err = run("ls", "LUAJIT= PATH=" .. scratch .. "/bin")
    assert.same({ 0, "" }, { status, err })
  end)

  it("needs argparse, and says so", function()
    has(bad(1, "ls", "LUA_PATH='/none/?.lua'"), "the Lua module argparse is not installed")
  end)
end)
