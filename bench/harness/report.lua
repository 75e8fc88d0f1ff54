--- What a run has found: the printed table, results.json, and the machine in words.

local json = require "cjson"
local machine = require "support.machine"

local M = {}

local function number(x)
  if type(x) ~= "number" then return "" end
  if x == 0 then return "0" end
  local digits = math.max(0, 2 - math.floor(math.log10(math.abs(x))))
  return (("%%.%df"):format(math.min(digits, 4))):format(x)
end

local function ratio_in_words(row)
  if type(row.ratio) ~= "number" then return "" end
  if row.ratio < 0.5 then return number(1 / row.ratio) .. "x ahead" end
  return ("%.2fx"):format(row.ratio)
end

local function verdict(row)
  if row.met == json.null then return "" end
  return row.met and "met" or "MISSED"
end

local COLUMNS = { "work", "against", "ours", "theirs", "", "ratio", "reach", "" }

local function cells(row)
  return { row.work, row.against, number(row.ours), number(row.theirs), row.unit, ratio_in_words(row), row.reach,
    verdict(row) }
end

--- The rows as a Markdown table.
function M.table(rows)
  local lines, widths = { COLUMNS }, {}
  for _, row in ipairs(rows) do lines[#lines + 1] = cells(row) end
  for _, line in ipairs(lines) do
    for i, cell in ipairs(line) do widths[i] = math.max(widths[i] or 1, #cell) end
  end
  local text = {}
  for k, line in ipairs(lines) do
    local padded = {}
    for i, cell in ipairs(line) do padded[i] = cell .. (" "):rep(widths[i] - #cell) end
    text[#text + 1] = "| " .. table.concat(padded, " | ") .. " |"
    if k == 1 then
      local rule = {}
      for i, width in ipairs(widths) do rule[i] = ("-"):rep(width + 2) end
      text[#text + 1] = "|" .. table.concat(rule, "|") .. "|"
    end
  end
  return table.concat(text, "\n")
end

local KEYS = { "work", "against", "ours", "theirs", "unit", "ratio", "reach", "met" }

--- The same as JSON, one row a line, keys always in one order.
function M.json(rows)
  local lines = {}
  for i, row in ipairs(rows) do
    local fields = {}
    for k, key in ipairs(KEYS) do
      local value = row[key]
      local text = type(value) == "number" and ("%.6g"):format(value) or json.encode(value):gsub("\\/", "/")
      fields[k] = ("%q: %s"):format(key, text)
    end
    lines[i] = "  {" .. table.concat(fields, ", ") .. "}"
  end
  return "[\n" .. table.concat(lines, ",\n") .. "\n]\n"
end

local QUESTIONS = {
  { "processor", "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1" },
  { "cores", "nproc" },
  { "memory", "awk '/^MemTotal/ { printf \"%.0f GiB\", $2 / 1048576 }' /proc/meminfo" },
  { "kernel", "uname -sr" },
  { "system", ". /etc/os-release; echo \"$PRETTY_NAME\"" },
  { "shared memory", "grep -m 1 ' /dev/shm ' /proc/mounts" },
  { "huge pages", "cat /sys/kernel/mm/transparent_hugepage/shmem_enabled" },
  { "LuaJIT", '"$LUAJIT" -v' },
  { "compiler", '"${CC:-cc}" --version | head -n 1' },
  { "Python", "/usr/bin/python3 -V" },
  { "numpy", "/usr/bin/python3 -c 'import numpy; print(numpy.__version__)'" },
  { "nginx", "/usr/sbin/nginx -v 2>&1 | sed 's/.*: //'" },
  { "load before", "cut -d ' ' -f 1-3 /proc/loadavg" },
  { "date", "date -u +%F" },
}

--- The machine, in lines.
function M.machine()
  local lines = {}
  for i, question in ipairs(QUESTIONS) do
    lines[i] = ("%-14s %s"):format(question[1], (machine.shell(question[2]):gsub("%s+$", "")))
  end
  return table.concat(lines, "\n")
end

return M
