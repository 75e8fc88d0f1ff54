--- What a user's whole process costs: `first_element.lua ID` starts, attaches, reads one element.

local x = assert(require("sharearray").get(arg[1]))
assert(x(0) == 0)
