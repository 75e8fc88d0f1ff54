--- Measuring: competitors take turns, a row of the table is the median of what they did.
--
-- A work (bench/works) is a process of its own, so that no loop inherits another one's traces. It says its
-- rows and points in lines on stdout, which bench/run.lua collects.

local baseline = require "harness.baseline"
local json = require "cjson"

local M = {}

M.now = baseline.now

--- Whether all has to be over in two minutes.
M.quick = os.getenv "BENCH_QUICK" == "1"

--- The private directory in shared memory, and the one for what is built.
M.directory, M.build = assert(os.getenv "SHAREARRAY_SHM_PATH"), assert(os.getenv "BENCH_BUILD")

--- `full` or `quick`, as the run is.
function M.choose(full, quick)
  if M.quick then return quick end
  return full
end

--- Says on stderr what is going on.
function M.progress(...)
  io.stderr:write(("  %s\n"):format((string.format(...))))
end

function M.median(samples)
  local sorted = {}
  for i, x in ipairs(samples) do sorted[i] = x end
  table.sort(sorted)
  local middle = #sorted / 2
  if middle % 1 == 0 then return (sorted[middle] + sorted[middle + 1]) / 2 end
  return sorted[middle + 0.5]
end

--- Runs each competitor `rounds` times, in turn: forwards, then backwards, so that none always follows
-- the same one. A first round to warm up is not counted.
-- @tparam number rounds
-- @tparam table competitors list of {name, function that returns a number}
-- @tparam[opt] boolean cold without the round to warm up: for what takes long
-- @treturn table a list of numbers for each name
function M.rounds(rounds, competitors, cold)
  local samples = {}
  for _, competitor in ipairs(competitors) do samples[competitor[1]] = {} end
  for round = cold and 1 or 0, rounds do
    for k = 1, #competitors do
      local name, run = unpack(competitors[round % 2 == 0 and k or #competitors + 1 - k])
      local figure = run()
      if figure < 0 then error(name .. ": the system refused it") end
      if round > 0 then samples[name][round] = figure end
    end
  end
  return samples
end

local SCALE = { s = 1, ms = 1e3, us = 1e6, ns = 1e9 }

local function say(kind, value)
  io.stdout:write(kind, " ", json.encode(value), "\n")
  io.stdout:flush()
end

-- Noise that lasts longer than a round falls on both alike, so the ratio is taken of each round.
local function ratio_of(ours, theirs)
  local ratios = {}
  for i = 1, math.min(#ours, #theirs) do ratios[i] = ours[i] / theirs[i] end
  return M.median(ratios)
end

local function in_words(spec)
  if spec.reach then return spec.reach end
  if spec.most then return ("at most %gx"):format(spec.most) end
  if spec.ahead and spec.ahead > 1 then return ("%gx ahead"):format(spec.ahead) end
  if spec.ahead then return "ahead" end
  return "for comparison"
end

--- A row of the table: ours against one competitor.
-- @tparam table spec work; against; ours and theirs, lists of samples in seconds; unit, ns us ms s (or
--   anything else, and then the samples are in it); most, the largest ratio ours/theirs that will do, or
--   ahead, the smallest theirs/ours; or met, with reach in words
function M.row(spec)
  local scale = SCALE[spec.unit] or 1
  local ratio = ratio_of(spec.ours, spec.theirs)
  local met = spec.met
  if spec.most then met = ratio <= spec.most end
  if spec.ahead then met = 1 / ratio >= spec.ahead end
  say("row", {
    work = spec.work, against = spec.against, unit = spec.unit,
    ours = M.median(spec.ours) * scale, theirs = M.median(spec.theirs) * scale,
    ratio = ratio, reach = in_words(spec), met = met == nil and json.null or met,
  })
end

--- A row without a competitor.
-- @tparam table spec work; ours, a number; unit; most, the largest that will do; reach in words
function M.fact(spec)
  local met = json.null
  if spec.most then met = spec.ours <= spec.most end
  say("row", {
    work = spec.work, against = spec.against or "", unit = spec.unit, ours = spec.ours,
    theirs = json.null, ratio = json.null,
    reach = spec.reach or ("at most %g %s"):format(spec.most, spec.unit), met = met,
  })
end

--- A row that could not be measured here.
function M.skip(work, why)
  say("row", { work = work, against = "", unit = "", ours = json.null, theirs = json.null, ratio = json.null,
    reach = "not measured: " .. why, met = json.null })
end

--- A point of a plot's curve.
function M.point(plot, curve, x, y)
  say("point", { plot = plot, curve = curve, x = x, y = y })
end

--- Seconds that `run` takes.
function M.seconds(run, ...)
  local start = M.now()
  run(...)
  return M.now() - start
end

return M
