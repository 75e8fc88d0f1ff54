std = "luajit"
max_line_length = 120
exclude_files = { "build" }
files["spec"].std = "luajit+busted"
files["lua/sharearray/resty.lua"].read_globals = { "ngx" }
