-- `make install`, `make env` and the set-up script, as a user's shell sees them.

local machine = require "support.machine"
local nginx = require "support.nginx"

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
    assert.equal(run [[cd "$root"/lua; (find sharearray -type f; echo sharearray/startup.lua) | sort]],
      run "cd tmp/usr/local/share/lua/5.1; find sharearray -type f -not -name '*.bytecode' | sort")
    local output = run(use .. [[
      LUA_PATH="$PWD/tmp/usr/local/share/lua/5.1/?.lua;$PWD/tmp/usr/local/share/lua/5.1/?/init.lua;;" \
      LUA_CPATH="$PWD/tmp/usr/local/lib/lua/5.1/?.so;;" "$luajit" use.lua $PWD/shm
    ]])
    assert.equal("5\t" .. folder .. "/tmp/usr/local/share/lua/5.1/sharearray/init.lua\n", output)
  end)

  it("installs nothing over the checkout, if that is where the modules are linked to", function()
    local said, done = sh [[
      mkdir -p checkout/build tmp/share/lua/5.1
      cd "$root"
      cp -Rp Makefile .ci bin core lua $OLDPWD/checkout
      cp -Rp build/core build/lib $OLDPWD/checkout/build
      cd $OLDPWD
      ln -s $PWD/checkout/lua/sharearray tmp/share/lua/5.1/sharearray
      make -s -C checkout install PREFIX=$PWD/tmp]]
    assert.is_false(done)
    assert.truthy(said:find("is this checkout's own: nothing more is installed", 1, true), said)
    assert.equal("", run [[diff -r "$root"/lua checkout/lua; find checkout/lua -name '*.new']])
  end)

  it("fails where a directory is in the way, and leaves no temporary file", function()
    local said, done = sh [[
      mkdir -p tmp/bin/sharearray/x
      make -s -C "$root" install PREFIX=$PWD/tmp]]
    assert.is_false(done)
    assert.truthy(said:find("tmp/bin/sharearray", 1, true), said)
    assert.equal("", run "find tmp -name '*.new'")
  end)

  describe("joins the modules that are always loaded, and compiles them", function()
    local functions = [[
      share=$PWD/tmp/share/lua/5.1
      use() {
        export LUA_PATH="$share/?.lua;$share/?/init.lua;;" LUA_CPATH="$PWD/tmp/lib/lua/5.1/?.so;;"
        "$luajit" program.lua $PWD/shm
      }
      install() { make -s -C "$root" install LUAJIT="$luajit" PREFIX=$PWD/tmp; }
    ]]
    -- Says what was joined, and whether its bytecode was read or its source compiled: that would call the lexer on
    -- startup.lua, and it is loaded with the name of its file.
    local program = functions .. [[
      cat >program.lua <<'END'
      local joined, loaded, load = {}, "", loadfile
      setmetatable(package.preload, { __newindex = function(t, name, chunk)
        joined[#joined + 1] = name:match "^sharearray%.(.*)"
        rawset(t, name, chunk)
      end })
      function loadfile(path)
        local chunk, problem = load(path)
        if chunk and path:find "startup" then loaded = path:match "startup%.%l+" end
        return chunk, problem
      end
      local x = assert(require "sharearray".new { shm_path = arg[1] }:cache("x", { require "sharearray".array { 7 } }))
      table.sort(joined)
      print(x[1](0), loaded, #joined)
END
      rm -rf shm tmp
      mkdir shm
      install
    ]]
    local BYTECODE, SOURCE, APART = "7\tstartup.bytecode\t14\n", "7\tstartup.lua\t14\n", "7\t\t0\n"

    local function uses(changes) return run(program .. changes .. "\nuse") end

    it("for the LuaJIT and the place that it is made for", function()
      assert.equal(BYTECODE, uses "")
      assert.equal(BYTECODE, uses [[make -s -C "$root" install LUAJIT="$luajit" PREFIX=$PWD/tmp/]])
      assert.equal(SOURCE, uses "mv tmp/share tmp/moved; share=$PWD/tmp/moved/lua/5.1")
    end)

    -- These specs run under OpenResty's and under the stock one.
    it("so that it serves each LuaJIT of the version that made it", function()
      local made_by_another = program:gsub('LUAJIT="$luajit"', "LUAJIT=luajit", 1)
      assert.equal("7", run(made_by_another .. "use"):match "^%d+")
    end)

    it("and takes the source where the bytecode is another LuaJIT's", function()
      assert.equal(SOURCE, uses "cd $share/sharearray; mv LuaJIT-* LuaJIT-2.2-x64; cd $OLDPWD")
    end)

    -- Given bytecode that ends too early, LuaJIT reads on behind its end.
    it("and takes the source where the bytecode is cut off, wherever", function()
      run(program .. "use")
      local list = run "ls -d tmp/share/lua/5.1/sharearray/LuaJIT-*/*.bytecode"
      assert.equal(11, select(2, list:gsub("\n", "")))
      for name in list:gmatch "[^\n]+" do
        local file = assert(io.open(folder .. "/" .. name, "rb"))
        local all = file:read "*a"
        file:close()
        local lengths = { 0, 1, 20, #all - 13, #all - 5, #all - 4, #all - 3 }
        for i = 1, 12 do lengths[#lengths + 1] = math.floor(#all * i / 13) end
        for _, length in ipairs(lengths) do
          file = assert(io.open(folder .. "/" .. name, "wb"))
          file:write(all:sub(1, length), ("\0"):rep(length % 2 == 0 and #all - length or 0)) -- as after a power cut
          file:close()
          assert.equal(name:find "startup" and SOURCE or BYTECODE, run(functions .. "use"))
        end
        file = assert(io.open(folder .. "/" .. name, "wb"))
        file:write(all:sub(1, -2)) -- only what says that nothing follows
        file:close()
        assert.equal(name:find "startup" and SOURCE or BYTECODE, run(functions .. "use"))
        file = assert(io.open(folder .. "/" .. name, "wb"))
        file:write(all)
        file:close()
      end
      assert.equal(BYTECODE, run(functions .. "use"))
    end)

    it("and says what is wrong with a source that was changed, or cut off", function()
      local said, done = sh(program .. "echo end >>$share/sharearray/startup.lua; use")
      assert.is_false(done)
      assert.truthy(said:find "sharearray: /%S+/startup.lua cannot be used %(.*near 'end'%): install the library", said)
      said, done = sh(functions .. [[sed -i '/^modules."sharearray.place/,$d' $share/sharearray/startup.lua; use]])
      assert.is_false(done)
      assert.truthy(said:find "sharearray: /%S+/startup.lua cannot be used %(it is cut off%): install the lib", said)
    end)

    it("and the classes of the usual views, whose text is not read then", function()
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

    it("for all to read and for its owner to write, whatever the umask", function()
      for _, umask in ipairs { "000", "077" } do
        assert.equal("644\n", run(program .. "(umask " .. umask .. "; install)\n"
          .. "stat -c %a $share/sharearray/startup.lua $share/sharearray/LuaJIT-*/*.bytecode | sort -u"))
      end
    end)

    it("and steps back for who loads another version later", function()
      assert.equal("other\n", run(program .. [[
        mkdir -p other
        cp -R "$root"/lua/sharearray other
        echo 'return { new = function() return "other" end }' >other/sharearray/facade.lua
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

    it("and takes the source when that has changed, until the next installation", function()
      local change = "sed -i s/closings/closinks/ $share/sharearray/startup.lua\n" -- of the same size
      assert.equal(SOURCE, uses(change))
      assert.equal(SOURCE, uses [[ # of the same time
        cp -p $share/sharearray/startup.lua startup.lua
        echo >>$share/sharearray/startup.lua
        touch -r startup.lua $share/sharearray/startup.lua]])
      assert.equal(BYTECODE, uses(change .. "mkdir $share/sharearray/LuaJIT-2.2-x64; install"))
      assert.equal("1\n", run "ls -d tmp/share/lua/5.1/sharearray/L* | wc -l")
    end)

    -- Packages are made reproducible by taking back the times of what is newer than its sources.
    it("with the time of the newest of them, or the one that packagers set", function()
      assert.equal(BYTECODE, uses [[
        newest=$(ls -t "$root"/lua/sharearray/*.lua | head -1)
        find tmp -newer $newest -exec touch -r $newest {} +]])
      assert.equal(BYTECODE, uses [[
        export SOURCE_DATE_EPOCH=1700000000
        install
        touch -d @$SOURCE_DATE_EPOCH epoch
        find tmp -newer epoch -exec touch -r epoch {} +]])
    end)

    it("and finds the place by any spelling of it", function()
      assert.equal(BYTECODE, uses "share=$PWD/tmp//share/lua/5.1")
    end)

    it("and leaves them to who puts another version over it", function()
      assert.equal(APART, uses [[cp -R "$root"/lua/sharearray $share]])
    end)

    it("and not what LUA_INIT loads, nor in the place of what the program has", function()
      assert.equal(BYTECODE, uses [[export LUA_INIT='require "sharearray.array"'; install; unset LUA_INIT]])
      assert.equal("mine\ttrue\n", run(functions .. [[
        cat >program.lua <<'END'
        local function mine() return { new = function() return "mine" end } end
        package.preload["sharearray.facade"] = mine
        print(require "sharearray", package.preload["sharearray.facade"] == mine)
END
        use
      ]]))
    end)

    -- Two versions whose modules do not fit each other: what one calls GET is GOT in the other.
    it("while others install it, or another version, and start it", function()
      assert.equal("0\n0\n0\n", run(program .. [[
        mkdir -p other/build
        (cd "$root"; cp -Rp Makefile .ci bin core lua $OLDPWD/other; cp -Rp build/core build/lib $OLDPWD/other/build)
        sed -i 's/library\.GET/library.GOT/' other/lua/sharearray/*.lua
        touch -r "$root"/lua/sharearray/store.lua other/lua/sharearray/*.lua
        other() { make -s -C other install LUAJIT="$luajit" PREFIX=$PWD/tmp; }
        (for i in 1 2 3 4 5 6; do install; done) >/dev/null & first=$!
        (for i in 1 2 3 4 5 6; do other; done) >/dev/null & second=$!
        failed=0 started=0
        while kill -0 $first 2>/dev/null || kill -0 $second 2>/dev/null; do
          use >said 2>&1 || { failed=$((failed + 1)); cat said >&2; }
          started=$((started + 1))
        done
        wait $first; echo $?
        wait $second; echo $?
        [ $started -gt 20 ]
        echo $failed
      ]]))
      assert.equal("0\n", run(functions .. "install; find tmp -name '*.new*' | wc -l"))
      assert.equal(BYTECODE, run(functions .. "use"))
    end)

    -- Who interrupts does so more than once: `timeout` tells the process and then its group, and people lose patience.
    it("and leaves what was there when it is interrupted", function()
      assert.equal(BYTECODE:rep(6) .. "0\ninterrupted\n", run(program .. [[
        for seconds in 0.02 0.06 0.1 0.14 0.18 0.22; do
          setsid make -s -C "$root" install LUAJIT="$luajit" PREFIX=$PWD/tmp >said 2>&1 & installing=$!
          sleep $seconds
          again=0
          while [ $again -lt 5000 ]; do kill -s TERM -- -$installing 2>/dev/null || :; again=$((again + 1)); done
          wait $installing || ended=$?
          use
        done 2>noise # a shell may say «Terminated»
        find tmp -name '*.new*' | wc -l
        case $ended in
          143 | 2) echo interrupted ;; # 2: make saw what it runs end before it saw the signal
          *) echo $ended ;;
        esac
      ]]))
    end)

    it("whatever LUA_INIT does, and never believes that it is done when it is not", function()
      assert.equal(BYTECODE:rep(3), run(program .. [[
        for init in 'os.exit(0)' 'nonsense(' 'require "nosuch"'; do
          rm -rf tmp
          LUA_INIT=$init make -s -C "$root" install LUAJIT="$luajit" PREFIX=$PWD/tmp
          use
        done]]))
      assert.equal(APART, run(functions .. 'make -s -C "$root" install LUAJIT=true PREFIX=$PWD/tmp; use'))
    end)

    it("and says so where it cannot be put", function()
      local said, done = sh(functions .. [[
        mkdir -p tmp/share/lua/5.1/sharearray
        mount -t tmpfs none tmp/share/lua/5.1/sharearray || { echo not permitted; exit; }
        make -s -C "$root" install LUAJIT="$luajit" PREFIX=$PWD/tmp && echo unexpected
        umount tmp/share/lua/5.1/sharearray
        exit 1]])
      if done and said:find "not permitted" then pending(said) return end
      assert.truthy(said:find("cannot be replaced: is it where a file system is mounted", 1, true), said)
      assert.is_nil(said:find "unexpected")
    end)

    it("and takes away what an earlier version had", function()
      assert.equal("0\n", run(program .. [[
        touch $share/sharearray/former.lua
        mkdir $share/sharearray/LuaJIT-1.0-x64
        install
        find tmp -name former.lua -o -name LuaJIT-1.0-x64 | wc -l]]))
      assert.equal(APART .. "0\n", run(functions .. [[
        touch $share/sharearray/former.lua
        make -s -C "$root" install LUAJIT=no-luajit PREFIX=$PWD/tmp >/dev/null 2>&1
        use
        find tmp -name former.lua -o -name '*.new*' | wc -l]]))
    end)

    it("in the place of a link", function()
      assert.equal(BYTECODE .. "mine\n", run(program .. [[
        mkdir mine
        echo mine >mine/file
        rm -r $share/sharearray
        ln -s $PWD/mine $share/sharearray
        install
        use
        cat mine/file]]))
    end)

    it("with the lines that both forms have", function()
      local line = run(program .. "grep -n '^function view.whole' $share/sharearray/startup.lua | cut -d: -f1")
      assert.equal(("@%s/tmp/share/lua/5.1/sharearray/startup.lua\t%s"):format(folder, line), run(program .. [[
        cat >program.lua <<'END'
        require "sharearray"
        local info = debug.getinfo(require "sharearray.view".whole, "S")
        print(info.source, info.linedefined)
END
        use
      ]]))
    end)

    it("and leaves them apart where there is no LuaJIT", function()
      local said = run(program .. [[make -s -C "$root" install LUAJIT=no-luajit PREFIX=$PWD/tmp; use]])
      assert.truthy(said:find("without bytecode for no-luajit", 1, true), said)
      assert.equal(APART, said:match "[^\n]*\n$")
    end)

    it("for nginx, too", function()
      local there, why = nginx.is_there()
      if not there then pending(why) return end
      run(program)
      local server = nginx.start { prefix = folder .. "/tmp", env = { SHAREARRAY_SHM_PATH = folder .. "/shm" },
        main = ("env SHAREARRAY_SHM_PATH=%s/shm;"):format(folder), server = nginx.location("/", [[
          local x = sharearray.cache("x", { sharearray.array { 7 } })
          ngx.print(x[1](0), " ", debug.getinfo(sharearray.cache, "S").source:match "[^/]*$")]]) }
      local body = server:get "/"
      server:stop()
      assert.equal("7 startup.lua", body)
    end)

    it("and leaves stubs for who requires one by itself", function()
      assert.equal(("true"):rep(6, "\t") .. "\n", run(program .. [[
        cat >program.lua <<'END'
        require("sharearray.lazy").all()
        local directory, redis = require "sharearray.origin.directory", require "sharearray.origin.redis"
        local view, sharearray = require "sharearray.view", require "sharearray"
        local x = sharearray.array { 7 }
        package.loaded["sharearray.view"] = nil
        local other = require "sharearray.view"
        print(directory.new ~= nil, redis.new ~= nil, view.is(x), other ~= view, not other.is(x), x(0) == 7)
END
        use
      ]]))
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
