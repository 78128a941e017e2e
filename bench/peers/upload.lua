-- A POST of 1 MiB; report.lua is joined to it by the caller.
wrk.method = "POST"
wrk.body = string.rep("x", 1048576)
wrk.headers["Content-Type"] = "application/octet-stream"
