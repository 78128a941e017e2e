package proxy

import (
	"slices"

	"sluice/cache"
	"sluice/fault"
	"sluice/wire"
)

// serve is the life of a request whose head has been read: every request goes
// down these lines. A stage hands on or ends; nothing goes back up. finish is
// reached by all.
func (e *Engine) serve(x *exchange) {
	x.snapshot = e.current.Load()
	defer x.finish()

	x.begin()
	f := x.match()
	if f == fault.None {
		f = x.admit()
	}
	if f == fault.None {
		f = x.limitEarly()
	}
	if f == fault.None {
		f = x.preflight()
	}
	if f == fault.None && !x.begun {
		f = x.identify()
	}
	if f == fault.None && !x.begun {
		f = x.limit()
	}
	if f == fault.None && !x.begun {
		f = x.lookup()
	}
	if f == fault.None && !x.begun {
		f = x.answer()
	}
	if f != fault.None {
		x.recover(f)
	}
}

// begin starts the clock and gives the request its identity.
func (x *exchange) begin() {
	s := &x.snapshot.Settings
	x.scheme = "http"
	if x.client.TLS != nil {
		x.scheme = "https"
	}
	x.end = 0
	x.introduce(s)
	x.close = x.req.Close || x.engine.draining.Load() ||
		s.MaxRequests > 0 && x.client.requests >= s.MaxRequests
}

// match finds the route, by the normal form of the path.
func (x *exchange) match() fault.Kind {
	f := x.find()
	if f != fault.None {
		x.snapshot.Unrouted.Begin()
		return f
	}
	x.route.Stats.Begin()
	x.setDeadline(&x.snapshot.Settings)
	if x.route.values {
		x.params, _ = x.route.pattern.match(x.path, x.values[:0])
	}
	return fault.None
}

func (x *exchange) find() fault.Kind {
	if x.req.Form == wire.AsteriskForm || len(x.req.Path) == 1 {
		x.path = x.req.Path
	} else {
		normal, ok := normalPath(x.req.Path, x.pathBuf)
		if !ok {
			return fault.BadRequest
		}
		if x.path = normal; len(normal) > 0 && &normal[0] != &x.req.Path[0] {
			x.pathBuf = normal
		}
	}
	t := x.snapshot.Table
	if t.cors {
		if x.route = x.findPreflight(); x.route != nil {
			x.preflighted = true
			return fault.None
		}
	}
	if x.route = t.lookup(x, nil); x.route != nil {
		return fault.None
	}
	var allow []string
	if t.lookup(x, &allow); len(allow) > 0 {
		x.allow = allowed(allow)
		return fault.MethodNotAllowed
	}
	return fault.NotFound
}

// admit refuses what is too large, too late, or has been here before, before
// anything is spent on it.
func (x *exchange) admit() fault.Kind {
	if !x.addressHolds() {
		return fault.AddressDenied
	}
	if string(x.req.Method) == "TRACE" {
		// It would show the client what the gateway adds for the target.
		x.allow = allowed(traceable(x.route.Methods))
		return fault.MethodNotAllowed
	}
	if x.route.MaxBody > 0 && x.req.Length > x.route.MaxBody {
		return fault.BodyTooLarge
	}
	x.body.limit = x.route.MaxBody
	if x.looped() {
		return fault.LoopDetected
	}
	x.upgrade = len(x.req.Upgrade) > 0 && x.route.Upgrade && !carriesHTTP(x.req.Upgrade)
	return fault.None
}

// answer is the one place that decides who answers.
func (x *exchange) answer() fault.Kind {
	switch r := x.route; {
	case r.Login != nil:
		return x.login(r.Login)
	case r.Respond != nil:
		return x.respond(r.Respond)
	case r.Redirect != nil:
		return x.redirect(r.Redirect)
	case x.lastHop():
		return x.respondOptions()
	case r.Aggregate != nil:
		return x.aggregate(r.Aggregate)
	case r.Split != nil:
		if x.upstream == nil { // else the cache had to know
			x.upstream = r.Split.choose(x)
		}
	default:
		x.upstream = r.Upstream
	}
	now := x.start
	if x.req.Length != 0 || x.verified || x.cached.told {
		now = wire.Nanotime() // the body, or a provider, may have been waited for
	}
	if f := x.route.Bulkhead.Enter(now, x.until(x.start+unbounded)); f != fault.None {
		return x.spent(f)
	}
	x.placed = true // to the end, for a fallback is work of the route too
	return x.forward()
}

