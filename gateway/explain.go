package gateway

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"sluice/config"
	"sluice/pool"
	"sluice/proxy"
)

// Explain says in words what would become of a request: which route matches,
// which stages apply with which settings, and where it would go. It goes the
// way of a real request up to the point where that would be sent. headers are
// lines such as "Accept: text/html". An error is about the request.
func (g *Gateway) Explain(next *Generation, method, target string, headers []string) (string, error) {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("expected a URL such as http://api.example.com/users/7, got %q", target)
	}
	_, rest, _ := strings.Cut(target, "://")
	path := "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		if path = rest[i:]; path[0] == '?' {
			path = "/" + path
		}
	}
	path, _, _ = strings.Cut(path, "#")
	head := method + " " + path + " HTTP/1.1\r\nHost: " + u.Host + "\r\n"
	for _, line := range append([]string{method}, headers...) {
		if strings.ContainsAny(line, "\r\n") {
			return "", fmt.Errorf("expected one line, got %q", line)
		}
	}
	for _, h := range headers {
		head += h + "\r\n"
	}
	// Publishing is what completes a snapshot; nothing is served by this engine.
	proxy.NewEngine(g.watch, g.log).Publish(next.snapshot)
	d, err := proxy.Decide(next.snapshot, []byte(head+"\r\n"), u.Scheme)
	if err != nil {
		return "", err
	}
	return describe(next.Config, d), nil
}

func describe(cfg *config.Config, d *proxy.Decision) string {
	var b strings.Builder
	row := func(stage, format string, args ...any) {
		fmt.Fprintf(&b, "%-9s %s\n", stage, fmt.Sprintf(format, args...))
	}
	row("match", "path %s", d.Path)
	if d.Route == nil {
		row("answer", "%d %s", d.Fault.Status(), d.Fault.Name())
		if d.Allow != "" {
			row("", "Allow: %s", d.Allow)
		}
		return b.String()
	}
	r := d.Route
	if r.Login != nil {
		row("answer", "a path of the authenticator behind route %q", r.Name)
		return b.String()
	}
	at := slices.IndexFunc(cfg.Routes, func(c config.Route) bool { return c.Name == r.Name })
	row("", "route %q (%s)", r.Name, cfg.Locate(fmt.Sprintf("routes[%d]", at)))
	for _, p := range d.Params {
		row("", "{%s} = %s", p[0], p[1])
	}
	admit := fmt.Sprintf("head up to %d bytes and %d fields", int(cfg.Server.MaxHeader), cfg.Server.MaxHeaderFields)
	if r.MaxBody > 0 {
		admit += fmt.Sprintf(", body up to %d bytes", r.MaxBody)
	} else {
		admit += ", body without bound"
	}
	row("admit", "%s", admit)
	if d.Fault != 0 {
		row("answer", "%d %s", d.Fault.Status(), d.Fault.Name())
		return b.String()
	}
	explainCallers(row, routeConfig(cfg, r.Name), r)
	if m := r.Mirror; m != nil {
		row("answer", "copy %g%% of requests with a body up to %d bytes to upstream %s", m.Share*100, m.MaxBody, m.Upstream.Name)
	}
	if r.Budget > 0 {
		row("budget", "%s for everything below", r.Budget)
	}
	if b := routeConfig(cfg, r.Name).Limit; b != nil {
		row("admit", "at most %d of this route at work, %d may wait %s", b.Max, b.Queue, b.QueueTimeout)
	}
	for _, name := range routeConfig(cfg, r.Name).Rate {
		l := cfg.Limits[name]
		row("limit", "%s: %s for each %s", name, l.String(), l.Key)
	}
	explainCache(row, cfg, r)
	switch {
	case r.Respond != nil:
		row("answer", "respond %d, %d bytes", r.Respond.Status, len(r.Respond.Body))
	case r.Redirect != nil:
		row("answer", "redirect %d to %s", r.Redirect.Status, d.Location)
	case r.Aggregate != nil:
		explainAggregate(row, routeConfig(cfg, r.Name), r)
		explainRecover(row, cfg, r)
	default:
		explainForward(row, r, d)
		explainRecover(row, cfg, r)
	}
	for _, name := range r.Response.Remove {
		row("deliver", "remove %s", name)
	}
	for name, value := range r.Response.Set {
		row("deliver", "set %s: %s", name, value)
	}
	for name, value := range r.Response.Add {
		row("deliver", "add %s: %s", name, value)
	}
	return hideTexts(cfg, at, b.String())
}

