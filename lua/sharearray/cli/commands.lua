--- The commands: each takes a store and its parsed arguments, and returns whether all went well.
-- What stops a command altogether is raised with `console.fail`.
-- @module sharearray.cli.commands

local sharearray = require "sharearray"
local console = require "sharearray.cli.console"
local progress = require "sharearray.cli.progress"
local system = require "sharearray.cli.system"
local text = require "sharearray.cli.text"
local view = require "sharearray.view"
require "sharearray.cdefs" -- for the fields of a map

local M = {}

-- The first of a call's results; a failure of the call's ends the command.
local function check(result, message)
  if result == nil then console.fail(tostring(message)) end
  return result
end

local function in_words(builder)
  local who = builder.program ~= "" and builder.program or "another process"
  if builder.pid then who = ("%s, process %d"):format(who, builder.pid) end
  return builder.attempt > 1 and ("%s, attempt %d"):format(who, builder.attempt) or who
end

local function content_of(info)
  local builder = info.builder and "by " .. in_words(info.builder) or ""
  local content
  if info.kind == "array" then content = info.dtype .. " " .. text.tuple(info.shape) end
  if info.kind == "bundle" then
    content = ("bundle of %d member%s"):format(info.members, info.members == 1 and "" or "s")
  end
  if not content then return builder end
  return info.builder and ("%s; being replaced %s"):format(content, builder) or content
end

local function age_of(info) return info.age and text.age(info.age) or "-" end

-- ls and stat ----------------------------------------------------------------------------------------

