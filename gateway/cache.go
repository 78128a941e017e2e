package gateway

import (
	"maps"
	"reflect"
	"slices"

	"sluice/cache"
	"sluice/config"
	"sluice/encode"
	"sluice/observe"
	"sluice/proxy"
	"sluice/setting"
)

// cached makes the cache of cfg, where a route needs one. What is stored stays
// over a reload: in the same memory while its bounds are the same, else what
// fits is taken along by startCache.
func (g *Gateway) cached(cfg *config.Config, next *Generation, p *setting.Problems) {
	if !slices.ContainsFunc(cfg.Routes, usesCache) {
		return
	}
	if g.now != nil && g.now.cache != nil {
		old := g.now.cache
		if c := &old.Config; c.Size == cfg.Cache.Size && c.MaxObject == cfg.Cache.MaxObject {
			next.cache = &cache.Cache{Store: old.Store, Fills: old.Fills, Config: cfg.Cache}
			g.fleet(next, old)
			return
		}
	}
	var err error
	if next.cache, err = cache.New(&cfg.Cache); err != nil {
		p.Add("cache.size", "%v", err)
		return
	}
	g.fleet(next, nil)
}

// fleet makes what next's cache shares with other gateways. old is the cache whose
// store it goes on with, nil for a new one.
func (g *Gateway) fleet(next *Generation, old *cache.Cache) {
	c := next.Config.Cache.Shared
	if c == nil || next.redis[c.Redis] == nil {
		return
	}
	if old != nil && old.Fleet != nil && reflect.DeepEqual(old.Fleet.Config(), *c) && g.now.redis[c.Redis] == next.redis[c.Redis] {
		next.cache.Fleet = old.Fleet
		return
	}
	next.cache.Fleet = cache.NewFleet(*c, next.redis[c.Redis], next.cache.Store, g.log)
	if g.now != nil && g.now.cache != nil && g.now.cache.Fleet != nil {
		next.cache.Fleet.Adopt(g.now.cache.Fleet)
	}
}

// startCache takes along what the cache before holds, or an earlier process left.
func (g *Gateway) startCache(next, old *Generation) {
	switch {
	case next.cache == nil:
		return
	case old == nil || old.cache == nil:
		g.loadCache(next)
	case old.cache.Store != next.cache.Store:
		next.cache.Adopt(old.cache.Store)
	}
	if f := next.cache.Fleet; f != nil && (old == nil || old.cache == nil || old.cache.Fleet != f) {
		f.Start()
	}
}

// retireCache gives back the memory of a cache that next, which may be nil, does
// not go on with.
func (g *Generation) retireCache(next *Generation) {
	if g.cache != nil && g.cache.Fleet != nil && (next == nil || next.cache == nil || next.cache.Fleet != g.cache.Fleet) {
		g.cache.Fleet.Close()
	}
	if g.cache != nil && (next == nil || next.cache == nil || next.cache.Store != g.cache.Store) {
		g.cache.Close()
	}
}

// usesCache tells whether a route, or a branch of it, answers from memory.
func usesCache(r config.Route) bool {
	for _, b := range r.Aggregate {
		if b.Cache != nil {
			return true
		}
	}
	return r.Cache != nil
}

// caches compiles what a route does with the cache and with codings. written are
// names of request fields that targets see otherwise than clients sent them.
func caches(r *proxy.Route, c *config.Route, shared *cache.Config, written []string) {
	if c.Compress != nil {
		r.Compress = encode.NewPolicy(c.Compress)
	}
	if c.Cache == nil {
		return
	}
	h := c.Request.Headers
	written = slices.Concat(written, slices.Collect(maps.Keys(h.Set)), slices.Collect(maps.Keys(h.Add)), h.Remove)
	r.Cache = cache.NewPolicy(c.Cache, shared, cache.Place{Route: c.Name, Written: written})
	r.CacheWait = c.Cache.Wait.Std()
}

// credentialFields are the request fields that the authenticators of r take away or
// write.
func credentialFields(r *proxy.Route) []string {
	if r.Auth == nil {
		return nil
	}
	return r.Auth.Places().Headers
}

var (
	seriesStored  = observe.NewGaugeSeries("sluice_cache_objects", "Stored answers, and lists of what answers vary with.")
	seriesMemory  = observe.NewGaugeSeries("sluice_cache_bytes", "Bytes of memory for stored answers: in all queues, and in the hot tier in use.", "tier")
	seriesEvicted = observe.NewCounterSeries("sluice_cache_evictions_total", "Stored answers that were pushed out for want of room.")
	seriesPurges  = observe.NewCounterSeries("sluice_cache_fleet_purges_total", "Purges over several gateways: sent, unsent (Redis did not take it), received, unreadable and gap (both purged all from before).", "result")
	seriesFleetUp = observe.NewGaugeSeries("sluice_cache_fleet_up", "1 while the purges of other gateways are known.")
	seriesTier    = observe.NewCounterSeries("sluice_cache_tier_total", "What became of questions to the second tier (hit, miss, refused, timeout, error, away), of answers put there (put, dropped), and of invalidations.", "result")
	seriesTooBig  = observe.NewCounterSeries("sluice_cache_refused_total", "Answers that the memory had no place for.")
)

func (n *Generation) collectCache(emit observe.Emit) {
	if n.cache == nil {
		return
	}
	s := n.cache.Stats()
	emit.Value(seriesStored, float64(s.Objects))
	emit.Value(seriesMemory, float64(s.Bytes), "queues")
	emit.Value(seriesMemory, float64(s.HotBytes), "hot")
	emit.Value(seriesEvicted, float64(s.Evicted))
	emit.Value(seriesTooBig, float64(s.Refused))
	if n.cache.Fleet == nil {
		return
	}
	f := n.cache.Fleet.Stats()
	emit.Value(seriesFleetUp, oneIf(f.Up))
	for result, count := range map[string]uint64{"sent": f.Sent, "unsent": f.Unsent, "received": f.Received, "unreadable": f.Unreadable, "gap": f.Gaps} {
		emit.Value(seriesPurges, float64(count), result)
	}
	if n.Config.Cache.Shared.SecondTier == nil {
		return
	}
	for result, count := range map[string]uint64{
		"hit": f.Hits, "miss": f.Misses, "refused": f.Refused, "timeout": f.Timeouts, "error": f.Errors, "away": f.Away,
		"put": f.Puts, "dropped": f.Dropped, "invalidated": f.Invalidations,
	} {
		emit.Value(seriesTier, float64(count), result)
	}
}