// explainCallers says who may call.
func explainCallers(row func(stage, format string, args ...any), c *config.Route, r *proxy.Route) {
	if ip := c.IP; ip != nil {
		row("admit", "addresses: %s", ip)
	}
	if cors := c.CORS; cors != nil {
		row("preflight", "pages of %s", strings.Join(cors.Origins, ", "))
	}
	if r.Auth == nil {
		row("identify", "nobody is asked")
		return
	}
	who := "any of " + strings.Join(c.Auth.Any, ", ")
	if c.Auth.Optional {
		who += ", or nobody"
	}
	row("identify", "%s", who)
	for _, g := range r.Auth.Any {
		for _, m := range g {
			for _, h := range m.Headers() {
				row("", "%s tells the target %s: its claim %s", m.Name(), h.Name, h.Claim)
			}
		}
	}
	if c.Require != nil {
		row("", "who must have %s", c.Require)
	}
}

// explainCache tells what a route answers from memory.
func explainCache(row func(stage, format string, args ...any), cfg *config.Config, r *proxy.Route) {
	if c := routeConfig(cfg, r.Name).Cache; c != nil {
		life := "for as long as the origin says"
		if c.TTL > 0 {
			life = fmt.Sprintf("for %s, whatever the origin says of freshness", c.TTL)
			if c.Mode == "fallback" {
				life = fmt.Sprintf("for as long as the origin says, else for %s", c.TTL)
			}
		}
		row("lookup", "answers from memory %s, bodies up to %s", life, cfg.Cache.MaxObject)
		if c.SWR > 0 || c.SIE > 0 {
			row("", "stale for %s while fetched anew, for %s when the origin fails", c.SWR, c.SIE)
		}
		row("", "key: scheme, host, path, query (%s%s)%s", c.Key.Query, listed(c.Key.Parameters),
			listed(slices.Concat(c.Key.Headers, c.Key.Cookies, c.Key.Claims)))
		if r.Auth != nil {
			row("", "shared with: %s", map[string]string{
				"origin": "everybody who may pass, where the origin says so", "identity": "the same caller only", "all": "everybody who may pass",
			}[c.Share])
		}
		if r.CacheWait > 0 {
			row("", "those who miss together wait up to %s for the first", r.CacheWait)
		}
	}
	if r.Compress != nil {
		row("deliver", "compressed where the target did not, and the client takes it")
	}
}

// listed is ", a, b" for a list.
func listed(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return ", " + strings.Join(words, ", ")
}

func explainForward(row func(stage, format string, args ...any), r *proxy.Route, d *proxy.Decision) {
	if r.Split != nil {
		row("answer", "%s", answerOf(r))
	}
	for i, f := range d.Forwards {
		u := f.Upstream
		stage := "answer"
		if i > 0 {
			stage = "or"
		}
		row(stage, "forward to upstream %s by %s", u.Name, u.Config.Balance)
		explainTargets(row, u)
		t := u.Config.Timeouts
		wait := t.Response
		if r.ResponseTimeout > 0 {
			row("", "connect within %s, answer within %s (the route's), body idle up to %s", t.Connect, r.ResponseTimeout, t.Idle)
		} else {
			row("", "connect within %s, answer within %s, body idle up to %s", t.Connect, wait, t.Idle)
		}
		c := u.Config.Connections
		row("", "at most %d connections for each target, %d may wait %s for one", c.Max, c.Queue, c.QueueTimeout)
		explainGuards(row, u, r.Share)
		for _, line := range strings.Split(strings.TrimRight(f.Head, "\r\n"), "\r\n") {
			row("send", "%s", line)
		}
	}
}

// explainTargets lists the servers of an upstream, and where more come from.
func explainTargets(row func(stage, format string, args ...any), u *pool.Upstream) {
	if d := u.Config.Discover; d != nil {
		switch {
		case d.DNS != "":
			row("", "targets from the addresses of %s", d.DNS)
		case d.SRV != "":
			row("", "targets from the SRV records of %s", d.SRV)
		default:
			row("", "targets from the file %s", d.File)
		}
	}
	for _, t := range u.Targets() {
		row("", "target %s, weight %d", t.URL, t.Weight)
	}
}

