package gateway

import (
	"maps"
	"reflect"
	"slices"

	"sluice/config"
	"sluice/limiter"
	"sluice/observe"
	"sluice/redis"
	"sluice/setting"
)

// limits makes the limits of cfg, and what they share with other gateways. One
// whose settings have not changed goes on with its counters; a Redis whose
// settings have not, with its connections. Mistakes go to p.
func (g *Gateway) limits(cfg *config.Config, next *Generation, p *setting.Problems) {
	next.redis = map[string]*redis.Client{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Redis)) {
		c := cfg.Redis[name]
		if g.now != nil && g.now.redis[name] != nil && reflect.DeepEqual(g.now.Config.Redis[name], c) {
			next.redis[name] = g.now.redis[name]
			continue
		}
		client, err := redis.Open(c, g.log)
		if err != nil {
			p.Add("redis."+setting.Key(name), "%v", err)
			continue
		}
		next.redis[name] = client
	}
	next.limits = make(map[string]*limiter.Limit, len(cfg.Limits))
	next.shared = map[string]*limiter.Shared{}
	for name, c := range cfg.Limits {
		var old *limiter.Limit
		var was *limiter.Shared
		if g.now != nil {
			old, was = g.now.limits[name], g.now.shared[name]
		}
		same := old != nil && reflect.DeepEqual(g.now.Config.Limits[name], c)
		if same {
			next.limits[name] = old
		} else {
			next.limits[name] = limiter.New(name, c, old)
		}
		if c.Shared == nil || next.redis[c.Shared.Redis] == nil {
			continue
		}
		if same && was != nil && g.now.redis[c.Shared.Redis] == next.redis[c.Shared.Redis] {
			next.shared[name] = was
			continue
		}
		next.shared[name] = limiter.NewShared(name, c, *c.Shared, next.redis[c.Shared.Redis], was)
	}
}

// startLimits begins what limits do in the background. A quota's new keeper reads
// the file before the old one is stopped.
func (g *Gateway) startLimits(next, old *Generation) {
	for name, l := range next.limits {
		if old == nil || old.limits[name] != l {
			l.Start(func(err error) { g.log.Error().Err(err).Str("limit", name).Msg("quota file") })
		}
	}
	for name, s := range next.shared {
		if old == nil || old.shared[name] != s {
			s.Start()
		}
	}
}

// retireLimits ends what next, which may be nil, does not go on with. Shared
// budgets may take a moment to be told to Redis, which nobody waits for but the
// end of the process.
func (g *Generation) retireLimits(next *Generation) {
	for name, l := range g.limits {
		if next == nil || next.limits[name] != l {
			l.Stop()
		}
	}
	end := func() {
		for name, s := range g.shared {
			if next == nil || next.shared[name] != s {
				s.Close()
			}
		}
		g.closeRedis(next)
	}
	if next == nil {
		end()
	} else {
		go end()
	}
}

// closeRedis ends the connections that other, which may be nil, does not have.
func (g *Generation) closeRedis(other *Generation) {
	for name, r := range g.redis {
		if other == nil || other.redis[name] != r {
			r.Close()
		}
	}
}

var (
	seriesRedisUp       = observe.NewGaugeSeries("sluice_redis_up", "1 while a Redis answers.", "redis")
	seriesRedisConnects = observe.NewCounterSeries("sluice_redis_connects_total", "How often a Redis was connected to.", "redis")
	seriesRedisFailures = observe.NewCounterSeries("sluice_redis_failures_total", "How often a Redis could not be connected to or did not answer.", "redis")
	seriesSharedAway    = observe.NewGaugeSeries("sluice_limit_shared_away", "1 while a shared limit decides without its Redis.", "limit")
	seriesSharedTrips   = observe.NewCounterSeries("sluice_limit_shared_round_trips_total", "Round trips to Redis of a shared limit.", "limit")
	seriesSharedScripts = observe.NewCounterSeries("sluice_limit_shared_scripts_total", "Questions in them.", "limit")
	seriesSharedErrors  = observe.NewCounterSeries("sluice_limit_shared_errors_total", "Questions of a shared limit that were not answered, by reason.", "limit", "reason")
	seriesSharedWithout = observe.NewCounterSeries("sluice_limit_shared_without_redis_total", "Decisions of a shared limit without its Redis.", "limit", "how")
)

func (g *Generation) collectShared(emit observe.Emit) {
	for name, r := range g.redis {
		s := r.Stats()
		emit.Value(seriesRedisUp, oneIf(s.Up), name)
		emit.Value(seriesRedisConnects, float64(s.Connects), name)
		emit.Value(seriesRedisFailures, float64(s.Failures), name)
	}
	for name, l := range g.shared {
		s := l.Stats()
		emit.Value(seriesSharedAway, oneIf(s.Away), name)
		emit.Value(seriesSharedTrips, float64(s.RoundTrips), name)
		emit.Value(seriesSharedScripts, float64(s.Sent), name)
		emit.Value(seriesSharedErrors, float64(s.Errors), name, "error")
		emit.Value(seriesSharedErrors, float64(s.Timeouts), name, "timeout")
		emit.Value(seriesSharedErrors, float64(s.Crowded), name, "crowded")
		emit.Value(seriesSharedWithout, float64(s.Alone), name, "alone")
		emit.Value(seriesSharedWithout, float64(s.Unchecked), name, "unchecked")
		emit.Value(seriesSharedWithout, float64(s.Unavailable), name, "unavailable")
	}
}
