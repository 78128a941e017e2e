package proxy

import (
	"sluice/fault"
	"sluice/limiter"
)

// RateLimit is a limit that a route's requests must pass, and what of a request
// tells whose budget it takes from.
type RateLimit struct {
	*limiter.Limit
	Key []limiter.Part
}

// limit takes the request out of the budgets of all limits of its route. The
// tightest is what the client is told of.
func (x *exchange) limit() fault.Kind {
	for i := range x.route.Limits {
		l := &x.route.Limits[i]
		cfg := l.Config()
		d := l.Allow(x.limitKey(l, cfg.IPv6Prefix), int64(cfg.Cost), x.start)
		if !cfg.DryRun && (x.told == nil || d.Tighter(x.decision)) {
			x.told, x.decision = l.Limit, d
		}
		if !d.OK {
			// What the limits before it took is not given back: a client that
			// runs into one limit should not gain by it on another.
			return fault.RateLimited
		}
	}
	return fault.None
}

// limitKey is whose budget the request takes from.
func (x *exchange) limitKey(l *RateLimit, prefix int) uint64 {
	h := limiter.NewHasher()
	for i := range l.Key {
		switch p := &l.Key[i]; p.Source {
		case limiter.IP:
			h.Addr(x.caller, prefix)
		case limiter.Route:
			h.Bytes(x.route.name)
		case limiter.Header:
			if v, ok := x.header(p.Name); ok {
				h.Bytes(v)
			} else {
				h.Missing()
			}
		case limiter.Cookie:
			if v := x.cookie(p.Name); v != nil {
				h.Bytes(v)
			} else {
				h.Missing()
			}
		}
	}
	return h.Sum()
}
