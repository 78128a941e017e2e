-- Asks for the paths of a file in turn (LOADTEST_PATHS, one path a line, at
-- most 10000), so that routes, cache keys and hashes are spread as in life.
dofile(assert(os.getenv("LOADTEST_WRK"), "run this through loadtest/run.sh") .. "/percentiles.lua")

local name = assert(os.getenv("LOADTEST_PATHS"), "expected a file of paths in LOADTEST_PATHS")
local paths = {}
for line in io.lines(name) do
  if line:sub(1, 1) == "/" and #paths < 10000 then
    paths[#paths + 1] = line
  end
end
assert(#paths > 0, "expected lines that begin with / in " .. name)

local requests, next = {}, 0

-- Formatted once: building a request for each call would make wrk the bottleneck.
init = function()
  for i, path in ipairs(paths) do
    requests[i] = wrk.format(nil, path)
  end
end

request = function()
  next = next % #requests + 1
  return requests[next]
end
