-- wrk asks for a new task each time; with a number after the prefix for one of so many; with a second number, so many of
-- a hundred requests are for the task that the command line names.
local prefix, among, known, last

function init(arguments)
   prefix, among, known, last = arguments[1], tonumber(arguments[2]), tonumber(arguments[3]), 0
end

function request()
   if math.random(1, 100) <= known then
      return wrk.format()
   end
   last = last + 1
   return wrk.format(nil, prefix .. (among > 0 and math.random(0, among - 1) or last))
end
