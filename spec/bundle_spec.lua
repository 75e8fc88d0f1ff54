-- Bundles: tables of arrays and plain values, as one file under one id.
local cjson = require "cjson"
local ffi = require "ffi"
local machine = require "support.machine"
local sharearray = require "sharearray"
local C = require("sharearray.cdefs").C

describe("a bundle", function()
  local directory, store, env

  before_each(function()
    directory = machine.directory()
    store = sharearray.new { shm_path = directory }
    env = { SHAREARRAY_SHM_PATH = directory }
  end)

  after_each(function() machine.remove(directory) end)

  local function model()
    return {
      weights = { sharearray.array({ { 1, 2 }, { 3, 4 } }, "float32"), sharearray.array({ 5, 6 }) },
      vocabulary = { "the", "of", "ä" },
      config = { layers = 2, rate = 0.1, name = "small", bias = false },
    }
  end

  -- Asks in a process of its own, whose memo is empty.
  local function elsewhere(code)
    return (machine.worker(code, {}, env):finish():gsub("\n$", ""))
  end

  it("comes back as it was, in one file, in every process", function()
    local bundle = assert(store:cache("m", model()))
    assert.same({ { 1, 2 }, { 3, 4 } }, bundle.weights[1]:totable())
    assert.same({ 5, 6 }, bundle.weights[2]:totable())
    assert.same({ "the", "of", "ä" }, bundle.vocabulary)
    assert.same({ layers = 2, rate = 0.1, name = "small", bias = false }, bundle.config)
    assert.same({ "sharearray_m.npy" }, machine.names(directory))
    assert.equal("4 6 of 2 false", elsewhere [[
      local b = assert(sharearray.get("m"))
      say(b.weights[1](1, 1), b.weights[2](1), b.vocabulary[2], b.config.layers, b.config.bias)
    ]])
  end)

  it("is one table for all who ask in this Lua state", function()
    local bundle = assert(store:cache("m", model))
    assert.equal(bundle, store:cache("m", error))
    assert.equal(bundle, store:get("m"))
    assert.equal(bundle.weights, store:get("m").weights)
  end)

  it("from alloc{...} is filled in place, in the final file", function()
    local addresses = {}
    local bundle = assert(store:cache("m", function(alloc)
      local t = alloc { x = { "float32", { 100, 3 } }, y = { "uint8", { 100 } }, deep = { { "int64", 1 } } }
      for i = 0, 99 do
        t.x:set(i, 2, i)
        t.y[i] = i
      end
      t.deep[1][0] = 2 ^ 40
      addresses.x, addresses.y = ffi.cast("intptr_t", t.x.data), ffi.cast("intptr_t", t.y.data)
      t.names = { "a", "b" }
      return t
    end))
    assert.equal(addresses.y - addresses.x, ffi.cast("intptr_t", bundle.y.data) - ffi.cast("intptr_t", bundle.x.data))
    assert.equal(99, bundle.x(99, 2))
    assert.equal("99 98 1099511627776LL b", elsewhere [[
      local b = assert(sharearray.get("m"))
      say(b.x(99, 2), b.y(98), b.deep[1](0), b.names[2])
    ]])
    for _, v in ipairs { bundle.x, bundle.y } do assert.equal(0, tonumber(ffi.cast("intptr_t", v.data) % 64)) end
  end)

  it("from alloc{...} has lists of arrays too, at any depth", function()
    local pair = { { "price", "float32" }, { "volume", "int64" } }
    local bundle = assert(store:cache("m", function(alloc)
      local t = alloc { layers = { { "float32", { 3 } }, { "uint8", 4 } }, records = { pair, 2 },
        deep = { { { "int8", 1 } }, { { "int8", {} }, { "int8", { 2, 2 } } } } }
      t.layers[2][3] = 7
      t.records[1].volume = 8
      t.deep[2][2]:set(1, 1, 9)
      return t
    end))
    assert.same({ { 0, 0, 0 }, { 0, 0, 0, 7 } }, { bundle.layers[1]:totable(), bundle.layers[2]:totable() })
    assert.equal(8LL, bundle.records[1].volume)
    assert.same({ { 0 }, 0, { { 0, 0 }, { 0, 9 } } },
      { bundle.deep[1][1]:totable(), bundle.deep[2][1](), bundle.deep[2][2]:totable() })
  end)

  it("seals what alloc{...} gave", function()
    local kept
    assert(store:cache("m", function(alloc)
      kept = alloc { x = { "float32", 4 } }
      kept.x:fill(1)
      return { inner = kept.x } -- another form than was asked for
    end))
    assert.error_matches(function() kept.x[0] = 2 end, "read%-only")
    assert.equal(1, kept.x(3))
    assert.equal("1", elsewhere [[say(sharearray.get("m").inner(3))]])
  end)

  it("copies where alloc{...} is returned in part, or with other arrays", function()
    local part = assert(store:cache("part", function(alloc)
      local t = alloc { x = { "int32", 2 }, y = { "int32", 3 } }
      t.y[2] = 7
      return { y = t.y }
    end))
    assert.same({ 0, 0, 7 }, part.y:totable())
    local more = assert(store:cache("more", function(alloc)
      local t = alloc { x = { "int32", 2 } }
      t.x[1] = 8
      t.z = sharearray.array({ 9 })
      t.again = t.x
      return t
    end))
    assert.same({ { 0, 8 }, { 9 }, { 0, 8 } }, { more.x:totable(), more.z:totable(), more.again:totable() })
  end)

  it("says where alloc{...} is wrong", function()
    for code, expected in pairs {
      ["alloc{x = 5}"] = "'x' must be {dtype, shape}",
      ["alloc{x = {'float33', 2}}"] = "'x': unknown dtype",
      ["alloc{a = {b = {'int8', -1}}}"] = "'a/b': ",
      ["alloc{}"] = "has none in it",
    } do
      local source = assert(loadstring("local alloc = ...\nlocal t = " .. code .. "\nreturn t", "=source"))
      local _, err, kind = store:cache("m", source)
      assert.equal("callback", kind)
      assert.truthy(tostring(err):find("source:2: alloc: ", 1, true), err)
      assert.truthy(err:find(expected, 1, true), err)
    end
    assert.same({}, machine.names(directory))
  end)

  it("keeps plain values exactly", function()
    local values = {
      x = sharearray.array({ 1 }),
      numbers = { 0.1, 1 / 3, 2 ^ 53 + 2, -0.5, 1e300, 123456789012345, 5e-324 },
      infinite = { 1 / 0, -1 / 0 },
      large = { 9223372036854775807LL, -9223372036854775807LL - 1, 18446744073709551615ULL },
      bytes = "\0\1\255\254 \"quotes\" \\ /",
      text = "naïve — 日本 😀",
      empty_list = sharearray.as_list {},
      empty_object = {},
      null = sharearray.null,
      list = { 1, "two", { 3 } },
      mixed = { 1, 2, name = "x", [10] = "ten", [1.5] = true },
      holes = { 1, 2, nil, 4, name = "x" }, -- as many keys as `#` may say, but no list
      dollar = { ["$array"] = 1, ["$"] = 2 },
    }
    assert(store:cache("m", values))
    store:free("never")
    local b = assert(sharearray.new({ shm_path = directory, prefix = "sharearray_", mode = "0444" }):get("m"))
    assert.same(values.numbers, b.numbers)
    assert.same(values.infinite, b.infinite)
    for i = 1, 3 do assert.equal(values.large[i], b.large[i]) end
    assert.equal(tostring(values.large[3]), tostring(b.large[3]))
    for _, name in ipairs { "bytes", "text" } do assert.equal(values[name], b[name]) end
    for _, name in ipairs { "list", "mixed", "holes", "dollar" } do assert.same(values[name], b[name]) end
    assert.equal(sharearray.null, b.null)
    assert.equal(cjson.null, b.null)
    assert.equal(getmetatable(sharearray.as_list {}), getmetatable(b.empty_list))
    assert.is_nil(getmetatable(b.empty_object))
    assert.same({ {}, {} }, { b.empty_list, b.empty_object })
    assert.equal(-1 / 0, 1 / assert(store:refresh("z", { x = values.x, zero = -0.0 })).zero)
  end)

  it("does not depend on the user's settings of lua-cjson", function()
    assert.equal("0.33333333333333", elsewhere [[
      local cjson = require "cjson"
      cjson.encode_number_precision(3)
      local b = assert(sharearray.cache("m", { x = sharearray.array({1}), third = 0.33333333333333 }))
      say(("%.14g"):format(b.third))
    ]])
    assert.equal("0.33333333333333", elsewhere [[say(("%.14g"):format(sharearray.get("m").third))]])
  end)

  it("refuses what it cannot hold, and names it", function()
    local cycle = { x = sharearray.array({ 1 }) }
    cycle.self = cycle
    local closed = sharearray.array({ 1 })
    closed:close()
    for expected, value in pairs {
      ["'a/f' is a function"] = { x = sharearray.array({ 1 }), a = { f = print } },
      ["'t' is a thread"] = { x = sharearray.array({ 1 }), t = coroutine.create(print) },
      ["'p' is cdata that is no array"] = { x = sharearray.array({ 1 }), p = ffi.new("float *") },
      ["'self' contains itself"] = cycle,
      ["no array in it"] = { 1, 2, 3 },
      ["sharearray.array"] = { labels = { "a" } },
      ["'x' is a closed view"] = { x = closed },
    } do
      local _, err, code = store:cache("m", function() return value end)
      assert.equal("callback", code)
      assert.truthy(err:find(expected, 1, true), err)
      assert.error_matches(function() store:cache("m", value) end, expected, 1, true)
    end
    assert.same({}, machine.names(directory))
  end)

  it("is attached anew after one of its arrays was closed, and its memory goes then", function()
    local function made()
      local deep = { y = sharearray.array { 2 }, z = sharearray.array({ "s" }, "S1") }
      return { x = sharearray.array { 1, 2 }, deep = deep, n = 1 }
    end
    local function mappings()
      for _ = 1, 3 do collectgarbage() end
      local count = 0
      for line in io.lines "/proc/self/maps" do
        if line:find(directory, 1, true) and not line:find("changes", 1, true) then count = count + 1 end
      end
      return count
    end
    assert(store:cache("m", made))
    for _, name in ipairs { "y", "z" } do -- of numbers; and of what is no number, which has a reference of its own
      local m = store:get("m")
      m.deep[name]:close()
      local again = assert(name == "y" and store:get("m") or store:cache("m", made))
      assert.equal(2, again.deep.y(0))
      assert.equal("s", again.deep.z(0))
      assert.equal(1, m.x(0))
      assert.equal(again, store:get("m"))
      assert.equal(2, mappings())
      m, again = nil, nil -- luacheck: ignore
      assert.equal(1, mappings())
    end
    store:get("m").x:slice(0, 1):close() -- is no member
    store:get("m").x:reshape({ 2, 1 })[0]:close()
    assert.equal(store:get("m"), store:get("m"))
    assert.equal(1, mappings())
  end)

  it("is read by NumPy and by zip tools, checksums included", function()
    store:cache("m", model())
    store:cache("placed", function(alloc)
      local t = alloc { x = { "float64", { 3, 2 } }, y = { "uint8", 0 } }
      t.x:fill(2.5)
      return t
    end)
    local path = directory .. "/sharearray_%s.npy"
    local said = machine.start({ "/usr/bin/python3", "-c", [[
import json, numpy, sys, zipfile
for path in sys.argv[1:]:
    assert zipfile.ZipFile(path).testzip() is None
    with numpy.load(path) as z:
        print(sorted(z.files), [z[n].tolist() for n in sorted(z.files) if n != "sharearray.json"])
        json.loads(z["sharearray.json"].decode())
]], path:format("m"), path:format("placed") }):finish()
    assert.equal("['sharearray.json', 'weights/1', 'weights/2'] [[[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0]]\n"
      .. "['sharearray.json', 'x', 'y'] [[[2.5, 2.5], [2.5, 2.5], [2.5, 2.5]], []]\n", said)
    for _, id in ipairs { "m", "placed" } do
      for _, tool in ipairs { "/usr/bin/python3 -m zipfile -t ", "unzip -t " } do
        local words, ok = machine.shell(tool .. path:format(id))
        assert.is_true(ok, words)
      end
    end
  end)

  it("written by numpy.savez under an id is one too, by its names", function()
    machine.start({ "/usr/bin/python3", "-c", [=[
import numpy, os, sys
numpy.savez(sys.argv[1] + "/s.npz", a=numpy.arange(3), b=numpy.asfortranarray([[1.5, 2], [3, 4]]))
os.rename(sys.argv[1] + "/s.npz", sys.argv[1] + "/sharearray_z.npy")
numpy.savez_compressed(sys.argv[1] + "/s.npz", a=numpy.arange(3))
os.rename(sys.argv[1] + "/s.npz", sys.argv[1] + "/sharearray_packed.npy")
]=], directory }):finish()
    local z = assert(store:get("z"))
    assert.equal(2LL, z.a(2))
    assert.equal(3, z.b(1, 0))
    local _, err, code = store:get("packed")
    assert.equal("unsupported", code)
    assert.truthy(err:find("compressed", 1, true))
  end)

  it("keeps its form when a zip tool packs it anew, in another order and with other files", function()
    local arrays = {}
    for i, name in ipairs { "e", "b", "d", "a", "c" } do arrays[i] = { [name] = sharearray.array({ i }) } end
    assert(store:cache("m", arrays))
    machine.start({ "/usr/bin/python3", "-c", [=[
import os, sys, zipfile
path = sys.argv[1] + "/sharearray_%s.npy"
source = zipfile.ZipFile(path % "m")
with zipfile.ZipFile(path % "new", "w") as to:
    to.writestr("README", "no array")
    for name in sorted(source.namelist(), key=lambda name: name[-5]): to.writestr(name, source.read(name))
]=], directory }):finish()
    for _, again in ipairs { assert(store:get("new")),
      assert(store:cache("copy", sharearray.file(directory .. "/sharearray_new.npy"))) } do
      for i, name in ipairs { "e", "b", "d", "a", "c" } do assert.same({ i }, again[i][name]:totable()) end
    end
  end)

  it("has its members in the order of their names, so that the same arrays make the same file", function()
    local names = { "b", "a", "a-", "a/b", "b1", "b10", "b2", "Z" }
    local function member_names(id)
      local list = machine.start({ "/usr/bin/python3", "-c", "import sys, zipfile\n"
        .. "print(*zipfile.ZipFile(sys.argv[1]).namelist())", directory .. "/sharearray_" .. id .. ".npy" })
      return (list:finish():gsub("\n", ""))
    end
    local forwards, backwards, spec = {}, {}, {}
    for i, name in ipairs(names) do forwards[name] = sharearray.array({ i }, "int32") end
    for i = #names, 1, -1 do
      backwards[names[i]] = sharearray.array({ i }, "int32")
      spec[names[i]] = { "int32", 1 }
    end
    assert(store:cache("one", forwards))
    assert(store:cache("other", backwards))
    assert(store:cache("filled", function(alloc)
      local t = alloc(spec)
      for i, name in ipairs(names) do t[name][0] = i end
      return t
    end))
    local order = "Z.npy a-.npy a.npy a/b.npy b.npy b1.npy b10.npy b2.npy sharearray.json"
    local content
    for _, id in ipairs { "one", "other", "filled" } do
      assert.equal(order, member_names(id))
      local file = assert(io.open(directory .. "/sharearray_" .. id .. ".npy"))
      content = content or file:read "*a"
      file:seek("set")
      assert.equal(content, file:read "*a")
      file:close()
      for i, name in ipairs(names) do assert.equal(i, store:get(id)[name](0)) end
    end
  end)

  it("with names of any kind gets members of different, harmless names", function()
    local one = sharearray.array({ 1 })
    local odd = { ["../../etc/passwd"] = one, ["/abs"] = sharearray.array({ 2 }), ["\n\255"] = sharearray.array({ 3 }),
      ["a/b"] = sharearray.array({ 4 }), a = { b = sharearray.array({ 5 }) }, [""] = sharearray.array({ 6 }),
      ["\n\254"] = sharearray.array({ 7 }) }
    local b = assert(store:cache("odd", odd))
    assert.equal(2, b["/abs"](0))
    assert.equal(9, b["a/b"](0) + b.a.b(0))
    assert.equal(10, b["\n\255"](0) + b["\n\254"](0))
    local names = machine.start({ "/usr/bin/python3", "-c", "import sys, zipfile\n"
      .. "for n in zipfile.ZipFile(sys.argv[1]).namelist(): assert '..' not in n and n[0] != '/', n",
      directory .. "/sharearray_odd.npy" })
    names:finish()
    for _, plain in ipairs { { [""] = one }, { [one] = true }, { [""] = { [""] = one } } } do
      assert(store:refresh("odd", plain))
    end
    assert(store:refresh("odd", function(alloc) return alloc { [""] = { "int8", 1 } } end))
  end)

  it("is listed and described as a bundle", function()
    store:cache("m", model())
    local info = assert(store:stat("m"))
    assert.same({ "bundle", 2, "ready" }, { info.kind, info.members, info.state })
    assert.is_true(info.nbytes > 0)
    assert.equal("bundle", assert(store:list())[1].kind)
    assert.is_true(store:free("m"))
    assert.same({ nil, {} }, { store:get("m"), machine.names(directory) })
  end)

  it("is what a decorated function returns", function()
    local calls = 0
    local load = store:decorator("m")(function()
      calls = calls + 1
      return model()
    end)
    assert.equal(load(), load())
    assert.equal("small", load().config.name)
    assert.equal(1, calls)
  end)

  local function read(path)
    local file = assert(io.open(path, "rb"))
    local bytes = file:read("*a")
    file:close()
    return bytes
  end

  -- A new file with the bytes, changed in one place.
  local function write(path, bytes, from, to)
    os.remove(path)
    local file = assert(io.open(path, "wb"))
    local start, stop = bytes:find(from, 1, true)
    file:write(bytes:sub(1, start - 1), to, bytes:sub(stop + 1))
    file:close()
  end

  it("whose form is damaged is corrupt", function()
    local x, path = sharearray.array({ 1 }), directory .. "/sharearray_m.npy"
    for form, case in pairs {
      ['{"a":{"b":{"$array":"a\\/b"}}}'] = { { a = { b = x } }, { '{"$array":"a\\/b"}', '{"$array":"a\\/c"}' },
        { '"$array"', '"$orray"' }, { '{"a"', '{{a"' } },
      ['{"$members":1}'] = { { x = x }, { ":1", ":2" }, { "$m", "$n" }, { ":1", ":[" } },
    } do
      assert(store:refresh("m", case[1]))
      local bytes, damages = read(path), { { form, ("%-" .. #form .. "s"):format "5" }, unpack(case, 2) }
      for _, damage in ipairs(damages) do
        write(path, bytes, unpack(damage))
        local value, err, code = store:get("m")
        assert.is_nil(value)
        assert.equal("corrupt", code, tostring(err))
        assert.truthy(err:find("sharearray_m.npy", 1, true))
      end
      os.remove(path)
    end
  end)

  it("of nothing but arrays under their names takes what a zip tool adds, and misses what it drops", function()
    assert(store:cache("m", { b = sharearray.array({ 1 }), a = sharearray.array({ 2 }) }))
    machine.start({ "/usr/bin/python3", "-c", [=[
import sys, zipfile
path = sys.argv[1] + "/sharearray_%s.npy"
source = zipfile.ZipFile(path % "m")
with zipfile.ZipFile(path % "more", "w") as to:
    for name in source.namelist(): to.writestr(name, source.read(name))
    to.writestr("c.npy", source.read("a.npy"))
with zipfile.ZipFile(path % "fewer", "w") as to:
    for name in source.namelist():
        if name != "a.npy": to.writestr(name, source.read(name))
with zipfile.ZipFile(path % "text", "w") as to:
    for name in source.namelist(): to.writestr(name, source.read(name).replace(b":2}", b':"2"}'))
]=], directory }):finish()
    local more = assert(store:get("more"))
    assert.same({ 1, 2, 2 }, { more.b(0), more.a(0), more.c(0) })
    local _, err, code = store:get("fewer")
    assert.equal("corrupt", code)
    assert.truthy(err:find("the form counts more members than are there", 1, true), err)
    _, err, code = store:get("text")
    assert.equal("corrupt", code)
    assert.truthy(err:find("the form has a damaged number", 1, true), err)
  end)

  -- The core reads a header that equals the one before it only once.
  it("is looked at member by member although their headers are the same", function()
    local python = [=[
import io, sys, zipfile, numpy
with zipfile.ZipFile(sys.argv[1] + "/sharearray_m.npy", "w") as archive:
    f = io.BytesIO(); numpy.save(f, numpy.arange(4, dtype="<i4"))
    archive.writestr("a.npy", f.getvalue())
    archive.writestr("b.npy", f.getvalue()[:-16] + numpy.arange(4, 8, dtype="<i4").tobytes()[:int(sys.argv[2])])
    archive.writestr("c.npy", f.getvalue().replace(b"(4,)", b"(2,)"))
    archive.writestr("d.txt", "no array")
    archive.writestr("e.npy", f.getvalue())
]=]
    machine.start({ "/usr/bin/python3", "-c", python, directory, "16" }):finish()
    local m = assert(store:get("m"))
    assert.same({ { 0, 1, 2, 3 }, { 4, 5, 6, 7 }, { 0, 1 }, { 0, 1, 2, 3 } },
      { m.a:totable(), m.b:totable(), m.c:totable(), m.e:totable() })
    store:free("m")
    machine.start({ "/usr/bin/python3", "-c", python, directory, "15" }):finish()
    local _, err, code = store:get("m")
    assert.equal("corrupt", code)
    assert.truthy(err:find("its member b.npy is not usable: it is shorter than its header says", 1, true), err)
  end)

  it("with a member that ends inside a header which goes on behind it is corrupt", function()
    machine.start({ "/usr/bin/python3", "-c", [=[
import io, struct, sys, zipfile, numpy
path = sys.argv[1] + "/sharearray_m.npy"
with zipfile.ZipFile(path, "w") as archive:
    f = io.BytesIO(); numpy.save(f, numpy.zeros(0, dtype="<i4"))
    for name in "a.npy", "b.npy": archive.writestr(name, f.getvalue())
content = bytearray(open(path, "rb").read())
at = content.rfind(b"PK\1\2") + 20
content[at:at + 8] = struct.pack("<II", len(f.getvalue()) - 28, len(f.getvalue()) - 28)
open(path, "wb").write(content)
]=], directory }):finish()
    local _, err, code = store:get("m")
    assert.equal("corrupt", code)
    assert.truthy(err:find("its member b.npy is not usable: it ends inside its header", 1, true), err)
  end)

  it("goes to an array and back by refresh, and every reader sees one whole state", function()
    local writer = machine.worker([[
      for n = 1, 400 do
        if n % 2 == 1 then
          assert(sharearray.refresh("x", { a = sharearray.array({n, n}), b = { sharearray.array({n}) }, n = n }))
        else
          assert(sharearray.refresh("x", sharearray.array({n, n, n})))
        end
        if n == 1 then
          say "first"
          hear()
        end
      end
    ]], {}, env)
    writer:expect("first")
    local program = [[
      local bundles, arrays, last = 0, 0, 0
      repeat
        local value = assert(sharearray.new({ timeout = 5 }):get("x"))
        local n
        if type(value) == "table" then
          bundles, n = bundles + 1, value.n
          assert(n % 2 == 1 and value.a(0) == n and value.a(1) == n and value.b[1](0) == n)
        else
          arrays, n = arrays + 1, value(0)
          assert(n % 2 == 0 and value(2) == n)
        end
        assert(n >= last)
        if last == 0 then say "reading" end
        last = n
      until n == 400
      say(bundles > 0 and arrays > 0)
    ]]
    local readers = {}
    for i = 1, 2 do readers[i] = machine.worker(program, {}, env) end
    for _, reader in ipairs(readers) do reader:expect("reading") end
    writer:tell()
    for _, reader in ipairs(readers) do
      reader:expect("true")
      reader:finish(120)
    end
    writer:finish()
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  -- What NumPy finds at the end of a bundle.
  local function numpy_reads(id, name)
    return machine.start({ "/usr/bin/python3", "-c", [=[
import numpy, sys
with numpy.load(sys.argv[1]) as z: print(len(z.files), z[sys.argv[2]].tolist())
]=], ("%s/sharearray_%s.npy"):format(directory, id), name }):finish()
  end

  it("of more than 65,535 members is read by us and by NumPy", function()
    local many, one = {}, {}
    for i = 1, 66000 do many[i] = sharearray.array({ i }, "int32") end
    assert(store:cache("many", many))
    assert.equal("66000 66000", elsewhere [[
      local b = assert(sharearray.get("many"))
      say(#b, b[66000](0))
    ]])
    assert.equal("66001 [66000]\n", numpy_reads("many", "66000"))
    for i = 1, 65534 do one[i] = many[i] end -- and the form
    assert(store:refresh("many", one))
    assert.equal("65535 [65534]\n", numpy_reads("many", "65534"))
  end)

  it("of more than 4 GiB is read by us and by NumPy", function()
    local path, huge = directory .. "/sharearray_huge.npy", 5 * 2 ^ 30
    local members, bytes = ffi.new("sharearray_member[3]"), ffi.new("uint64_t[1]")
    local contents, file = {}, assert(io.open(path, "wb"))
    for i, name in ipairs { "a.npy", "b.npy", "c.npy" } do
      local header = ffi.new("char[128]")
      local shape = ffi.new("uint64_t[1]", i == 2 and huge or 3)
      assert.equal(128, C.sharearray_npy_write("|u1", 1, shape, header, 128))
      contents[i] = ffi.string(header, 128) .. (i == 2 and "" or "\1\2\3")
      members[i - 1] = { name = name, name_length = #name, size = 128 + tonumber(shape[0]),
        crc = require("sharearray.draft").crc32("x", 0, contents[i], #contents[i]) }
    end
    assert.equal(0, C.sharearray_npz_plan(members, 3, bytes, nil))
    local at = 0
    for i = 1, 4 do
      local stop = tonumber(i < 4 and members[i - 1].offset or bytes[0])
      local frame = ffi.new("char[?]", stop - at)
      C.sharearray_npz_frame(members, 3, i - 1, frame)
      assert(file:seek("set", at)) -- over the 5 GiB: the file is sparse
      file:write(ffi.string(frame, stop - at), contents[i] or "")
      at = i < 4 and stop + tonumber(members[i - 1].size)
    end
    file:close()
    machine.shell("chmod 444 " .. path)
    local b = assert(store:get("huge"))
    assert.same({ { 3 }, { huge }, { 3 } }, { b.a.shape, b.b.shape, b.c.shape })
    assert.same({ { 1, 2, 3 }, 0, { 1, 2, 3 } }, { b.a:totable(), b.b(huge - 1), b.c:totable() })
    assert.equal("3 [1, 2, 3]\n", numpy_reads("huge", "c"))
  end)

  it("of 1,000 members attaches in one open and one map", function()
    local many = {}
    for i = 1, 1000 do many["w" .. i] = sharearray.array({ i, i + 1 }, "float32") end
    assert(store:cache("many", many))
    local log = directory .. "/sharearray_spec.strace"
    local worker = machine.worker([[
      sharearray.get("other") -- opens the store
      say "ready"
      hear()
      local b = assert(sharearray.get("many"))
      local sum = 0
      for i = 1, 1000 do sum = sum + b["w" .. i](1) end
      say(sum)
    ]], {}, env)
    worker:expect("ready")
    local tracer = machine.start({ "strace", "-f", "-e", "trace=openat,mmap", "-o", log, "-p", tostring(worker.pid) })
    assert.truthy(tracer:line():find("attached"))
    worker:tell()
    worker:expect("501500")
    worker:finish()
    tracer:wait()
    local opens, maps = 0, 0
    for line in io.lines(log) do
      if line:find("openat.*sharearray_many.npy\"") then opens = opens + 1 end
      if line:find("mmap%(.*MAP_SHARED") then maps = maps + 1 end
    end
    assert.same({ 1, 1 }, { opens, maps })
  end)

  for _, at in ipairs { "inside fn", "half filled", "linkat:_x.npy:before", "linkat:_x.npy:after",
    "unlink:.npy.lock:before" } do
    it("whose builder is killed at " .. at .. " is built by the next one", function()
      local source = [[
        local where = ...
        local b = assert(sharearray.cache("x", function(alloc)
          local t = alloc { x = {"float32", {1000, 10}}, y = {"uint8", 1000} }
          if where == "inside fn" then die() end
          t.x:fill(1)
          if where == "half filled" then die() end
          t.y:fill(2)
          t.name = "whole"
          return t
        end))
        say(b.x(999, 9), b.y(999), b.name)
      ]]
      local preload = at:find(":") and "build/spec/kill_preload.so" or nil
      local killed = machine.worker(source, { at },
        { SHAREARRAY_SHM_PATH = directory, LD_PRELOAD = preload, KILL_AT = preload and at })
      assert.equal(-9, (killed:wait()))
      assert.equal("1 2 whole\n", machine.worker(source, { "" }, env):finish())
      assert(store:list())
      assert.same({ "sharearray_x.npy" }, machine.names(directory))
    end)
  end
end)
