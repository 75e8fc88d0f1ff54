--- The program behind bin/sharearray: the command line, and how it ends.
--
-- Exit status: 0 all well, 1 a failure, 2 a wrong command line, 130 interrupted.
-- @script sharearray.cli.main

if not jit then
  io.stderr:write("sharearray: ", _VERSION, " is not LuaJIT: name one in LUAJIT\n")
  os.exit(1)
end

local has_argparse, argparse = pcall(require, "argparse")
if not has_argparse then
  io.stderr:write("sharearray: the Lua module argparse is not installed (luarocks install argparse, ",
    "or Debian's lua-argparse)\n")
  os.exit(1)
end

local FAILURE, USAGE, INTERRUPTED = 1, 2, 130

local console, text -- which need the library; loaded in `run`, where its absence is reported

local function add_options(parser)
  parser:option "--shm-path" :argname "DIR"
    :description "Directory of the entries; default $SHAREARRAY_SHM_PATH, else /dev/shm."
  parser:option "--prefix" :argname "PREFIX"
    :description "Beginning of the file names; default sharearray_."
  parser:option "--trust" :argname "UID" :count "*" :convert(tonumber)
    :description "Use this user's entries too; may be given again."
  parser:flag "--version" :description "Show the version and exit." :action(function()
    console.say("sharearray ", require("sharearray")._VERSION, "\n")
    console.flush()
    os.exit(0)
  end)
end

local function add_commands(parser)
  local function command(name, description)
    return parser:command(name):description(description)
  end
  local function id_of(it) it:argument "id" :argname "ID" end
  local function json(it) it:flag "--json" :description "Write JSON." end

  json(command("ls", "List the entries."))

  local stat = command("stat", "Show all about an entry, with the processes that use it.")
  id_of(stat)
  json(stat)

  local load = command("load", "Put a .npy or .npz file into shared memory.")
  load:argument "file" :argname "FILE"
  load:option "--id" :argname "ID" :description "Default: the file's name without its extension."
  load:flag "--refresh" :description "Replace an entry that is there."

  local save = command("save", "Write an entry to a file, .npy or, a bundle, .npz.")
  id_of(save)
  save:argument "file" :argname "FILE"
  save:flag "--force" :description "Replace a file that is there."

  id_of(command("head", "Print the corners of the data."))

  local free = command("free", "Remove entries. Who uses them keeps them.")
  free:argument "id" :argname "ID" :args "*" :target "ids"
  free:flag "--all" :description "Remove all with this prefix." :default(false)

  local gc = command("gc", "Remove old entries, the oldest first, and say which.")
  gc:option "--older-than" :argname "AGE" :description "Those older than this: 30m, 12h, 2d." :convert(text.parse_age)
  gc:option "--keep-bytes" :argname "SIZE" :description "As many as are beyond this: 500M, 4G."
    :convert(text.parse_size)
  gc:flag "--dry-run" :description "Only say which."

  command("doctor", "Look for what is wrong, and say what to do.")
  parser:add_complete_command()
end

local function parse(arguments)
  local parser = argparse("sharearray", "Arrays in shared memory: what is there, and what to do with it.")
  parser:command_target "command"
  add_options(parser)
  add_commands(parser)
  function parser.error(at, message)
    console.complain(message .. "\n" .. at:get_usage())
    os.exit(USAGE)
  end
  return parser:parse(arguments)
end

-- The store that the options name. The library raises for a wrong argument, with the place in its caller.
local function open(args)
  local sharearray = require "sharearray"
  local ok, store = pcall(sharearray.new, { shm_path = args.shm_path, prefix = args.prefix, trust = args.trust })
  if not ok then console.fail((store:gsub("^.-:%d+: ", "")), USAGE) end
  local ids = args.ids or { args.id }
  for _, id in ipairs(ids) do
    if not store:valid_id(id) then
      console.fail(("invalid id '%s': it may have A-Z a-z 0-9 = + . _ -, and the length of a file name"):format(id),
        USAGE)
    end
  end
  return store
end

local function run(arguments)
  console, text = require "sharearray.cli.console", require "sharearray.cli.text"
  local args = parse(arguments)
  local store = open(args)
  local command = args.command == "doctor" and require "sharearray.cli.doctor"
    or require("sharearray.cli.commands")[args.command]
  local good = command(store, args)
  console.flush()
  return good and 0 or FAILURE
end

local ok, result = pcall(run, arg)
if ok then os.exit(result) end
local is_failure = console and console.is_failure(result)
local message = is_failure and result.message or tostring(result)
if message:find("interrupted!$") then os.exit(INTERRUPTED) end -- what LuaJIT raises at Ctrl-C
io.stderr:write("sharearray: ", (message:gsub("^sharearray: ", "")), "\n")
os.exit(is_failure and result.status or FAILURE)
