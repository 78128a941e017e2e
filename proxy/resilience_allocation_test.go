//go:build !race

package proxy_test

import "testing"

// TestGuardedForwardingAllocatesNothing is the promise of the hot path with
// everything on that guards it: budget, retry, a hedge that is armed and not
// due, fallback, bulkheads, breaker, outliers, adaptive limit, slow start.
func TestGuardedForwardingAllocatesNothing(t *testing.T) {
	o := rawOrigin(t, []byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend"))
	e := startEdge(t, "forwarded: { trusted: [127.0.0.1], budget: X-Budget }\nupstreams:\n"+
		"  main:\n    targets: [\""+o.url()+"\", \"http://localhost:"+portOf(o.addr())+"\"]\n    balance: peak_ewma\n"+
		"    health: { interval: 1m }\n    outlier: { errors: 5, error_rate: 50%, slow_factor: 5 }\n    breaker: { slow_rate: 50% }\n"+
		"    concurrency: { max: 100, queue: 10 }\n    adaptive: {}\n    panic: 30%\n"+
		"  spare: \""+o.url()+"\"\n"+
		"routes:\n- name: all\n  upstream: main\n  budget: 10s\n  priority: low\n  concurrency: { max: 100 }\n"+
		"  retry: { attempts: 3, per_try: 5s }\n  hedge: 1s\n  fallback: [ { upstream: spare }, { body: static } ]\n")
	f := func(name, request string) {
		t.Helper()
		c := newRawClient(t, e, request, "end")
		defer func() { _ = c.conn.Close() }()
		if n := c.allocations(); n > stray {
			t.Errorf("%s: %.3f allocations for each request, want none", name, n)
		}
	}
	f("GET", "GET / HTTP/1.1\nHost: x\nX-Budget: 8000\n\n")
	f("grpc-timeout", "GET / HTTP/1.1\nHost: x\ngrpc-timeout: 8S\n\n")
	f("PUT", "PUT / HTTP/1.1\nHost: x\nContent-Length: 4\n\n\n\n")
}
