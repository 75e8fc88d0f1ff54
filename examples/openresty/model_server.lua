--- The handlers of the model server: see nginx.conf beside this file.
--
-- The model is a bundle, under one id for the whole machine. Whichever worker needs it first copies the
-- model file into shared memory; all others, and all that start later, attach. `make demo` leaves a model
-- under this id too, and then no file is needed.

local cjson = require "cjson"
local ffi = require "ffi"
local sharearray = require "sharearray.resty"

local M = {}

local ID = "fashion_mnist.model"
local FILE = os.getenv "MODEL_FILE" or ngx.config.prefix() .. "model.npz"
local PIXELS = 28 * 28
local ALIVE = 3 -- seconds after which a worker that says nothing is gone

local counts = ngx.shared.model_server
local page = assert(io.open(debug.getinfo(1, "S").source:match "^@(.*/)" .. "status.html")):read "*a"

local source = sharearray.file(FILE)
local last -- the model this worker had at its last look

--- The model. Counts hits, and attaches: the times that a worker met a model it did not have yet.
local function get_model()
  local model, problem, code = sharearray.cache(ID, source)
  if not model then return nil, problem, code end
  counts:incr(model == last and "hits" or "attaches", 1, 0)
  last = model
  return model
end

local function answer(status, value)
  ngx.status = status
  ngx.header.content_type = "application/json"
  ngx.say(cjson.encode(value))
end

local function check_method(method)
  if ngx.req.get_method() == method then return true end
  ngx.header.allow = method
  answer(405, { error = "use " .. method })
end

-- Prediction -----------------------------------------------------------------------------------------

local scores = ffi.new("double[64]")

--- The probability of each class, as a list.
local function softmax(model, pixels)
  local weights, bias, classes = model.weights.data, model.bias.data, #model.bias
  for k = 0, classes - 1 do scores[k] = bias[k] end
  for p = 0, PIXELS - 1 do
    local value = pixels:byte(p + 1) / 255
    if value ~= 0 then
      for k = 0, classes - 1 do scores[k] = scores[k] + value * weights[p * classes + k] end
    end
  end
  local top, sum, result = -math.huge, 0, {}
  for k = 0, classes - 1 do top = math.max(top, scores[k]) end
  for k = 0, classes - 1 do
    scores[k] = math.exp(scores[k] - top)
    sum = sum + scores[k]
  end
  for k = 0, classes - 1 do result[k + 1] = scores[k] / sum end
  return result
end

--- POST /predict
function M.predict()
  if not check_method "POST" then return end
  ngx.req.read_body()
  local pixels = ngx.req.get_body_data()
  if not pixels or #pixels ~= PIXELS then
    return answer(400, { error = ("send %d bytes, a 28x28 image in grey, as the body; got %d"):format(PIXELS,
      pixels and #pixels or 0) })
  end
  local model, problem = get_model()
  if not model then return answer(503, { error = tostring(problem) }) end
  local probabilities = softmax(model, pixels)
  local best = 1
  for k = 2, #probabilities do
    if probabilities[k] > probabilities[best] then best = k end
  end
  answer(200, { label = model.labels[best], class = best - 1, probability = probabilities[best],
    probabilities = probabilities })
end

-- Reload ---------------------------------------------------------------------------------------------

--- POST /reload: requests in flight finish on the old model, the next ones have the new one.
function M.reload()
  if not check_method "POST" then return end
  local model, problem, code = sharearray.refresh(ID, source)
  if not model then return answer(code == "timeout" and 503 or 500, { error = tostring(problem), code = code }) end
  answer(200, { reloaded = ID, accuracy = model.accuracy })
end

-- Status ---------------------------------------------------------------------------------------------

--- Each worker says every second that it is there; so it takes a new model up even if nobody asks it
-- for a prediction.
function M.start()
  local function say()
    counts:set("worker:" .. ngx.worker.pid(), get_model() ~= nil, ALIVE)
  end
  assert(ngx.timer.at(0, say))
  assert(ngx.timer.every(1, say))
end

local function workers()
  local list = {}
  for _, key in ipairs(counts:get_keys(0)) do
    local pid = key:match "^worker:(%d+)$"
    if pid then list[#list + 1] = { pid = tonumber(pid), attached = counts:get(key) == true } end
  end
  table.sort(list, function(a, b) return a.pid < b.pid end)
  return list
end

--- Shape and dtype of each array in a bundle.
local function arrays_of(model)
  local list = {}
  for name, value in pairs(model) do
    if type(value) == "cdata" then
      list[#list + 1] = { name = name, dtype = tostring(value.dtype), shape = value.shape, nbytes = value.nbytes }
    end
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

local function status()
  local entry, problem = sharearray.stat(ID)
  local here = workers()
  local attached = 0
  for _, worker in ipairs(here) do attached = attached + (worker.attached and 1 or 0) end
  local result = { id = ID, workers = here, workers_attached = attached,
    hits = counts:get "hits" or 0, attaches = counts:get "attaches" or 0 }
  if not entry or entry.state ~= "ready" then
    result.error = problem or entry.reason or entry.state
    return result
  end
  local model = sharearray.get(ID)
  result.path, result.bytes, result.age = entry.path, entry.bytes, entry.age
  -- The moment of its publication tells one version from another, in any process of the machine.
  local published = ngx.now() - entry.age
  result.version = os.date("!%Y-%m-%dT%H:%M:%S", published) .. (".%02dZ"):format(published % 1 * 100)
  result.arrays = model and arrays_of(model)
  result.accuracy = model and model.accuracy
  result.saved = math.max(0, attached - 1) * entry.bytes
  return result
end

--- GET /status: JSON, or a page for those who ask for HTML.
function M.status()
  if not check_method "GET" then return end
  if not (ngx.var.http_accept or ""):find("text/html", 1, true) then return answer(200, status()) end
  ngx.header.content_type = "text/html; charset=utf-8"
  ngx.print(page)
end

return M
