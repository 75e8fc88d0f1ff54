--- The main job: four processes train on one copy of Fashion-MNIST.
--
--     luajit examples/fashion_mnist.lua         start four workers, each with its own learning rate
--     luajit examples/fashion_mnist.lua free    remove the data from shared memory
--
-- Each worker asks for the same training set, 60000 x 784 float32; one of them builds it, from Debian's
-- package dataset-fashion-mnist, and the others wait and attach. Run it again: nobody builds.
--
-- The best of the trained models stays in shared memory as the bundle "fashion_mnist.model", which
-- examples/openresty serves.

local ffi = require "ffi"
local sharearray = require "sharearray"

local DATA = "/usr/share/datasets/fashion-mnist/"
local RATES = { 0.001, 0.002, 0.004, 0.008 }
local EPOCHS = 2
local PIXELS, CLASSES = 784, 10
local MODEL = "fashion_mnist.model"
local LABELS = { "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
  "Ankle boot" }
local IDS = { "fashion_mnist.train_x", "fashion_mnist.train_y", "fashion_mnist.test_x", "fashion_mnist.test_y" }

ffi.cdef [[
typedef struct gzFile_s *gzFile;
gzFile gzopen(const char *path, const char *mode);
int gzread(gzFile file, void *bytes, unsigned size);
int gzclose(gzFile file);
int pipe(int fds[2]);
int close(int fd);
typedef struct { long seconds, nanoseconds; } demo_time;
int clock_gettime(int clock, demo_time *time);
]]

local z = ffi.load("libz.so.1")

