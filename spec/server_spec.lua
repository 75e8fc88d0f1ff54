-- The model server of examples/openresty, as it stands there but for its port.
local cjson = require "cjson"
local machine = require "support.machine"
local nginx = require "support.nginx"
local sharearray = require "sharearray"

local ID = "fashion_mnist.model"

describe("the model server", function()
  local there, why = nginx.is_there()
  if not there then
    pending(why)
    return
  end

  local directory, server, address, model_file
  local checkout = machine.shell "pwd":match "[^\n]+"

  -- Puts what `make(alloc)` returns into the model file.
  local function write_file(make)
    local store = sharearray.new { shm_path = machine.directory() }
    assert(store:cache(ID, make))
    local path = assert(store:stat(ID)).path
    machine.shell(("cp '%s' '%s.new' && chmod 644 '%s.new' && mv '%s.new' '%s'"):format(path, model_file, model_file,
      model_file, model_file))
    machine.remove(store.settings.shm_path)
  end

  -- A model that sees class `bright` where pixel 0 is bright, and class 3 elsewhere; as a file.
  local function write_model(bright, accuracy)
    write_file(function(alloc)
      local model = alloc { weights = { "float32", { 784, 10 } }, bias = { "float32", { 10 } } }
      model.weights:set(0, bright, 20)
      model.bias:set(3, 5)
      model.labels = { "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine" }
      model.accuracy = accuracy
      return model
    end)
  end

  before_each(function()
    directory = machine.directory()
    model_file = directory .. "/model.npz"
    address = "127.0.0.1:" .. nginx.free_port()
    local file = assert(io.open "examples/openresty/nginx.conf")
    local configuration = file:read "*a":gsub("127%.0%.0%.1:8080", address)
      :gsub("%$prefix/../..", checkout):gsub("error_log stderr", "error_log %%(home)/error.log")
      :gsub("access_log off", "access_log %%(home)/access.log")
    file:close()
    if machine.is_root then configuration = "user root;\n" .. configuration end
    write_model(7, 0.5)
    server = nginx.start { workers = 4, configuration = configuration, address = address,
      env = { SHAREARRAY_SHM_PATH = directory, MODEL_FILE = model_file } }
  end)

  after_each(function()
    server:stop()
    machine.remove(directory)
  end)

  local function ask(method, path, body, accept)
    local answer = server.answers(server:client("ask", method, path, accept or "*/*",
      ((body or ""):gsub(".", function(c) return ("%02x"):format(c:byte()) end))))[1]
    return accept and answer.body or cjson.decode(answer.body), answer.status
  end

  local BRIGHT, DARK = "\255" .. ("\0"):rep(783), ("\0"):rep(784)

  it("predicts, and takes a new model file up in all workers", function()
    local said, status = ask("POST", "/predict", BRIGHT)
    assert.equal(200, status)
    assert.equal("seven", said.label)
    assert.equal(7, said.class)
    assert.is_true(said.probability > 0.99)
    assert.equal(10, #said.probabilities)
    assert.equal("three", ask("POST", "/predict", DARK).label)
    write_model(1, 0.75)
    assert.equal("seven", ask("POST", "/predict", BRIGHT).label)
    assert.same({ reloaded = ID, accuracy = 0.75 }, (ask("POST", "/reload")))
    for _ = 1, 20 do assert.equal("one", ask("POST", "/predict", BRIGHT).label) end
  end)

  it("says what is wrong with a request, and without a model", function()
    local said, status = ask("POST", "/predict", "abc")
    assert.equal(400, status)
    assert.truthy(said.error:find "send 784 bytes.-got 3")
    assert.truthy(ask("POST", "/predict").error:find "got none")
    said, status = ask("POST", "/predict", ("x"):rep(40000)) -- nginx has put it into a file
    assert.equal(400, status)
    assert.truthy(said.error:find "got many more", said.error)
    assert.equal(200, (select(2, ask("HEAD", "/status", "", "*/*"))))
    assert.equal(405, (select(2, ask("GET", "/predict"))))
    assert.equal(405, (select(2, ask("POST", "/status"))))
    assert(os.remove(model_file))
    said, status = ask("POST", "/reload")
    assert.equal(500, status)
    assert.truthy(said.error:find "model.npz")
    assert.equal("seven", ask("POST", "/predict", BRIGHT).label) -- the old one serves on
    assert(sharearray.free(ID, { shm_path = directory }))
    said, status = ask("POST", "/predict", BRIGHT)
    assert.equal(503, status)
    assert.truthy(said.error:find "model.npz")
    assert.truthy(ask("GET", "/status").error)
  end)

  it("refuses a file that is no model, and serves on what it has", function()
    assert.equal("seven", ask("POST", "/predict", BRIGHT).label)
    local wrong = {
      ["a single array"] = function(alloc) return alloc("float32", { 784, 10 }) end,
      ["no labels"] = function(alloc)
        return alloc { weights = { "float32", { 784, 10 } }, bias = { "float32", { 10 } } }
      end,
      ["no weights"] = function(alloc)
        local model = alloc { weights = { "float32", { 784, 9 } }, bias = { "float32", { 10 } } }
        model.labels = { "0", "1", "2", "3", "4", "5", "6", "7", "8", "9" }
        return model
      end,
      ["no bias"] = function(alloc)
        local model = alloc { weights = { "float32", { 784, 2 } }, bias = { "float64", { 2 } } }
        model.labels = { "0", "1" }
        return model
      end,
      ["is no string"] = function(alloc)
        local model = alloc { weights = { "float32", { 784, 2 } }, bias = { "float32", { 2 } } }
        model.labels = { "0", { "1" } }
        return model
      end,
    }
    for flaw, make in pairs(wrong) do
      write_file(make)
      local said, status = ask("POST", "/reload")
      assert.equal(500, status)
      assert.truthy(said.error:find(flaw, 1, true), said.error)
      assert.truthy(ask("GET", "/status").error:find(flaw, 1, true))
    end
    -- The worker that was asked has the old model; others may have had none.
    for _ = 1, 20 do
      local said, status = ask("POST", "/predict", BRIGHT)
      assert.is_true(said.label == "seven" or status == 503)
    end
    write_file(function(alloc)
      local model = alloc { weights = { "float32", { 784, 2 } }, bias = { "float32", { 2 } } }
      model.bias:set(0, 0 / 0)
      model.labels = { "0", "1" }
      model.accuracy = "ninety"
      return model
    end)
    assert.equal(200, (select(2, ask("POST", "/reload"))))
    assert.equal(500, (select(2, ask("POST", "/predict", BRIGHT))))
    assert.is_nil(server:log():find "Lua entry thread aborted")
  end)

  it("GET /status tells what is shared, and by how many", function()
    local status
    nginx.eventually(function()
      status = ask("GET", "/status")
      return status.workers_attached == 4
    end, "four workers")
    local entry = assert(sharearray.stat(ID, { shm_path = directory }))
    assert.equal(ID, status.id)
    assert.equal(entry.path, status.path)
    assert.equal(entry.bytes, status.bytes)
    assert.equal(3 * entry.bytes, status.saved)
    assert.is_true(math.abs(entry.age - status.age) < 30)
    assert.truthy(status.version:find "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%dZ$")
    assert.is_true(status.attaches >= 4)
    assert.same({ { name = "bias", dtype = "float32", shape = { 10 }, nbytes = 40 },
      { name = "weights", dtype = "float32", shape = { 784, 10 }, nbytes = 31360 } }, status.arrays)
    local pids = {}
    for i, worker in ipairs(status.workers) do pids[i] = worker.pid end
    assert.same(server:workers(), pids)
    local hits = status.hits
    ask("POST", "/predict", DARK)
    assert.is_true(ask("GET", "/status").hits > hits)
    ask("POST", "/reload")
    assert.not_equal(status.version, ask("GET", "/status").version)
  end)

  local chromium = machine.shell "command -v chromium":match "%S+"
  local in_browser = chromium and it or pending

  in_browser("the page shows it in a browser, and updates itself", function()
    nginx.eventually(function() return ask("GET", "/status").workers_attached == 4 end, "four workers")
    assert.truthy(ask("GET", "/status", "", "text/html"):find("<!DOCTYPE html>", 1, true))
    local before = select(2, assert(io.open(server.home .. "/access.log")):read "*a":gsub("GET /status", ""))
    local profile = machine.directory "/tmp"
    -- The budget is of the page's own time: several updates.
    local options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
      .. "--disable-background-networking --disable-component-update --virtual-time-budget=4000 --dump-dom"
    -- Chromium under a preloaded AddressSanitizer is no test of ours.
    local command = "timeout 60 env -u LD_PRELOAD '%s' %s --user-data-dir='%s' http://%s/status"
    local dom, ok = machine.shell(command:format(chromium, options, profile, address))
    machine.remove(profile)
    assert.is_true(ok, dom)
    local function shown(id) return dom:match('id="' .. id .. '"[^>]*>([^<]*)<') end
    assert.equal(ID, shown "id")
    assert.equal(directory .. "/sharearray_" .. ID .. ".npy", shown "path")
    assert.equal("", shown "error")
    assert.equal("31.5 KiB", shown "size")
    assert.equal("94.4 KiB", shown "saved")
    assert.equal("4", shown "attached")
    assert.equal("50.0 %", shown "accuracy")
    assert.equal("updates itself every second", shown "state")
    assert.truthy(dom:find("<td>weights</td><td>float32</td><td>(784, 10)</td><td>30.6 KiB</td>", 1, true), dom)
    for _, pid in ipairs(server:workers()) do
      assert.truthy(dom:find(("<td>%d</td><td>attached</td>"):format(pid), 1, true))
    end
    assert.is_nil(server:log():find "%[error%]")
    local requests = select(2, assert(io.open(server.home .. "/access.log")):read "*a":gsub("GET /status", ""))
    assert.is_true(requests > before + 2, "the page asked once only")
  end)
end)
