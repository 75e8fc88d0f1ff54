-- The rock: built from the checkout, packed, installed from its file, and used from there. No server
-- is asked: the one dependency is on the machine, and a config file says so.

local luajit = os.getenv "SHAREARRAY_TEST_LUAJIT" or "luajit"

local function run(command)
  local pipe = assert(io.popen("( " .. command .. " ) 2>&1; echo \" $?\""))
  local output, status = pipe:read "*a":match "^(.*) (%d+)\n$"
  pipe:close()
  assert.equal("0", status, output)
  return output
end

local function load_rockspec()
  local rockspec = {}
  setfenv(assert(loadfile "rockspec/sharearray-scm-1.rockspec"), rockspec)()
  return rockspec
end

describe("the rockspec", function()
  it("lists every source of the core", function()
    local listed = load_rockspec().build.modules["sharearray.core"].sources
    assert.equal(run "LC_ALL=C ls core/*.c", table.concat(listed, "\n") .. "\n")
  end)

  it("lists every Lua module under its name", function()
    local listed = {}
    for name, source in pairs(load_rockspec().build.modules) do
      if type(source) == "string" then
        assert.equal(name, source:match "^lua/(.*)%.lua$":gsub("/init$", ""):gsub("/", "."))
        listed[#listed + 1] = source
      end
    end
    table.sort(listed)
    assert.equal(run "find lua -name '*.lua' | LC_ALL=C sort", table.concat(listed, "\n") .. "\n")
  end)

  it("gives a rock that installs and works", function()
    local folder = run "mktemp -d":match "%S+"
    finally(function() os.execute("rm -rf '" .. folder .. "'") end)

    local config = assert(io.open(folder .. "/config.lua", "w"))
    config:write([[
      rocks_servers = {}
      rocks_provided = { ["lua-cjson"] = "2.1.0-1", ["argparse"] = "0.7.1-1" }
      variables = { LUA_INCDIR = "]], run "pkg-config --variable=includedir luajit":match "%S+", [[" }
    ]])
    config:close()

    -- Under LuaJIT luarocks serves LuaJIT, whichever Lua it came with. It builds in the source tree,
    -- hence the copy.
    local luarocks = table.concat({
      "LUAROCKS_CONFIG='" .. folder .. "/config.lua' HOME='" .. folder .. "'",
      "\"$(command -v '" .. luajit .. "')\" \"$(command -v luarocks)\"",
    }, " ")
    local at = "cd '" .. folder .. "' && "
    run("mkdir '" .. folder .. "/source' && cp -r bin core lua rockspec LICENSE '" .. folder .. "/source'")
    run(at .. "cd source && " .. luarocks .. " make --tree ../first rockspec/sharearray-scm-1.rockspec")
    run(at .. luarocks .. " pack --tree first sharearray")
    run(at .. luarocks .. " install --tree second sharearray-*.rock")
    run(at .. "rm -r source first && mkdir shm")

    local program = assert(io.open(folder .. "/program.lua", "w"))
    program:write [[
      local sharearray = require "sharearray"
      local opts = { shm_path = "shm" }
      local function build(alloc)
        local x = alloc("float64", {3})
        for i = 0, 2 do x.data[i] = i + 0.5 end
        return x
      end
      local first = assert(sharearray.cache("x", build, opts))
      local again = assert(sharearray.cache("x", function() error "built twice" end, opts))
      print(first(2), again(2), #again)
    ]]
    program:close()
    -- Where Debian has what the rock needs; a LuaJIT of one's own does not know.
    local lua, so = ";;/usr/share/lua/5.1/?.lua", ";;$(echo /usr/lib/*/lua/5.1)/?.so"
    assert.equal("2.5\t2.5\t3\n", run(at ..
      "LUA_PATH='second/share/lua/5.1/?.lua;second/share/lua/5.1/?/init.lua" .. lua .. "' " ..
      "LUA_CPATH=\"second/lib/lua/5.1/?.so" .. so .. "\" '" .. luajit .. "' program.lua"))

    -- The command finds its tree by itself, and luarocks does not wrap what is no Lua script.
    run("cmp bin/sharearray '" .. folder .. "/second/bin/sharearray'")
    assert.truthy(run(at .. "LUA_PATH='" .. lua .. "' LUA_CPATH=\"" .. so .. "\" LUAJIT='" .. luajit .. "' " ..
      "SHAREARRAY_SHM_PATH=shm second/bin/sharearray ls"):find("\nx .* ready  float64 %(3,%)\n"))
  end)
end)