// recover answers in the place of what failed. Once the answer's head is on
// its way there is nothing to say: the connection is reset, so that nobody
// takes the part for the whole.
func (x *exchange) recover(f fault.Kind) {
	x.fault = f
	x.failFill(f)
	x.sticky = "" // nobody is kept where it failed
	if x.begun {
		x.close = true
		x.client.reset = true
		return
	}
	if x.sendStale(f) {
		return
	}
	if x.route != nil && len(x.route.Fallbacks) > 0 {
		if f = x.standIn(f); x.begun {
			if f != fault.None {
				x.fault, x.close, x.client.reset = f, true, true
			}
			return
		}
		x.fault = f
	}
	if f == fault.ClientGone || f == fault.ClientSlow {
		x.close = true
		return
	}
	x.deliverFault(f)
}

// finish counts and logs the request.
func (x *exchange) finish() {
	if x.end == 0 || x.fault != fault.None || x.fallback > 0 {
		x.end = wire.Nanotime()
	}
	x.endFill(cache.Lost, fault.None) // where nothing else ended it
	if x.placed {
		x.route.Bulkhead.Leave()
	}
	if x.entered > 0 {
		x.leaveLimits()
	}
	stats := x.snapshot.Unrouted
	name := ""
	if x.route != nil {
		stats, name = x.route.Stats, x.route.Name
	}
	status := x.status
	if status == 0 {
		status = x.fault.Status()
	}
	if stats != nil {
		stats.End(status, durationOf(x.end-x.start), x.body.taken, x.bytesOut)
		if x.fault != fault.None {
			stats.Fault(int(x.fault))
		}
	}
	if x.cached.told {
		stats.Cached(x.cached.result, x.bytesOut)
	}
	if x.retries+x.hedges > 0 || x.standingIn != "" {
		stats.Extra(x.retries, x.hedges, x.standingIn != "")
	}
	if x.deadline > 0 {
		body := int64(0)
		if x.heard > 0 {
			body = x.end - x.heard
		}
		queue := x.end - x.start - x.connect - x.waited - body
		stats.Spent(durationOf(queue), durationOf(x.connect), durationOf(x.waited), durationOf(body))
	}
	log, audit := x.snapshot.Access, x.snapshot.Audit
	if audit != nil && !x.refused && !x.fault.Refusal() {
		audit = nil
	}
	if log == nil && audit == nil {
		return
	}
	r := &x.record
	r.Start = x.when
	r.Duration = durationOf(x.end - x.start)
	r.Connect, r.Wait = durationOf(x.connect), 0
	if x.heard > 0 {
		r.Wait = durationOf(x.heard - x.sent)
	}
	x.out = x.out[:0] // what was in it has been sent
	r.RequestID, r.Client = x.id, x.caller
	r.Method, r.Host, r.URI = x.req.Method, x.req.Host, x.logged(x.req.Target)
	r.Scheme, r.Proto = x.scheme, protos[x.req.Minor]
	r.UserAgent, r.Referer = nil, nil
	for i := range x.req.Fields {
		switch x.req.Fields[i].Kind {
		case wire.UserAgent:
			r.UserAgent = x.req.Fields[i].Value
		case wire.Referer:
			r.Referer = x.logged(x.req.Fields[i].Value)
		}
	}
	r.Status, r.UpstreamStatus = status, x.answered
	r.BytesIn, r.BytesOut = x.body.taken, x.bytesOut
	r.Route, r.Upstream, r.Target = name, "", ""
	if x.upstream != nil {
		r.Upstream = x.upstream.Name
	}
	if x.target != nil {
		r.Target = x.target.URL
	}
	r.Reason, r.Cache = x.why, x.cached.result.String()
	r.Tries, r.Reused, r.Flag = x.tries, x.reused, x.fault.Name()
	r.Shard = x.client.shard
	r.Authenticator, r.User = "", ""
	if id := x.proof.Identity(); id != nil {
		r.Authenticator = id.Authenticator
		r.User, _ = id.Claim("sub")
	}
	log.Write(r)
	audit.Write(r)
}

var protos = [2]string{"HTTP/1.0", "HTTP/1.1"}

// traceable is the methods that a route which takes any takes besides TRACE.
func traceable(methods []string) []string {
	if len(methods) == 0 {
		return []string{"DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT"}
	}
	return slices.DeleteFunc(slices.Clone(methods), func(m string) bool { return m == "TRACE" })
}
