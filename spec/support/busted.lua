-- busted, run by whichever interpreter runs this file: the command `busted` is a Lua script here, a
-- shell script there, and its option --lua starts the interpreter through a shell.
require "busted.runner" { standalone = false }
