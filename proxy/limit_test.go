package proxy_test

import (
	"strings"
	"testing"

	"sluice/fault"
)

// A caller over its limit is told so, by status, problem and headers; others,
// and other routes, are not touched.
func TestRateLimit(t *testing.T) {
	o := startOrigin(t, answering(func(string, string) string { return ok("x") }))
	e := startEdge(t, `
limits:
  few: { rate: 1/h, burst: 2, key: "header:X-Tenant" }
  dry: { rate: 1/h, burst: 1, dry_run: true }
upstreams: { main: "`+o.url()+`" }
routes:
  - { name: limited, match: /*, limit: [few, dry], upstream: main }
  - { name: free, match: /free, upstream: main }
`)
	for i, want := range []int{200, 200, 429, 429} {
		a := e.get("/", "X-Tenant: a")
		if a.StatusCode != want {
			t.Fatalf("request %d: %s, want %d", i+1, a.Status, want)
		}
		if policy := a.Header.Get("RateLimit-Policy"); !strings.HasPrefix(policy, `"few";q=2;`) {
			t.Errorf("request %d: RateLimit-Policy %q", i+1, policy)
		}
		if retry := a.Header.Values("Retry-After"); (len(retry) == 1) != (want == 429) {
			t.Errorf("request %d: Retry-After %q", i+1, retry)
		}
	}
	wantProblem(t, e.get("/", "X-Tenant: a"), fault.RateLimited)
	if a := e.get("/", "X-Tenant: b"); a.StatusCode != 200 {
		t.Errorf("another tenant: %s", a.Status)
	}
	if a := e.get("/free", "X-Tenant: a"); a.StatusCode != 200 || a.Header.Get("RateLimit") != "" {
		t.Errorf("another route: %s, RateLimit %q", a.Status, a.Header.Get("RateLimit"))
	}
}
