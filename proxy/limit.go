package proxy

import (
	"net/netip"
	"time"

	"sluice/fault"
	"sluice/limiter"
	"sluice/wire"
)

// RateLimit is a limit that a route's requests must pass, and the budgets that
// it has together with other gateways.
type RateLimit struct {
	*limiter.Limit
	Shared *limiter.Shared // nil when it is this gateway's alone
}

// MostPlaces is how many limits of one route may bound requests in flight.
const MostPlaces = 4

// limitEarly asks the limits that need not know who calls: nothing is spent on
// finding that out for a request that they refuse.
func (x *exchange) limitEarly() fault.Kind { return x.askLimits(x.route.early) }

// limit asks the others.
func (x *exchange) limit() fault.Kind { return x.askLimits(x.route.late) }

// askLimits takes the request out of the budgets of limits. The tightest is what
// the client is told of.
func (x *exchange) askLimits(limits []RateLimit) fault.Kind {
	for i := range limits {
		l := &limits[i]
		d, basis, applies := x.ask(l)
		if !applies {
			continue
		}
		if basis == limiter.Unavailable {
			x.why = "the Redis " + l.Config().Shared.Redis + " of a shared limit does not answer"
			return fault.LimitUnavailable
		}
		if !l.Config().DryRun && (x.told == nil || d.Tighter(x.decision)) {
			x.told, x.decision = l.Limit, d
		}
		if !d.OK {
			// What the rates before it gave is not taken back: a client that runs
			// into one limit should not gain by it on another. Quotas, which are
			// used up for long, are asked last.
			x.why = l.Kind().String()
			return fault.RateLimited
		}
	}
	return fault.None
}

func (x *exchange) ask(l *RateLimit) (d limiter.Decision, basis limiter.Basis, applies bool) {
	c := (*limitCaller)(x)
	now, wall := x.start, x.when
	if x.verified {
		now = wire.Nanotime()
		wall = wall.Add(time.Duration(now - x.start))
	}
	if l.Shared != nil {
		return l.Shared.Ask(l.Limit, c, l.Cost(), now, wall)
	}
	key, applies := l.Key(c)
	if !applies {
		return limiter.Decision{}, limiter.Counted, false
	}
	plan := l.PlanOf(c)
	if l.Kind() != limiter.ByConcurrency {
		return l.AllowPlan(key, plan, l.Cost(), now), limiter.Counted, true
	}
	d = l.Enter(key, plan, &x.places[x.entered])
	x.entered++
	return d, limiter.Counted, true
}

// leaveLimits gives back what the request held while it was at work.
func (x *exchange) leaveLimits() {
	for i := range x.places[:x.entered] {
		x.places[i].Leave()
	}
	x.entered = 0
}

// limitCaller is an exchange as limits see it.
type limitCaller exchange

func (c *limitCaller) Address() netip.Addr { return c.caller }
func (c *limitCaller) RouteName() []byte   { return c.route.name }

func (c *limitCaller) Header(name string) ([]byte, bool) { return (*exchange)(c).header(name) }

func (c *limitCaller) Cookie(name string) ([]byte, bool) {
	v := (*exchange)(c).cookie(name)
	return v, v != nil
}

func (c *limitCaller) Claim(path string) (string, bool) { return c.proof.Claim(path) }

func (c *limitCaller) Identity() (authenticator, subject string, ok bool) {
	id := c.proof.Identity()
	if id == nil {
		return "", "", false
	}
	if subject, ok = id.Claim("sub"); !ok {
		subject = id.Subject // one that no header can carry tells callers apart all the same
	}
	return id.Authenticator, subject, subject != ""
}