function M.ls(store, args)
  local list = check(store:list())
  for _, info in ipairs(list) do info.owner_name = system.user(info.owner) end
  if args.json then
    console.say(text.json(list), "\n")
    return true
  end
  local rows = { { "ID", "SIZE", "AGE", "OWNER", "STATE", "CONTENT" } }
  for _, info in ipairs(list) do
    rows[#rows + 1] = { info.id, text.size(info.bytes), age_of(info), info.owner_name, info.state, content_of(info) }
  end
  console.say(text.columns(rows, { [2] = true, [3] = true }))
  return true
end

local function attached_in_words(info)
  local words = tostring(#info.processes)
  if #info.processes > 0 then words = words .. " (" .. table.concat(info.processes, ", ") .. ")" end
  if info.hidden == 0 then return words end
  return ("%s, and perhaps more: %d process%s may not be looked at"):format(words, info.hidden,
    info.hidden == 1 and "" or "es")
end

function M.stat(store, args)
  local info = check(store:stat(args.id))
  info.owner_name = system.user(info.owner)
  info.processes, info.hidden = system.attached(info.path)
  info.saved = math.max(0, #info.processes - 1) * (info.nbytes or 0)
  if args.json then
    console.say(text.json(info), "\n")
    return true
  end
  local rows = { { "id", info.id }, { "path", info.path }, { "state", info.state } }
  local function add(name, value) rows[#rows + 1] = { name, value } end
  if info.reason then add("reason", info.reason) end
  if info.dtype then add("dtype", info.dtype) end
  if info.shape then add("shape", text.tuple(info.shape)) end
  if info.members then add("members", tostring(info.members)) end
  add("size", ("%s (%d bytes)"):format(text.size(info.bytes), info.bytes))
  add("age", age_of(info))
  if info.failed then add("failed", ("a rebuild for max_age, %s ago"):format(text.age(info.failed))) end
  add("owner", ("%s, mode %s"):format(info.owner_name, info.mode))
  if info.builder then add("builder", in_words(info.builder)) end
  add("attached", attached_in_words(info))
  add("saved", text.size(info.saved))
  console.say(text.columns(rows))
  return true
end

-- load, save and head --------------------------------------------------------------------------------

function M.load(store, args)
  local id = args.id or args.file:match("[^/]*$"):gsub("(.)%.[^.]*$", "%1")
  if not store:valid_id(id) then console.fail(("'%s' can be no id: give one with --id"):format(id), 2) end
  if not args.refresh and store:get(id) then
    console.complain(("'%s' is there already, and stays: --refresh replaces it"):format(id))
    return true
  end
  local show, close = progress.new(id)
  local source = sharearray.file(args.file, { progress = show })
  local opts = { verbose = true, log_func = function(line)
    close()
    if not line:find("': not built: ", 1, true) then io.stderr:write(line, "\n") end -- said at the end, by `check`
  end }
  local value, message = store[args.refresh and "refresh" or "cache"](store, id, source, opts)
  close()
  check(value, message)
  return true
end

-- The mapping of the whole file, which every view in the entry is part of.
local function map_of(value)
  if view.is(value) then return view.map(value) end
  if type(value) ~= "table" then return nil end
  for _, item in pairs(value) do
    local map = map_of(item)
    if map then return map end
  end
end

function M.save(store, args)
  local path = args.file
  if not args.force and system.stat(path) then
    console.fail(path .. " exists already: --force replaces it")
  end
  local value = check(store:get(args.id))
  local map = map_of(value)
  if not map then console.fail(("'%s' has no array in it"):format(args.id)) end
  check(system.save(path, map.base, tonumber(map.length), args.force))
  return true
end

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b)
    if type(a) == "number" and type(b) == "number" then return a < b end
    return tostring(a) < tostring(b)
  end)
  return keys
end

-- Plain values of one table that are all shown; and how many at either end, where there are more.
local MANY, EDGE = 12, 3

local function show_members(t, path)
  local keys, plain = sorted_keys(t), 0
  for _, key in ipairs(keys) do
    if not view.is(t[key]) and type(t[key]) ~= "table" then plain = plain + 1 end
  end
  local k = 0 -- plain values so far
  for _, key in ipairs(keys) do
    local name, value = path .. tostring(key), t[key]
    if view.is(value) then
      console.say(text.printable(name), "\n", tostring(value), "\n")
    elseif type(value) == "table" and next(value) ~= nil then
      show_members(value, name .. "/")
    elseif type(value) == "table" then
      console.say(text.printable(name), " = ", getmetatable(value) and "[]" or "{}", "\n") -- see sharearray.as_list
    else
      k = k + 1
      if plain <= MANY or k <= EDGE or k > plain - EDGE then
        console.say(text.printable(name), " = ", value == sharearray.null and "null" or text.printable(value), "\n")
      elseif k == EDGE + 1 then
        console.say(("... %d more\n"):format(plain - 2 * EDGE))
      end
    end
  end
end

function M.head(store, args)
  local value = check(store:get(args.id))
  if view.is(value) then
    console.say(tostring(value), "\n")
  else
    show_members(value, "")
  end
  return true
end

-- free and gc ----------------------------------------------------------------------------------------

function M.free(store, args)
  if args.all == (#args.ids > 0) then console.fail("free needs ids, or --all", 2) end
  local ids, good = args.ids, true
  if args.all then
    for i, info in ipairs(check(store:list())) do ids[i] = info.id end
  end
  for _, id in ipairs(ids) do
    local removed, problem = store:free(id)
    if not removed and not (args.all and removed == false) then -- with --all, somebody else was faster
      console.complain(problem or ("'%s': nothing is there"):format(id))
      good = false
    end
  end
  return good
end

-- Those that gc may remove, the oldest first, and their bytes.
local function candidates(store)
  local list, total = {}, 0
  for _, info in ipairs(check(store:list())) do
    if info.age and info.state ~= "building" and info.state ~= "untrusted" then
      list[#list + 1] = info
      total = total + info.bytes
    end
  end
  table.sort(list, function(a, b) return a.age > b.age end)
  return list, total
end

function M.gc(store, args)
  local oldest, most = args.older_than or math.huge, args.keep_bytes or math.huge
  if oldest == math.huge and most == math.huge then
    console.fail("gc needs --older-than, --keep-bytes, or both", 2)
  end
  local list, total = candidates(store)
  local good = true
  for _, info in ipairs(list) do
    if info.age < oldest and total <= most then break end
    local removed, problem = true, nil
    if not args.dry_run then removed, problem = store:free(info.id) end
    if removed == nil then
      console.complain(problem)
      good = false
    else
      total = total - info.bytes
      console.say(("%s %s (%s, %s old)\n"):format(args.dry_run and "would remove" or "removed", info.id,
        text.size(info.bytes), text.age(info.age)))
    end
  end
  return good
end

return M
