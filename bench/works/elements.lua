--- Loops over the elements of an array, in Lua and in C.

local ffi = require "ffi"
local baseline = require "harness.baseline"
local measure = require "harness.measure"
local places = require "harness.places"
local python = require "harness.python"
local sharearray = require "sharearray"

local SMALL, LARGE = 2 ^ 20, measure.choose(64, 32) * 2 ^ 20 -- in the cache (4 MiB), and not
local COLUMNS = 1024

local x = assert(sharearray.cache("elements", function(alloc)
  local array = alloc("float32", { LARGE })
  local data = array.data
  for i = 0, LARGE - 1 do data[i] = i % 256 end
  return array
end))
local index = assert(sharearray.cache("index", function(alloc)
  local array = alloc("int32", { LARGE })
  local data, state = array.data, 1
  for i = 0, LARGE - 1 do
    state = state * 16807 % 2147483647 -- Park and Miller's
    data[i] = state % LARGE
  end
  return array
end))
local small, matrix = x:slice(0, SMALL), x:reshape { -1, COLUMNS }
local rows, sample = SMALL / COLUMNS, LARGE / 8

-- One function each, as a program would have: none is compiled for another one's types. They use no upvalues.

local function sum_elements(v, n)
  local sum = 0
  for i = 0, n - 1 do sum = sum + v(i) end
  return sum
end

local function sum_data(v, n)
  local sum, data = 0, v.data
  for i = 0, n - 1 do sum = sum + data[i] end
  return sum
end

local function sum_matrix(v, n, m)
  local sum = 0
  for i = 0, n - 1 do
    for j = 0, m - 1 do sum = sum + v(i, j) end
  end
  return sum
end

local function sum_rows(v, n, m)
  local sum = 0
  for i = 0, n - 1 do
    local row = v[i]
    for j = 0, m - 1 do sum = sum + row(j) end
  end
  return sum
end

local function gather_elements(v, k, n)
  local sum = 0
  for i = 0, n - 1 do sum = sum + v(k(i)) end
  return sum
end

local function gather_data(v, k, n)
  local sum, data, at = 0, v.data, k.data
  for i = 0, n - 1 do sum = sum + data[at[i]] end
  return sum
end

local sink

-- Seconds that each function takes, one for each place, in the mean; divided by `per`.
local function timed(per, runs, ...)
  local arguments, n = { ... }, select("#", ...)
  return function()
    local start = measure.now()
    for place = 1, #runs do sink = runs[place](unpack(arguments, 1, n)) end
    return (measure.now() - start) / #runs / per
  end
end

local function in_lua(per, run, ...) return timed(per, places.copies(run, ...), ...) end

local function in_c(name)
  local runs = {}
  for place = 1, places.COUNT do runs[place] = baseline.C[("baseline_%s_%d"):format(name, place - 1)] end
  return runs
end

-- A row of what two of the competitors took.
local function row(work, ours, against, theirs, limits)
  limits.work, limits.against, limits.unit = work, against, limits.unit or "ns"
  limits.ours, limits.theirs = ours, theirs
  measure.row(limits)
end

local data, at = x.data, index.data
local CHECKS = "a comparison for the bounds and one for the bits of a NaN"

-- All loops of one kind take turns with each other: in another second the same loop may take a third more.

measure.progress "sums"
local of = measure.rounds(measure.choose(61, 15), {
  { "v(i)", in_lua(SMALL, sum_elements, small, SMALL) },
  { "v(i, j)", in_lua(SMALL, sum_matrix, matrix, rows, COLUMNS) },
  { "written", in_lua(SMALL, sum_elements, sharearray.array(small), SMALL) },
  { "data", in_lua(SMALL, sum_data, small, SMALL) },
  { "C", timed(SMALL, in_c "sum", data, SMALL) },
  { "C matrix", timed(SMALL, in_c "sum_rows", data, rows, COLUMNS) },
  { "C checks", timed(SMALL, in_c "sum_guarded", data, LARGE, SMALL) },
})
row("sum through v(i)", of["v(i)"], "C -O2", of.C, { most = 1.1 })
row("sum through v(i)", of["v(i)"], "C -O2 with " .. CHECKS, of["C checks"], {})
row("sum through v(i, j)", of["v(i, j)"], "C -O2", of["C matrix"], { most = 1.1 })
row("sum through v(i), of an array that may be written", of.written, "C -O2", of.C, {})
row("sum in C -O2 with " .. CHECKS, of["C checks"], "C -O2 without", of.C, {})
row("sum through .data", of.data, "C -O2", of.C, { most = 1.05 })

measure.progress "gathers"
of = measure.rounds(measure.choose(15, 5), {
  { "v(i)", in_lua(sample, gather_elements, x, index, sample) },
  { "data", in_lua(sample, gather_data, x, index, sample) },
  { "C", timed(sample, in_c "gather", data, at, sample) },
  { "C checks", timed(sample, in_c "gather_guarded", data, LARGE, at, LARGE, sample) },
})
row("random gather through v(i)", of["v(i)"], "C -O2", of.C, { most = 1.2 })
row("random gather through v(i)", of["v(i)"], "C -O2 with the same three comparisons", of["C checks"], {})
row("random gather in C -O2 with three comparisons: the bounds of both arrays, the bits of a NaN", of["C checks"],
  "C -O2 without", of.C, {})
row("random gather through .data", of.data, "C -O2", of.C, { most = 1.05 })

measure.progress "rows"
local pictures = x:slice(0, 784 * 1300):reshape { 1300, 784 }
of = measure.rounds(measure.choose(61, 15), {
  { "v[i]", in_lua(pictures.size, sum_rows, pictures, 1300, 784) },
  { "C", timed(pictures.size, in_c "sum_rows", data, 1300, 784) },
  { "C checks", timed(pictures.size, in_c "sum_guarded", data, LARGE, pictures.size) },
})
row("row loop: v[i], then 784 elements", of["v[i]"], "C -O2", of.C, { most = 1.3 })
row("row loop: v[i], then 784 elements", of["v[i]"], "C -O2 without rows, with " .. CHECKS, of["C checks"], {})

measure.progress "whole arrays"
local peer = python.start()
peer:ask("array", LARGE / 2 ^ 18)
for _, size in ipairs { SMALL, LARGE } do
  local part = x:slice(0, size)
  local repeats = math.max(1, math.floor(1e7 / size))
  local function ours(run)
    return function()
      local start = measure.now()
      for _ = 1, repeats do sink = run() end
      return (measure.now() - start) / repeats
    end
  end
  local name = size == SMALL and "4 MiB of float32" or ("%d MiB of float32"):format(size / 2 ^ 18)
  of = measure.rounds(measure.choose(15, 5), {
    { "sum", ours(function() return part:sum() end) },
    { "numpy.sum", function() return peer:ask("sum", size) end },
    { "dot", ours(function() return part:dot(part) end) },
    { "numpy.dot", function() return peer:ask("dot", size) end },
  })
  row("v:sum(), " .. name, of.sum, "numpy.sum", of["numpy.sum"], { most = 1.05, unit = "us" })
  row("v:dot(w), " .. name, of.dot, "numpy.dot", of["numpy.dot"], { unit = "us" })
end
peer:stop()
assert(sink ~= nil)
sharearray.free "elements"
sharearray.free "index"
assert(ffi.sizeof "float" == 4)
