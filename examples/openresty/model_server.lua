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
local CLASSES = 64 -- at most
local ALIVE = 3 -- seconds after which a worker that says nothing is gone

local counts = ngx.shared.model_server
local page = assert(io.open(debug.getinfo(1, "S").source:match "^@(.*/)" .. "status.html")):read "*a"

local source = sharearray.file(FILE)
local last    -- the model this worker had at its last look
local refused -- what it found under the id instead, and does not use

local function is_float32(array, ...)
  return type(array) == "cdata" and tostring(array.dtype) == "float32"
    and table.concat(array.shape, ",") == table.concat({ ... }, ",")
end

--- Why something is no model, if it is none: any file may have been put under the id.
local function flaw_of(model)
  if type(model) ~= "table" then return "it is a single array" end
  local labels = model.labels
  local classes = type(labels) == "table" and #labels or 0
  if classes < 1 or classes > CLASSES then return ("it has no labels, a list of 1 to %d names"):format(CLASSES) end
  for _, label in ipairs(labels) do
    if type(label) ~= "string" then return "a label is no string" end
  end
  if not is_float32(model.weights, PIXELS, classes) then
    return ("it has no weights, float32, of shape (%d, %d)"):format(PIXELS, classes)
  end
  if not is_float32(model.bias, classes) then return ("it has no bias, float32, of shape (%d,)"):format(classes) end
end

--- The model. Counts hits, and attaches: the times that a worker met a model it did not have yet. What is
-- no model is refused; a worker that has one already goes on with it.
local function get_model()
  local model, problem, code = sharearray.cache(ID, source)
  if not model then return nil, problem, code end
  if model == last then
    counts:incr("hits", 1, 0)
    return model
  end
  local flaw = flaw_of(model)
  if flaw then
    problem = ("what is under %s is no model: %s"):format(ID, flaw)
    if model ~= refused then ngx.log(ngx.ERR, problem) end
    refused = model
    return last, problem, "corrupt"
  end
  counts:incr("attaches", 1, 0)
  last, refused = model, nil
  return model
end

local function answer(status, value)
  ngx.status = status
  ngx.header.content_type = "application/json"
  ngx.say(cjson.encode(value))
end

local function check_method(method)
  local given = ngx.req.get_method()
  if given == method or given == "HEAD" and method == "GET" then return true end
  ngx.header.allow = method
  answer(405, { error = "use " .. method })
end

-- Prediction -----------------------------------------------------------------------------------------

local scores = ffi.new("double[?]", CLASSES)

--- The probability of each class, as a list.
local function softmax(model, pixels)
  local weights, bias, classes = model.weights, model.bias, #model.bias
  for k = 0, classes - 1 do scores[k] = bias(k) end
  for p = 0, PIXELS - 1 do
    local value = pixels:byte(p + 1) / 255
    if value ~= 0 then
      for k = 0, classes - 1 do scores[k] = scores[k] + value * weights(p, k) end
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
    -- A body larger than client_body_buffer_size lies in a file.
    return answer(400, { error = ("send %d bytes, a 28x28 image in grey, as the body; got %s"):format(PIXELS,
      pixels and #pixels or ngx.req.get_body_file() and "many more" or "none") })
  end
  local model, problem = get_model()
  if not model then return answer(503, { error = tostring(problem) }) end
  local probabilities = softmax(model, pixels)
  local best = 1
  for k = 2, #probabilities do
    if probabilities[k] > probabilities[best] then best = k end
  end
  if probabilities[best] ~= probabilities[best] then -- NaN, which JSON does not have
    return answer(500, { error = "the model's numbers are not all finite" })
  end
  answer(200, { label = model.labels[best], class = best - 1, probability = probabilities[best],
    probabilities = probabilities })
end

local function accuracy_of(model)
  local accuracy = model.accuracy
  if type(accuracy) == "number" and accuracy >= 0 and accuracy <= 1 then return accuracy end
end

-- Reload ---------------------------------------------------------------------------------------------

--- POST /reload: requests in flight finish on the old model, the next ones have the new one.
function M.reload()
  if not check_method "POST" then return end
  local model, problem, code = sharearray.refresh(ID, source)
  if model then model, problem, code = get_model() end
  if problem then return answer(code == "timeout" and 503 or 500, { error = tostring(problem), code = code }) end
  answer(200, { reloaded = ID, accuracy = accuracy_of(model) })
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
  local flaw = model and flaw_of(model)
  if flaw then
    result.error = "this is no model: " .. flaw
    return result
  end
  result.path, result.bytes, result.age = entry.path, entry.bytes, entry.age
  -- The moment of its publication tells one version from another, in any process of the machine.
  local published = ngx.now() - entry.age
  result.version = os.date("!%Y-%m-%dT%H:%M:%S", published) .. (".%02dZ"):format(published % 1 * 100)
  result.arrays = model and arrays_of(model)
  result.accuracy = model and accuracy_of(model)
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
