--- Plots of a run's points, by gnuplot, as PNG and SVG.

local machine = require "support.machine"

local M = {}

-- Axes are logarithmic where work grows by powers.
local PLOTS = {
  ["attach-size"] = { title = "attach and detach, against the size of the array", x = "KiB", y = "microseconds",
    log = "x", from_zero = true },
  ["attach-ids"] = { title = "attach all of so many ids", x = "ids", y = "milliseconds", log = "xy" },
  ["attach-processes"] = { title = "attach, while so many processes have the array", x = "processes",
    y = "microseconds", log = "x", from_zero = true },
  ["memory-size"] = { title = "private memory of a process that attached an array", x = "KiB", y = "MiB", log = "x",
    from_zero = true },
  ["memory-ids"] = { title = "private memory for so many ids", x = "ids", y = "MiB", log = "xy" },
  ["memory-processes"] = { title = "memory of so many processes on one array of 1 MiB", x = "processes", y = "MiB",
    log = "xy" },
  wake = { title = "from publication to the last of so many waiting processes", x = "processes", y = "milliseconds",
    log = "xy" },
}

local SCRIPT = [[
set title "$TITLE"
set xlabel "$X"
set ylabel "$Y"
set logscale $LOG
$RANGE
set grid
set key left top
$DATA
set terminal pngcairo size 800,500 font "sans,11"
set output "$NAME.png"
plot $CURVES
set terminal svg size 800,500 font "sans,13" background "white"
set output "$NAME.svg"
plot $CURVES
]]

local function write(directory, name, points)
  local plot, order, curves, data, list = PLOTS[name], {}, {}, {}, {}
  for _, point in ipairs(points) do
    if point.plot == name then
      if not curves[point.curve] then
        curves[point.curve] = {}
        order[#order + 1] = point.curve
      end
      table.insert(curves[point.curve], ("%.17g %.17g"):format(point.x, point.y))
    end
  end
  if #order == 0 then return end
  for i, curve in ipairs(order) do
    data[i] = ("$curve%d << end\n%s\nend"):format(i, table.concat(curves[curve], "\n"))
    list[i] = ('$curve%d with linespoints linewidth 2 pointtype 7 title "%s"'):format(i, curve)
  end
  local script = SCRIPT:gsub("%$(%u+)", {
    TITLE = plot.title, X = plot.x, Y = plot.y, LOG = plot.log, NAME = directory .. "/" .. name,
    RANGE = plot.from_zero and "set yrange [0:*]" or "", DATA = table.concat(data, "\n"),
    CURVES = table.concat(list, ", "),
  })
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(script)
  file:close()
  local said, done = machine.shell("gnuplot " .. path)
  os.remove(path)
  if not done then io.stderr:write("gnuplot: ", said) end
end

--- Writes <plot>.png and <plot>.svg for all that have points.
function M.write(directory, points)
  for name in pairs(PLOTS) do write(directory, name, points) end
end

return M
