// Package observe tells what the gateway does: the access log, the process's
// own log, the metrics, and the ids that tie them together.
//
// AccessLog writes one JSON line a request through zerolog into a sharded
// buffer in memory; one goroutine carries the buffers to the output. Metrics
// hands out counters that are bound once (a RouteStats for each route) and
// turns them into Prometheus series only when they are scraped. NewID,
// ParseTraceparent and AppendTraceparent make and read ids.
//
// Invariants: AccessLog.Write, RouteStats, Counter, Gauge, Histogram and the
// ids never block, never allocate and are safe from any goroutine; what a slow
// output cannot take is dropped and counted, never waited for. Everything that
// a client can send comes out bounded and as valid JSON. OpenAccessLog,
// Reopen, Close and scrapes may block, and allocate.
package observe
