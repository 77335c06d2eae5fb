-- wrk asks for a new task each time, or, with a number after the prefix, for one of so many.
local prefix, among, last

function init(arguments)
   prefix, among, last = arguments[1], tonumber(arguments[2]), 0
end

function request()
   last = last + 1
   return wrk.format(nil, prefix .. (among and math.random(0, among - 1) or last))
end
