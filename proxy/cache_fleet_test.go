package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"sluice/redis/redistest"
)

// Two gateways and a Redis: what one fetched the other has, and what is purged or
// changed at one is gone at both.
func TestCacheOverGateways(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		h := w.Header()
		h.Set("Cache-Control", "max-age=60")
		h.Set("Surrogate-Key", "key")
		if strings.HasPrefix(r.URL.Path, "/vary") {
			h.Set("Vary", "X-Kind")
		}
		fmt.Fprint(w, r.Header.Get("X-Kind"), n)
	})
	text := cachingTo(b, "on", "redis: { main: \""+server.Addr+"\" }", "cache: { shared: { redis: main, sync: 10ms, second_tier: { timeout: 1s } } }")
	one, two := startEdge(t, text), startEdge(t, text)
	tier := func(e *edge) uint64 { return e.gateway.FleetStats().Puts }
	eventually(t, "both know the log of purges", func() bool { return one.gateway.FleetStats().Up && two.gateway.FleetStats().Up })
	one.want(b, "/a", 200, "1", 1)
	eventually(t, "it is on Redis", func() bool { return tier(one) == 1 })
	two.want(b, "/a", 200, "1", 1)
	one.want(b, "/vary", 200, "x1", 1, "X-Kind: x")
	eventually(t, "it is on Redis, with its list", func() bool { return tier(one) == 3 })
	two.want(b, "/vary", 200, "x1", 1, "X-Kind: x")
	two.want(b, "/vary", 200, "y2", 2, "X-Kind: y")

	heard := two.gateway.FleetStats().Received // of the log's beginning, perhaps
	if err := one.gateway.Purge("tag", "key", false); err != nil {
		t.Fatal(err)
	}
	one.want(b, "/a", 200, "2", 2)
	eventually(t, "the other has heard of the purge", func() bool { return two.gateway.FleetStats().Received > heard })
	eventually(t, "the new answer is on Redis", func() bool { return two.get("/a").body == "2" })

	one.ask("POST", "/a", "Content-Length: 0")
	eventually(t, "Redis knows of the change", func() bool { return one.gateway.FleetStats().Invalidations == 1 })
	asked := b.asked("/a")
	if one.get("/a"); b.asked("/a") != asked+1 {
		t.Errorf("asked %d times after a change, want %d", b.asked("/a"), asked+1)
	}
}
