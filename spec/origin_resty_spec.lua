-- Redis as an origin of nginx workers: two servers with a directory each are two machines.
local machine = require "support.machine"
local nginx = require "support.nginx"
local redis = require "support.redis"

local location = nginx.location

local PING = location("/ping", [[ngx.print("pong")]])

for _, client in ipairs { "redis-lua over a cosocket", "resty.redis" } do
  describe("sharearray.origin.redis in nginx, by " .. client, function()
    local there, why = nginx.is_there()
    if there then there, why = redis.is_there() end
    if there and client == "resty.redis" and not package.searchpath("resty.redis", package.path) then
      there, why = nil, "needs resty.redis, which Debian does not have"
    end
    if not there then
      pending(why)
      return
    end

    local servers, directories, store

    before_each(function()
      store, servers, directories = redis.start(), {}, {}
    end)

    after_each(function()
      for _, server in ipairs(servers) do server:stop() end
      store:stop()
      for _, directory in ipairs(directories) do machine.remove(directory) end
    end)

    -- What each Lua state does before all else.
    local PRELUDE = [[
      if %q ~= "resty.redis" then package.preload["resty.redis"] = function() error "not this time" end end
      origin = require("sharearray.origin.redis").new{ port = %d, %s }
      opts = { origin = origin }
    ]]

    -- Starts a machine: a server with two workers.
    local function start(options)
      local directory = machine.directory()
      directories[#directories + 1] = directory
      local server = nginx.start {
        main = ("env SHAREARRAY_SHM_PATH=%s;\n"):format(directory), env = { SHAREARRAY_SHM_PATH = directory },
        http = ("init_by_lua_block { %s %s }"):format(PRELUDE:format(client, store.port, options.redis or ""),
          options.init or ""),
        server = PING .. options.server,
      }
      servers[#servers + 1] = server
      return server
    end

    local X = location("/x", [[
      local x, err, code = sharearray.cache("x", function(alloc)
        ngx.log(ngx.NOTICE, "it builds")
        ngx.sleep(1)
        local x = alloc("uint8", 64 * 2^20)
        x:fill(7)
        return x
      end, opts)
      ngx.print(x and x(0) .. " " .. x(x.size - 1) or code .. ": " .. err)
    ]])

    local function count(server, what) return select(2, server:log():gsub(what, "")) end

    it("requests on 2 machines of 2 workers, cold: fn once, no error, and the workers go on answering", function()
      local a, b = start { server = X }, start { server = X }
      local pinger = b:client("ping", "8", "/ping")
      pinger:expect "answered"
      local clients = { a:client("send", "10", "/x"), b:client("send", "10", "/x") }
      for i, server in ipairs { a, b } do
        for _, answer in ipairs(server.answers(clients[i])) do assert.equal("7 7", answer.body) end
      end
      local report = b.report(pinger)
      assert.same({}, report.failed)
      assert.is_true(report.median < 0.020 * machine.slowness,
        ("the median answer took %.1f ms"):format(report.median * 1000))
      assert.equal(1, count(a, "it builds") + count(b, "it builds"))
      assert.equal(0, count(a, "%[error%]") + count(b, "%[error%]"))
      for _, directory in ipairs(directories) do assert.same({ "sharearray_x.npy" }, machine.names(directory)) end
    end)

    it("a source that sleeps for long keeps the lease by a timer, and gives it back", function()
      local long = location("/x", [[
        local x = sharearray.cache("x", function()
          ngx.log(ngx.NOTICE, "it builds")
          ngx.sleep(4)
          return sharearray.array{ngx.now()}
        end, opts)
        ngx.print(x(0))
      ]])
      local a, b = start { server = long, redis = "lease = 1" }, start { server = long, redis = "lease = 1" }
      local first = a:client("send", "1", "/x")
      a:expect_log "it builds"
      local second = b:get "/x"
      assert.equal(a.answers(first)[1].body, second)
      assert.equal(0, count(b, "it builds"))
      assert.equal("0", store:cli "exists 'sharearray:{sharearray_x}:lease'")
    end)

    it("an aborted request's lease is given back", function()
      local stuck = location("/x", [[
        local x = sharearray.cache("x", function()
          ngx.log(ngx.NOTICE, "it builds")
          ngx.sleep(3600)
        end, opts)
      ]])
      local a = start { server = stuck, redis = "lease = 1" }
      local aborting = a:client("abort", "/x")
      aborting:expect "sent"
      a:expect_log "it builds"
      aborting:tell()
      aborting:expect "closed"
      aborting:finish()
      local b = start { server = X }
      assert.equal("7 7", (b:get "/x"))
    end)

    it("a refresh on one machine is announced: the other one renews within a second", function()
      local code = location("/x", [[
        local x = assert(sharearray.cache("x", function() return sharearray.array{1} end, opts))
        ngx.print(x(0))
      ]]) .. location("/refresh", [[
        assert(sharearray.refresh("x", function() return sharearray.array{2} end, opts))
        ngx.update_time()
        ngx.print(ngx.now())
      ]])
      local a = start { server = code, redis = "poll = 3600" }
      local b = start { server = code, redis = "poll = 3600" }
      assert.equal("1", (a:get "/x"))
      assert.equal("1", (b:get "/x"))
      -- Until both workers of both machines listen.
      nginx.eventually(function()
        a:send("8", "/x")
        b:send("8", "/x")
        return store:cli "pubsub numsub sharearray:news":find "4$"
      end, "the subscriptions")
      machine.shell "sleep 0.1"
      b:send("8", "/x")
      local at = tonumber((a:get "/refresh"))
      nginx.eventually(function() return b:get "/x" == "2" end, "the renewal")
      local took = machine.now(0) - at
      assert.is_true(took < 1, took)
    end)

    it("a reload is not held up by who listens", function()
      local a = start { server = X }
      a:get "/x"
      nginx.eventually(function()
        a:send("8", "/x")
        return store:cli "pubsub numsub sharearray:news":find "2$"
      end, "the subscriptions")
      local before = a:workers()
      a:reload()
      nginx.eventually(function()
        local alive = {}
        for _, pid in ipairs(a:workers()) do alive[pid] = true end
        return not alive[before[1]] and not alive[before[2]]
      end, "the old workers' end", 15)
      assert.equal(0, count(a, "%[error%]"))
    end)

    it("Redis down or stopped in the midst: each machine builds for itself, and the workers live", function()
      local a = start { server = X, redis = "timeout = 0.3" }
      store:kill(machine.SIGSTOP)
      local pinger = a:client("ping", "4", "/ping")
      pinger:expect "answered"
      assert.equal("7 7", (a:get "/x"))
      local report = a.report(pinger)
      store:kill(machine.SIGCONT)
      assert.same({}, report.failed)
      assert.is_true(report.median < 0.020 * machine.slowness)
      assert.is_true(count(a, "the origin cannot be asked: .-this machine goes on without it") > 0)
    end)

    it("loads at the server's start, and phases that cannot speak to Redis build for themselves", function()
      local init = [[
        loaded = assert(require("sharearray.resty").cache("loaded", function()
          return require("sharearray.resty").array{5}
        end, opts))
      ]]
      start { server = "", init = init }
      local b = start { server = location("/x", "ngx.print(loaded(0))") .. [[
        location /y {
          content_by_lua_block { ngx.print "content" }
          log_by_lua_block {
            local sharearray = require "sharearray.resty"
            local y = assert(sharearray.cache("y", function() return sharearray.array{6} end, opts))
            ngx.log(ngx.NOTICE, "y is ", y(0))
          }
        }
      ]], init = init:gsub("function.-end,", "error,") }
      assert.equal("5", (b:get "/x"))
      b:get "/y"
      b:expect_log "y is 6"
      b:expect_log "the phase log cannot speak to Redis"
    end)
  end)
end
