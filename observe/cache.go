package observe

import "time"

// CacheResult is what the cache did with a request.
type CacheResult uint8

// The results. CacheNone is a request that has nothing to do with the cache.
const (
	CacheNone CacheResult = iota
	CacheHit
	CacheStale        // it was stale, and is fetched anew
	CacheStaleOnError // it was stale, and the target failed
	CacheRevalidated  // the target said that it is still good
	CacheMiss
	CacheCollapsed // it had the answer that another request fetched
	CacheBypass
	cacheResults
)

var cacheNames = [cacheResults]string{
	CacheHit: "hit", CacheStale: "stale", CacheStaleOnError: "stale-on-error", CacheRevalidated: "revalidated",
	CacheMiss: "miss", CacheCollapsed: "collapsed", CacheBypass: "bypass",
}

// String is the word for r in the access log and in metrics, empty for CacheNone.
func (r CacheResult) String() string { return cacheNames[r] }

var (
	seriesCached   = NewCounterSeries("sluice_cache_requests_total", "Requests of routes that cache, by what the cache did: hit, stale (and fetched anew), stale-on-error, revalidated, miss, collapsed (answered with what another request fetched), bypass.", "route", "result")
	seriesCacheOut = NewCounterSeries("sluice_cache_sent_bytes_total", "Bytes of answer bodies sent from the cache.", "route")
	seriesHitRatio = NewGaugeSeries("sluice_cache_hit_ratio", "The share of requests, but for bypasses, that cost the target nothing, since the start.", "route")
	seriesHitAge   = NewHistogramSeries("sluice_cache_hit_age_seconds", "How old answers from the cache are.", "route")
	seriesRenewed  = NewCounterSeries("sluice_cache_refreshes_total", "Stale answers fetched anew behind the client's back: stored, or not.", "route", "result")
)

// Cached counts what the cache did with a request, and the bytes of the body.
func (s *RouteStats) Cached(r CacheResult, out int64) {
	if r == CacheNone || r >= cacheResults {
		return
	}
	s.cached[r].Inc()
	switch r {
	case CacheHit, CacheStale, CacheStaleOnError, CacheRevalidated:
		if out > 0 {
			s.cacheOut.Add(uint64(out))
		}
	}
}

// HitAge counts the age of an answer from the cache.
func (s *RouteStats) HitAge(age time.Duration) { s.hitAge.Observe(age) }

// Refreshed counts a stale answer that was fetched anew.
func (s *RouteStats) Refreshed(stored bool) {
	i := 0
	if stored {
		i = 1
	}
	s.renewed[i].Inc()
}

func (s *RouteStats) emitCache(emit Emit, route string) {
	var counts [cacheResults]float64
	sum := 0.0
	for r := CacheHit; r < cacheResults; r++ {
		counts[r] = float64(s.cached[r].Load())
		sum += counts[r]
	}
	if sum == 0 {
		return
	}
	for r := CacheHit; r < cacheResults; r++ {
		emit.Value(seriesCached, counts[r], route, cacheNames[r])
	}
	emit.Value(seriesCacheOut, float64(s.cacheOut.Load()), route)
	if all := sum - counts[CacheBypass]; all > 0 {
		free := counts[CacheHit] + counts[CacheStale] + counts[CacheStaleOnError] + counts[CacheCollapsed]
		emit.Value(seriesHitRatio, free/all, route)
	}
	emit.Histogram(seriesHitAge, &s.hitAge, route)
	emit.Value(seriesRenewed, float64(s.renewed[1].Load()), route, "stored")
	emit.Value(seriesRenewed, float64(s.renewed[0].Load()), route, "not-stored")
}
