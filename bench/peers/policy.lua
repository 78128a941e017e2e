-- Each request is one of a few callers; report.lua is joined to it by the caller.
local requests, n = {}, 0
function init(args)
  for token in io.lines(TOKENS) do
    requests[#requests + 1] = wrk.format("GET", nil, {["Authorization"] = "Bearer " .. token})
  end
end
function request()
  n = n % #requests + 1
  return requests[n]
end
