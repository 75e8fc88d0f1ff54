-- `make install`, `make env` and the set-up script, as a user's shell sees them.

local machine = require "support.machine"

local root = assert(io.popen "pwd"):read "*l"
local luajit = os.getenv "SHAREARRAY_TEST_LUAJIT" or "luajit"

local folder -- of one test

-- Runs a shell script in `folder`, without what this process has set: its output, and whether it succeeded.
local function sh(script)
  local file = assert(io.open(folder .. "/script", "w"))
  file:write("set -eu; cd '", folder, "'; root='", root, "' luajit='", luajit, "'\n",
    "unset LUA_PATH LUA_CPATH MAKEFLAGS MAKELEVEL MFLAGS\n", script)
  file:close()
  local pipe = assert(io.popen("sh '" .. folder .. "/script' 2>&1; echo \" $?\""))
  local output, status = pipe:read "*a":match "^(.*) (%d+)\n$"
  pipe:close()
  return output, status == "0"
end

local function run(script)
  local output, ok = sh(script)
  assert(ok, output)
  return output
end

local use = [[
cat >use.lua <<'END'
local sharearray = require "sharearray"
local store = sharearray.new { shm_path = arg[1] }
local built = assert(store:cache("x", function(alloc)
  local x = alloc("float32", {2, 3})
  for i = 0, x.size - 1 do x.data[i] = i end
  return x
end))
print(assert(store:get "x")(1, 2), package.searchpath("sharearray", package.path))
END
mkdir shm
]]

