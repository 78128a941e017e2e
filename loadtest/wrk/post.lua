-- Posts a body of LOADTEST_BYTES bytes (default 1024, at most 64 MiB).
dofile(assert(os.getenv("LOADTEST_WRK"), "run this through loadtest/run.sh") .. "/percentiles.lua")

local size = tonumber(os.getenv("LOADTEST_BYTES") or "1024")
assert(size and size >= 0 and size <= 67108864, "expected LOADTEST_BYTES from 0 to 67108864")

wrk.method = "POST"
wrk.body = string.rep("x", size)
wrk.headers["Content-Type"] = "application/octet-stream"