local function now()
  local time = ffi.new("demo_time")
  ffi.C.clock_gettime(1, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

-- Reading the data set ---------------------------------------------------------------------------

--- Opens a gzipped IDX file: the open file and its shape. Format: yann.lecun.com/exdb/mnist.
local function open_idx(name, ndim)
  local file = z.gzopen(DATA .. name, "rb")
  if file == nil then error("cannot open " .. DATA .. name .. " (Debian package dataset-fashion-mnist)") end
  local header = ffi.new("uint8_t[?]", 4 + 4 * ndim)
  local size = ffi.sizeof(header)
  if z.gzread(file, header, size) ~= size or header[2] ~= 8 or header[3] ~= ndim then
    error(name .. " is no IDX file of bytes")
  end
  local shape = {}
  for i = 1, ndim do
    local at = header + 4 * i
    shape[i] = ((at[0] * 256 + at[1]) * 256 + at[2]) * 256 + at[3]
  end
  return file, shape
end

local on_terminal = os.execute("test -t 2") == 0

--- One line that is written anew, or, in a pipe, a line at the end.
local function progress(name, done, total)
  if not on_terminal and done < total then return end
  io.stderr:write(("\r  building %s: %3d%%%s"):format(name, done / total * 100, done == total and "\n" or ""))
end

--- A source of images as rows of 784 float32 between 0 and 1, filled in place.
local function images(name)
  return function(alloc)
    local file, shape = open_idx(name, 3)
    local count, pixels = shape[1], shape[2] * shape[3]
    local x = alloc("float32", { count, pixels })
    local batch = 1000
    local bytes = ffi.new("uint8_t[?]", batch * pixels)
    for first = 0, count - 1, batch do
      if z.gzread(file, bytes, batch * pixels) ~= batch * pixels then error(name .. " ends early") end
      local rows = x.data + first * pixels
      for i = 0, batch * pixels - 1 do rows[i] = bytes[i] / 255 end
      progress(name, first + batch, count)
    end
    z.gzclose(file)
    return x
  end
end

local function labels(name)
  return function(alloc)
    local file, shape = open_idx(name, 1)
    local y = alloc("uint8", shape)
    if z.gzread(file, y.data, y.size) ~= y.size then error(name .. " ends early") end
    z.gzclose(file)
    return y
  end
end

-- Softmax regression -----------------------------------------------------------------------------

--- Adds image i's scores for each class to `scores`.
local function score(scores, weights, x, i)
  local pixels = x.data + i * PIXELS
  for k = 0, CLASSES - 1 do scores[k] = weights[PIXELS * CLASSES + k] end
  for p = 0, PIXELS - 1 do
    local value = pixels[p]
    if value ~= 0 then
      local row = weights + p * CLASSES
      for k = 0, CLASSES - 1 do scores[k] = scores[k] + value * row[k] end
    end
  end
end

--- Turns scores into the gradient of the cross entropy: softmax minus the label.
local function to_gradient(scores, label)
  local top, sum = -math.huge, 0
  for k = 0, CLASSES - 1 do top = math.max(top, scores[k]) end
  for k = 0, CLASSES - 1 do
    scores[k] = math.exp(scores[k] - top)
    sum = sum + scores[k]
  end
  for k = 0, CLASSES - 1 do scores[k] = scores[k] / sum end
  scores[label] = scores[label] - 1
end

local function step(weights, x, i, gradient, rate)
  local pixels = x.data + i * PIXELS
  for p = 0, PIXELS - 1 do
    local value = pixels[p]
    if value ~= 0 then
      local row = weights + p * CLASSES
      for k = 0, CLASSES - 1 do row[k] = row[k] - rate * value * gradient[k] end
    end
  end
  local bias = weights + PIXELS * CLASSES
  for k = 0, CLASSES - 1 do bias[k] = bias[k] - rate * gradient[k] end
end

--- Stochastic gradient descent, one image at a time. The weights: a row for each pixel, then the bias.
local function train(x, y, rate)
  local weights = ffi.new("float[?]", (PIXELS + 1) * CLASSES)
  local scores = ffi.new("float[?]", CLASSES)
  for _ = 1, EPOCHS do
    for i = 0, #x - 1 do
      score(scores, weights, x, i)
      to_gradient(scores, y(i))
      step(weights, x, i, scores, rate)
    end
  end
  return weights
end

local function accuracy(weights, x, y)
  local scores, right = ffi.new("float[?]", CLASSES), 0
  for i = 0, #x - 1 do
    score(scores, weights, x, i)
    local best = 0
    for k = 1, CLASSES - 1 do
      if scores[k] > scores[best] then best = k end
    end
    if best == y(i) then right = right + 1 end
  end
  return right / #x
end

-- Where one worker leaves its model until the best is known.
local function id_of(rate) return ("%s.%g"):format(MODEL, rate) end

--- Publishes weights, bias and what a person wants to know of them, as one bundle.
local function publish(weights, rate, right)
  assert(sharearray.refresh(id_of(rate), function(alloc)
    local model = alloc{ weights = { "float32", { PIXELS, CLASSES } }, bias = { "float32", { CLASSES } } }
    ffi.copy(model.weights.data, weights, model.weights.nbytes)
    ffi.copy(model.bias.data, weights + PIXELS * CLASSES, model.bias.nbytes)
    model.labels, model.learning_rate, model.accuracy = LABELS, rate, right
    return model
  end))
end

-- The workers, and the one who starts them -------------------------------------------------------

local function worker(rate)
  local built = false
  local read_images = images("train-images-idx3-ubyte.gz")
  local function source(alloc)
    built = true
    return read_images(alloc)
  end
  local started = now()
  local x = assert(sharearray.cache(IDS[1], source))
  local waited = now() - started
  -- Given back and asked for again, to show what the attaching alone takes.
  x:close()
  started = now()
  x = assert(sharearray.cache(IDS[1], source))
  local attached = now() - started
  local y = assert(sharearray.cache(IDS[2], labels("train-labels-idx1-ubyte.gz")))
  local test_x = assert(sharearray.cache(IDS[3], images("t10k-images-idx3-ubyte.gz")))
  local test_y = assert(sharearray.cache(IDS[4], labels("t10k-labels-idx1-ubyte.gz")))
  local weights = train(x, y, rate)
  local right = accuracy(weights, test_x, test_y)
  publish(weights, rate, right)
  local pid = io.open("/proc/self/stat"):read("*n")
  print(pid, built and 1 or 0, waited, attached, right)
  io.stdout:flush()
  io.read("*a") -- stays until the memory of all four has been measured
end

--- Private and shared memory of a process, bytes. See proc(5), smaps_rollup.
local function memory(pid)
  local text = io.open(("/proc/%d/smaps_rollup"):format(pid)):read("*a")
  local function kilobytes(field) return tonumber(text:match("\n" .. field .. ": *(%d+) kB")) or 0 end
  return (kilobytes("Private_Clean") + kilobytes("Private_Dirty")) * 1024,
    (kilobytes("Shared_Clean") + kilobytes("Shared_Dirty")) * 1024
end

local function start_workers()
  -- A pipe that nobody writes to: the workers' input ends when this process closes it.
  local fds = ffi.new("int[2]")
  assert(ffi.C.pipe(fds) == 0)
  local workers = {}
  for i, rate in ipairs(RATES) do
    workers[i] = io.popen(("exec '%s' '%s' worker %g <&%d %d>&-"):format(arg[-1], arg[0], rate, fds[0], fds[1]))
  end
  ffi.C.close(fds[0])
  return workers, function() ffi.C.close(fds[1]) end
end

local function main()
  print(("%d processes at once, each asks for the same training set"):format(#RATES))
  local workers, release = start_workers()
  local rows = {}
  for i, process in ipairs(workers) do
    local line = process:read("*l")
    if not line then os.exit(1) end -- its own message is on the terminal
    local row = { rate = RATES[i] }
    local words = {}
    for word in line:gmatch("%S+") do words[#words + 1] = tonumber(word) end
    row.pid, row.built, row.waited, row.attached, row.accuracy = unpack(words)
    rows[i] = row
  end
  local MB = 1e6
  print("    pid  learning rate   training set         attach   accuracy  private MB  shared MB")
  for _, row in ipairs(rows) do
    local private, shared = memory(row.pid)
    local how = row.built == 1 and "built" or row.waited > 0.01 and "waited" or "was there"
    print(("%7d  %13g   %-9s %6.2f s %8.3f ms  %7.1f%%  %10.1f  %9.1f"):format(row.pid, row.rate, how, row.waited,
      row.attached * 1000, row.accuracy * 100, private / MB, shared / MB))
  end
  release()
  for _, process in ipairs(workers) do process:close() end
  table.sort(rows, function(a, b) return a.accuracy > b.accuracy end)
  assert(sharearray.refresh(MODEL, assert(sharearray.get(id_of(rows[1].rate)))))
  for _, rate in ipairs(RATES) do sharearray.free(id_of(rate)) end
  local bytes = 0
  for _, id in ipairs(IDS) do bytes = bytes + assert(sharearray.stat(id)).bytes end
  print(("one shared copy: %.1f MB; %d private copies would have taken %.1f MB"):format(bytes / MB, #RATES,
    #RATES * bytes / MB))
  print(("the model with learning rate %g stays as the bundle %s"):format(rows[1].rate, MODEL))
end

if arg[1] == "worker" then
  worker(tonumber(arg[2]))
elseif arg[1] == "free" then
  IDS[#IDS + 1] = MODEL
  for _, id in ipairs(IDS) do print(id, sharearray.free(id) and "removed" or "was not there") end
else
  main()
end