describe("the Makefile", function()
  before_each(function()
    folder = assert(io.popen "mktemp -d"):read "*l"
  end)
  after_each(function()
    os.execute("rm -rf '" .. folder .. "'")
  end)

  it("installs what a program needs", function()
    run [[make -s -C "$root" install DESTDIR=$PWD/tmp PREFIX=/usr/local]]
    assert.equal("./include\n./include/sharearray.h\n", run "cd tmp/usr/local; find ./include | sort")
    assert.equal(run [[cd "$root"/lua; find sharearray -type f | sort]],
      run "cd tmp/usr/local/share/lua/5.1; find sharearray -type f -name '*.lua' | sort")
    local output = run(use .. [[
      LUA_PATH="$PWD/tmp/usr/local/share/lua/5.1/?.lua;$PWD/tmp/usr/local/share/lua/5.1/?/init.lua;;" \
      LUA_CPATH="$PWD/tmp/usr/local/lib/lua/5.1/?.so;;" "$luajit" use.lua $PWD/shm
    ]])
    assert.equal("5\t" .. folder .. "/tmp/usr/local/share/lua/5.1/sharearray/init.lua\n", output)
  end)

  describe("'s bytecode", function()
    local functions = [[
      share=$PWD/tmp/share/lua/5.1
      use() {
        export LUA_PATH="$share/?.lua;$share/?/init.lua;;" LUA_CPATH="$PWD/tmp/lib/lua/5.1/?.so;;"
        "$luajit" program.lua $PWD/shm
      }
      install() { make -s -C "$root" install LUAJIT="$luajit" PREFIX=$PWD/tmp; }
    ]]
    local program = functions .. [[
      cat >program.lua <<'END'
      local preloaded = {}
      setmetatable(package.preload, { __newindex = function(t, name, chunk)
        preloaded[#preloaded + 1] = name:match "^sharearray%.(.*)"
        rawset(t, name, chunk)
      end })
      local x = assert(require "sharearray".new { shm_path = arg[1] }:cache("x", { require "sharearray".array { 7 } }))
      table.sort(preloaded)
      print(x[1](0), table.concat(preloaded, " "))
END
      rm -rf shm tmp
      mkdir shm
      install
    ]]
    local ALL = "7\tdtype element facade lazy library lifetime loop obtain place readers store view\n"

    local function uses(changes) return run(program .. changes .. "\nuse") end

    it("is of use to the LuaJIT and in the place that it was made for", function()
      assert.equal(ALL, uses "")
      assert.equal(ALL, uses [[make -s -C "$root" install LUAJIT="$luajit" PREFIX=$PWD/tmp/]])
      assert.equal("7\t\n", uses "mv tmp/share tmp/moved; share=$PWD/tmp/moved/lua/5.1")
    end)

    -- These specs run under OpenResty's and under the stock one.
    it("serves each LuaJIT of the version that made it", function()
      local made_by_another = program:gsub('LUAJIT="$luajit"', "LUAJIT=luajit", 1)
      assert.equal("7", run(made_by_another .. "use"):match "^%d+")
    end)

    it("is not looked at where it is another LuaJIT's, or cut off", function()
      assert.equal("7\t\n", uses "cd tmp/share/lua/5.1/sharearray; mv *.bytecode LuaJIT-2.2-x64.bytecode; cd $OLDPWD")
      assert.equal("7\t\n", uses "for f in tmp/share/lua/5.1/sharearray/*.bytecode; do truncate -s -9 $f; done")
    end)

    -- Given a part of a chunk, LuaJIT reads on behind its end.
    it("is given to LuaJIT in whole chunks only", function()
      run(program .. [[
        cat >program.lua <<'END'
        local count, load = 0, loadstring
        function loadstring(text)
          count = count + 1
          return load(text)
        end
        require "sharearray"
        print(count)
END
      ]])
      local name = run("ls tmp/share/lua/5.1/sharearray"):match "%S+%.bytecode"
      local path = ("%s/tmp/share/lua/5.1/sharearray/%s"):format(folder, name)
      local file = assert(io.open(path, "rb"))
      local all = file:read "*a"
      file:close()
      local sections, index, from = {}, nil, all:find("\n", 1, true) + 1
      for _ = 1, 2 do -- this module, the index
        local size, start = all:match("^(%d+)\n()", from)
        sections[#sections + 1], from = { start, size }, start + size
        index = all:sub(start, from - 1)
      end
      index = loadstring(index)()
      for i = 8, #index, 4 do
        sections[#sections + 1], from = { from, index[i] }, from + index[i]
      end
      assert.equal(#all + 1, from)
      assert.equal(15, #sections) -- the last is no module
      for i, section in ipairs(sections) do
        local start, size = unpack(section)
        for _, cut in ipairs { start - 2, start, start + math.floor(size / 2), start + size - 1 } do
          file = assert(io.open(path, "wb"))
          file:write(all:sub(1, cut - 1))
          file:close()
          assert.equal((cut < start and i > 2 and i - 2 or i - 1) .. "\n", run(functions .. "use"))
        end
      end
    end)

    it("has the classes of the usual views, whose text is not read then", function()
      local said = run(program .. [[
        cat >program.lua <<'END'
        local sharearray = require "sharearray"
        local store = sharearray.new { shm_path = arg[1] }
        for _, dtype in ipairs { "float32", "float64", "int32", "int64", "uint8" } do
          if arg[2] == "build" then
            store:cache(dtype .. 1, sharearray.array({ 1, 2, 3 }, dtype))
            store:cache(dtype .. 2, sharearray.array({ { 1, 2 }, { 3, 4 } }, dtype))
            store:cache("other", sharearray.array({ 5 }, "int16"))
          else
            local x, y = store:get(dtype .. 1), store:get(dtype .. 2)
            local _, problem = pcall(function() local e = x(3) return e end)
            assert(x(1) == 2 and x[2] == 3 and y(1, 0) == 3 and y[0](1) == 2 and x:tonumber(0) == 1)
            assert(problem:find "program.lua:%d+: index 3 is out of bounds", problem)
          end
        end
        print(package.loaded["sharearray.template"] and "read" or "not read")
        if arg[2] ~= "build" then
          assert(store:get "other"(0) == 5)
          print(package.loaded["sharearray.template"] and "read" or "not read")
        end
END
        use() {
          export LUA_PATH="$share/?.lua;$share/?/init.lua;;" LUA_CPATH="$PWD/tmp/lib/lua/5.1/?.so;;"
          "$luajit" program.lua $PWD/shm "${1-}"
        }
        use build
        use
        echo >>tmp/share/lua/5.1/sharearray/template.lua
        use
      ]])
      assert.equal("read\nnot read\nread\nread\nread\n", said)
    end)

    it("is for all to read and for its owner to write, whatever the umask", function()
      for _, umask in ipairs { "000", "077" } do
        assert.equal("644\n", run(program .. "(umask " .. umask .. "; install)\n"
          .. "stat -c %a tmp/share/lua/5.1/sharearray/*.bytecode"))
      end
    end)

    it("does not come back for who loads another version later", function()
      assert.equal("other\n", run(program .. [[
        mkdir -p other/sharearray
        cp -R tmp/share/lua/5.1/sharearray/*.lua other/sharearray
        echo 'return { new = "other" }' >other/sharearray/facade.lua
        sed -i 's/^return .*/return facade.new/' other/sharearray/init.lua
        cat >program.lua <<'END'
        require "sharearray"
        for name in pairs(package.loaded) do
          if name:find "^sharearray" then package.loaded[name] = nil end
        end
        package.path = "other/?.lua;other/?/init.lua"
        print(require "sharearray")
END
        use
      ]]))
    end)

    it("is not looked at when a source has changed, until the next installation", function()
      local change = "sed -i s/closings/closinks/ tmp/share/lua/5.1/sharearray/*.lua\n" -- of the same size
      assert.equal("7\t\n", uses(change))
      local longer = [[
        f=sharearray/view.lua
        echo >>tmp/share/lua/5.1/$f
        touch -r "$root"/lua/$f tmp/share/lua/5.1/$f]]
      assert.equal("7\t\n", uses(longer)) -- of the same time
      assert.equal(ALL, uses(change .. "touch tmp/share/lua/5.1/sharearray/LuaJIT-2.2-x64.bytecode; install"))
      assert.equal("1\n", run "ls tmp/share/lua/5.1/sharearray/*.bytecode | wc -l")
    end)

    it("keeps the lines of its sources", function()
      local line = run [[grep -n '^function view.make' "$root"/lua/sharearray/view.lua | cut -d: -f1]]
      assert.equal(line, run(program .. [[
        echo 'require "sharearray" print(debug.getinfo(require "sharearray.view".make, "S").linedefined)' >program.lua
        use
      ]]))
    end)

    it("is done without where there is no LuaJIT", function()
      local said = run [[make -s -C "$root" install LUAJIT=no-luajit PREFIX=$PWD/tmp]]
      assert.truthy(said:find("without bytecode for no-luajit", 1, true), said)
    end)
  end)

  it("installs a header that C and C++ compilers take by itself", function()
    run [[make -s -C "$root" install DESTDIR=$PWD/tmp PREFIX=/usr/local]]
    run [[
      printf '#include <sharearray.h>\nint main(void) { return sharearray_code(-1) == 0; }\n' >program.c
      cc -std=c11 -Wall -Wextra -Wpedantic -Werror -Itmp/usr/local/include program.c \
        tmp/usr/local/lib/lua/5.1/sharearray/core.so -o program
      LD_LIBRARY_PATH=. ./program
      ! command -v c++ >/dev/null || c++ -Wall -Wextra -Werror -Itmp/usr/local/include -fsyntax-only -x c++ program.c
    ]]
  end)

  it("env points a shell at the checkout", function()
    local output = run(use .. [[
      eval "$(make -s -C "$root" env)"
      "$luajit" use.lua $PWD/shm
    ]])
    assert.equal("5\t" .. root .. "/lua/sharearray/init.lua\n", output)
  end)

  it("env keeps the paths that are set", function()
    for _, path in ipairs { "/mine/?.lua", "/mine/?.lua;;" } do
      local output = run("export LUA_PATH='" .. path .. "' LUA_CPATH='/mine/?.so'" .. [[

        eval "$(make -s -C "$root" env)"
        echo $LUA_PATH
        echo $LUA_CPATH
      ]])
      assert.equal(root .. "/lua/?.lua;" .. root .. "/lua/?/init.lua;/mine/?.lua;;\n" ..
        root .. "/build/lib/?.so;/mine/?.so;;\n", output)
    end
  end)

  it("help names every target for users", function()
    local help = run [[make -s -C "$root" help]]
    for target in ("all test demo lint sanitize install env clean help"):gmatch "%a+" do
      assert.truthy(help:find("%f[%a]" .. target .. " "), target)
    end
  end)
end)

describe("the module", function()
  it("leaves the collector as it was", function()
    local code = [[%s -e '
      %s
      collectgarbage "%s"
      io.write(tostring(pcall(require, "sharearray")), " ", tostring(collectgarbage "isrunning"))']]
    local function after(before, path)
      return (machine.shell(code:format(machine.luajit, path, before)))
    end
    local nowhere = [[package.cpath = "nowhere/?.so"]]
    assert.equal("true true", after("restart", ""))
    assert.equal("true false", after("stop", ""))
    assert.equal("false true", after("restart", nowhere))
    assert.equal("false false", after("stop", nowhere))
  end)

  it("says what it needs where there is no FFI", function()
    local lua, found = machine.shell "command -v lua5.1"
    if not found then return pending "there is no other Lua than LuaJIT" end
    local said, ok = machine.shell(("LUA_PATH='lua/?.lua;lua/?/init.lua' %s -e 'require \"sharearray\"'"):format(
      lua:match "%S+"))
    assert.is_false(ok)
    assert.truthy(said:find("sharearray needs LuaJIT, for its FFI; this is Lua 5.1", 1, true), said)
  end)
end)

describe("the set-up script", function()
  before_each(function()
    folder = assert(io.popen "mktemp -d"):read "*l"
  end)
  after_each(function()
    os.execute("rm -rf '" .. folder .. "'")
  end)

  -- A machine of few commands: those named, and fakes that write down how they were called.
  local bare = [[
    mkdir bin
    for command in $commands; do ln -s $(command -v $command) bin/; done
    for fake in $fakes; do
      printf '#!%s\necho %s "$@" >>%s/calls\n' $(command -v sh) $fake $PWD >bin/$fake
      chmod +x bin/$fake
    done
    set_up() { PATH=$PWD/bin "$root"/.ci/setup "$@"; }
  ]]

  it("says nothing where all is there", function()
    assert.equal("", run [[LUAJIT="$luajit" "$root"/.ci/setup build test]])
  end)

  it("asks for everything at once, and for OpenResty's LuaJIT, on a bare machine", function()
    local output, ok = sh([[
      commands='sh sed id env cat' fakes='apt-get apt-cache dpkg-query sudo'
    ]] .. bare .. [[
      LUAJIT=no-luajit set_up build
    ]])
    assert.falsy(ok) -- the fakes install nothing
    local command = "apt-get install --no-remove --yes make gcc libc6-dev zlib1g-dev luajit2 lua-cjson\n"
    assert.truthy(output:find(command, 1, true), output)
    assert.truthy(output:find("Installed, but still not found", 1, true), output)
  end)

  it("completes the LuaJIT whose library is there", function()
    local output = sh([[
      commands='sh sed id env cat' fakes='apt-get apt-cache sudo'
    ]] .. bare .. [[
      printf '#!%s\nprintf installed\n' $(command -v sh) >bin/dpkg-query
      chmod +x bin/dpkg-query
      LUAJIT=no-luajit set_up test
    ]])
    assert.truthy(output:find(" luajit ", 1, true), output)
    assert.truthy(output:find(" libluajit-5.1-dev ", 1, true), output)
    assert.falsy(output:find("luajit2", 1, true), output)
  end)

  it("looks at no package where a LuaJIT is there", function()
    run([[
      commands="sh make sed id env cat cc gcc as ld" fakes='apt-get apt-cache dpkg-query'
    ]] .. bare .. [[
      LUAJIT=$(command -v "$luajit") set_up build
      ! test -e calls
    ]])
  end)

  it("names in words what is missing where there is no apt-get", function()
    local output, ok = sh([[
      commands='sh sed id env cat' fakes=
    ]] .. bare .. [[
      LUAJIT=no-luajit set_up build
    ]])
    assert.falsy(ok)
    assert.equal("This needs, and nothing here can install: make, a C compiler, libc's headers, " ..
      "zlib's headers, LuaJIT 2.1, the Lua module cjson.\n", output)
  end)

  it("refuses an unknown task", function()
    local output, ok = sh [["$root"/.ci/setup everything]]
    assert.falsy(ok)
    assert.truthy(output:find("usage: setup build|demo|serve|bench|cluster|test|lint|analyze|model", 1, true), output)
  end)
end)