func routeConfig(cfg *config.Config, name string) *config.Route {
	for i := range cfg.Routes {
		if cfg.Routes[i].Name == name {
			return &cfg.Routes[i]
		}
	}
	return &config.Route{}
}

// explainGuards tells what guards an upstream. share is how much of its adaptive
// limit the route may use.
func explainGuards(row func(stage, format string, args ...any), u *pool.Upstream, share float64) {
	if h := u.Config.Health; h != nil {
		what := "a TCP connection"
		if h.Path != "" {
			what = "GET " + h.Path
		}
		row("", "health: %s every %s within %s; down after %d failures, up after %d successes", what, h.Interval, h.Timeout, h.Unhealthy, h.Healthy)
	}
	if o := u.Config.Outlier; o != nil {
		row("", "outlier: ejected for %s after %d failures in a row, at most %s of the targets", o.Eject, o.Errors, o.MaxEjected)
	}
	if f := u.Config.FailTimeout; f > 0 {
		row("", "a target that refuses a connection is passed over for %s while there are others", f)
	}
	if n := u.Config.Panic; n > 0 {
		row("", "panic: below %s of healthy targets all are used", n)
	}
	if u.Config.SlowStart > 0 && (u.Config.Health != nil || u.Config.Outlier != nil) {
		row("", "slow start: %s from a tenth to the full share", u.Config.SlowStart)
	}
	if b := u.Config.Breaker; b != nil {
		at := b.ErrorRate.String() + " failures"
		if b.SlowRate > 0 {
			at += fmt.Sprintf(" or %s slower than %s", b.SlowRate, b.Slow)
		}
		row("", "breaker: opens for %s at %s, of at least %d requests in %s", b.Open, at, b.MinRequests, b.Window)
	}
	if c := u.Config.Concurrency; c != nil {
		row("", "concurrency: at most %d at work, %d may wait %s", c.Max, c.Queue, c.QueueTimeout)
	}
	if a := u.Config.Adaptive; a != nil {
		row("", "adaptive concurrency: %d to begin with, between %d and %d, shrinks when answers take %g times as long as at rest", a.Initial, a.Min, a.Max, a.Tolerance)
		row("", "the route's requests use up to %g%% of it", share*100)
	}
}

// explainRecover tells what a route does when its upstream fails.
func explainRecover(row func(stage, format string, args ...any), cfg *config.Config, r *proxy.Route) {
	c := routeConfig(cfg, r.Name)
	if t := c.Retry; t != nil {
		row("retry", "up to %d tries on %s, pauses up to %s doubling to %s", t.Attempts, strings.Join(t.Conditions(), ", "), t.Backoff, t.MaxBackoff)
		which := "GET, HEAD, OPTIONS, PUT and DELETE"
		if t.NonIdempotent {
			which = "every method"
		}
		row("", "%s, with bodies up to %s", which, t.MaxBody)
		if t.PerTry > 0 {
			row("", "each try has %s for its connection and the head of its answer", t.PerTry)
		}
		row("", "tries beyond the first up to %s of the requests, and %d each second", t.Budget, t.Floor)
	}
	if h := c.Hedge; h != nil {
		row("hedge", "a second target after %s", h.After)
		if c.Retry == nil {
			row("", "second tries up to 20%% of the requests, and 3 each second")
		}
	}
	for i, f := range c.Fallback {
		if i == 0 {
			row("recover", "on failures, and answers %s:", strings.Trim(strings.ReplaceAll(fmt.Sprint(r.FallbackOn), " ", ", "), "[]"))
		}
		if f.Upstream != "" {
			row("", "upstream %s", f.Upstream)
			if i < len(r.Fallbacks) && r.Fallbacks[i].Upstream != nil {
				explainTargets(row, r.Fallbacks[i].Upstream)
			}
			continue
		}
		status := f.Status
		if status == 0 {
			status = 200
		}
		row("", "answer %d, %d bytes", status, len(f.Body))
	}
}
