-- Prints the percentiles that wrk's own summary leaves out. wrk sends the next
-- request when the last answer came (closed loop): during a stall it sends
-- nothing, so its tail looks better than what users see. Use run.sh rate for
-- latency and this for throughput.
done = function(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  local seconds = summary.duration / 1e6
  io.write(string.format("\n%d requests in %.1f s, %.0f/s, %.1f MiB/s, %d failed\n",
    summary.requests, seconds, summary.requests / seconds, summary.bytes / seconds / 1048576, failed))
  io.write(string.format("closed loop: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, max %.2f ms\n",
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
