package proxy

import (
	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// Fallback is what stands in when a route's upstream fails: another upstream,
// or a fixed answer. Those of a route are tried in their order.
type Fallback struct {
	Upstream *pool.Upstream // nil for Respond
	Respond  *Respond
}

// standsIn tells whether a request that failed so is for the route's fallbacks:
// those that are the client's own fault, or that the client will not hear of,
// are not.
func standsIn(f fault.Kind) bool {
	switch f {
	case fault.NoTarget, fault.QueueFull, fault.QueueTimeout, fault.ConnectFailed, fault.ConnectTimeout,
		fault.TargetReset, fault.BadAnswer, fault.AnswerTimeout, fault.BudgetSpent, fault.BreakerOpen,
		fault.Overloaded, fault.TargetError:
		return true
	}
	return false
}

// intercepts tells whether the answer in x.res is one that the route's
// fallbacks stand in for, and drops it then. An answer for which none of them
// could is the client's, and so is one that came before the request's end.
func (x *exchange) intercepts(conn *pool.Conn, p *pump) bool {
	if x.staleFor(x.res.Status) && p.finished() {
		p.end(conn)
		x.settle(conn)
		return true
	}
	if len(x.route.Fallbacks) == 0 || !listed(x.route.FallbackOn, x.res.Status) || !p.finished() {
		return false
	}
	now := wire.Nanotime()
	for i := x.fallback; ; i++ {
		if i >= len(x.route.Fallbacks) {
			return false
		}
		if x.canUse(&x.route.Fallbacks[i], now) {
			break
		}
	}
	p.end(conn)
	x.settle(conn)
	return true
}

// canUse tells whether b may stand in: a fixed answer always, an upstream for a
// request that can be sent once more, in time and within the route's bulkhead.
func (x *exchange) canUse(b *Fallback, now int64) bool {
	return b.Respond != nil || x.isWhole && x.placed && x.left(now) > 0
}

// standIn tries the route's fallbacks after f, each once. It returns None when
// one of them answered, else the last failure.
func (x *exchange) standIn(f fault.Kind) fault.Kind {
	if !standsIn(f) {
		return f
	}
	for x.fallback < len(x.route.Fallbacks) {
		b := &x.route.Fallbacks[x.fallback]
		x.fallback++
		if !x.canUse(b, wire.Nanotime()) {
			continue
		}
		if b.Respond != nil {
			x.standingIn = "static"
			x.fault = f // what it stands in for is still counted and logged
			return x.respond(b.Respond)
		}
		x.upstream, x.standingIn = b.Upstream, b.name()
		x.sent, x.heard, x.answered = 0, 0, 0
		if g := x.forward(); g == fault.None || x.begun || !standsIn(g) {
			return g
		}
	}
	x.standingIn = ""
	return f
}

func (b *Fallback) name() string { return "upstream=" + b.Upstream.Name }
