--- `make bench`: runs the works one after the other, prints the table, writes bench/results.
--
--     luajit bench/run.lua [WORK...]      hit, attach, wake, ...; all without
--
-- BENCH_QUICK=1 makes it two minutes, with smaller arrays and fewer rounds. ours, theirs: medians;
-- ratio: the median of ours/theirs over the rounds, in each of which all competitors had their turn.

local json = require "cjson"
local machine = require "support.machine"
local plot = require "harness.plot"
local report = require "harness.report"

local WORKS = { "start", "hit", "attach", "publish", "build", "wake", "takeover", "elements", "memory", "file",
  "bundle", "huge", "scaling" }
local RESULTS = "bench/results"

local rows, points = {}, {}

local function failed(name, why)
  rows[#rows + 1] = { work = name, against = "", ours = json.null, theirs = json.null, unit = "", ratio = json.null,
    reach = "it failed: " .. why, met = false }
end

-- What a work wants to be preloaded.
local PRELOADS = { wake = "LD_PRELOAD=$BENCH_BUILD/link_clock.so" }

local function run(name)
  io.stderr:write(("%s %s\n"):format(os.date "%H:%M:%S", name))
  local pipe = io.popen(("%s %s bench/works/%s.lua || echo failed"):format(PRELOADS[name] or "",
    os.getenv "LUAJIT" or "luajit", name))
  for line in pipe:lines() do
    local kind, text = line:match "^(%l+) (.*)$"
    if kind == "row" then
      rows[#rows + 1] = json.decode(text)
    elseif kind == "point" then
      points[#points + 1] = json.decode(text)
    else
      failed(name, line)
    end
  end
  pipe:close()
end

local function write(name, text)
  local file = assert(io.open(RESULTS .. "/" .. name, "w"))
  file:write(text)
  file:close()
end

local description = report.machine()
local list = #arg > 0 and arg or WORKS
for _, name in ipairs(list) do run(name) end
local text = report.table(rows)
local quick = os.getenv "BENCH_QUICK" == "1"
if quick then description = description .. "\nquick          smaller arrays, fewer rounds" end
print(description .. "\n\n" .. text)
machine.shell("mkdir -p " .. RESULTS)
write("results.json", report.json(rows))
write("machine.txt", description .. "\n")
write("table.md", text .. "\n")
plot.write(RESULTS, points)
local missed = 0
for _, row in ipairs(rows) do
  if row.met == false then missed = missed + 1 end
end
print(("\n%d rows, %d target%s missed; %s/results.json"):format(#rows, missed, missed == 1 and "" or "s", RESULTS))
