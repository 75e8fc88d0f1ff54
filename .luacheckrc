std = "luajit"
max_line_length = 120
exclude_files = { "build" }
files["spec"].std = "luajit+busted"
for _, path in ipairs { "lua/sharearray/resty.lua", "lua/sharearray/origin", "examples/openresty", "bench/nginx" } do
  files[path].globals = { "ngx" }
end
