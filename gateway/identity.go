package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sluice/auth"
	"sluice/config"
	"sluice/limiter"
	"sluice/observe"
	"sluice/proxy"
	"sluice/setting"
)

// callers compiles who may call: the authenticators, and what slows those who
// guess. Mistakes go to p.
func (g *Gateway) callers(cfg *config.Config, next *Generation, p *setting.Problems) {
	var old *auth.Set
	if g.now != nil {
		old = g.now.auth
	}
	next.auth = auth.Build(cfg.Auth, old, auth.Env{Log: g.log}, p.At("auth"))
	if c, ok := cfg.Failures.Limit(); ok {
		var was *limiter.Limit
		if g.now != nil {
			was = g.now.failures
		}
		next.failures = limiter.New("auth_failures", c, was)
	}
}

// policy compiles who may call a route.
func (g *Gateway) policy(r *proxy.Route, c *config.Route, next *Generation, p *setting.Problems) {
	if c.CORS != nil {
		cors, err := auth.NewCORS(c.CORS)
		if err != nil {
			placeField(p.At("cors"), err)
		}
		r.CORS = cors
	}
	if c.IP != nil {
		var old *auth.Addresses
		if i := g.indexOf(c.Name); i >= 0 {
			old = g.now.routes[i].Addresses
		}
		list, err := auth.NewAddresses(c.IP, old, auth.Env{Log: g.log})
		if err != nil {
			placeField(p.At("ip"), err)
		}
		r.Addresses = list
	}
	if c.Auth == nil {
		return
	}
	policy := &auth.Policy{Optional: c.Auth.Optional}
	for _, text := range c.Auth.Any {
		var group auth.Group
		for _, name := range strings.Split(text, "+") {
			if m := next.auth.Member(name); m != nil {
				group = append(group, m)
			}
		}
		policy.Any = append(policy.Any, group)
	}
	if c.Require != nil {
		q, err := auth.NewRequirement(c.Require)
		if err != nil {
			placeField(p.At("require"), err)
		}
		policy.Require = q
	}
	r.Auth = policy.Ready()
}

// secretQuery are the query parameters in which credentials may stand.
func secretQuery(set *auth.Set) (names []string) {
	for _, m := range set.Members() {
		names = append(names, m.Places().Query...)
		if m.Kind() == "oidc" {
			names = append(names, "code", "state") // of the callback
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// placeField adds err at the key that it names.
func placeField(p *setting.Problems, err error) {
	var at *auth.FieldError
	if errors.As(err, &at) {
		p.Add(at.Key, "%v", at.Err)
		return
	}
	p.Add("", "%v", err)
}

// indexOf is the place of a route of this name in the generation in use, or -1.
func (g *Gateway) indexOf(name string) int {
	if g.now == nil {
		return -1
	}
	return slices.IndexFunc(g.now.routes, func(r *proxy.Route) bool { return r.Name == name })
}

// startAddresses watches the files of the lists that were not in use before.
func (g *Gateway) startAddresses(next *Generation) {
	var lists []*auth.Addresses
	for _, r := range next.routes {
		if r.Addresses == nil {
			continue
		}
		if lists = append(lists, r.Addresses); !slices.Contains(g.addresses, r.Addresses) {
			r.Addresses.Start()
		}
	}
	g.addresses = lists
}

// retireAddresses ends the watch of the lists that next does not go on with.
func (g *Generation) retireAddresses(next *Generation) {
	for _, r := range g.routes {
		if r.Addresses == nil {
			continue
		}
		if next == nil || !slices.ContainsFunc(next.routes, func(n *proxy.Route) bool { return n.Addresses == r.Addresses }) {
			r.Addresses.Stop()
		}
	}
}

// logins are routes for the paths that authenticators answer themselves.
func (g *Gateway) logins(next *Generation) (list []*proxy.Route) {
	for _, m := range next.auth.Members() {
		h, ok := m.Authenticator.(auth.Handler)
		if !ok {
			continue
		}
		for i, path := range h.Paths() {
			name := fmt.Sprintf("%s.login.%d", m.Name(), i)
			list = append(list, &proxy.Route{
				Name: name, Path: path, Login: h, Stats: g.metrics.Route(name),
			})
		}
	}
	return list
}

// identityHeaders are the headers that tell targets of the caller. Those that
// are credentials on other routes are only dropped where they are replaced.
func identityHeaders(set *auth.Set) (names []string) {
	for _, m := range set.Members() {
		for _, h := range m.Headers() {
			names = append(names, h.Name)
		}
		if a, ok := m.Authenticator.(auth.Copier); ok {
			names = append(names, a.CopiedHeaders()...)
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		return strings.EqualFold(n, "Authorization") || strings.EqualFold(n, "Cookie")
	})
	slices.Sort(names)
	return slices.Compact(names)
}

var (
	seriesCallers    = observe.NewCounterSeries("sluice_auth_decisions_total", "Decisions of an authenticator by result.", "authenticator", "result")
	seriesRemembered = observe.NewGaugeSeries("sluice_auth_remembered", "Proven credentials in memory.", "authenticator")
	seriesAuthEvents = observe.NewCounterSeries("sluice_auth_events_total", "What else happens in an authenticator.", "authenticator", "event")
)

func collectCallers(emit observe.Emit, m *auth.Member) {
	c := &m.Counts
	for result, n := range map[string]*observe.Counter{
		"recalled": &c.Recalled, "verified": &c.Verified, "refused": &c.Refused,
		"unavailable": &c.Unavailable, "answered": &c.Answered,
	} {
		emit.Value(seriesCallers, float64(n.Load()), m.Name(), result)
	}
	s, ok := m.Authenticator.(auth.Stater)
	if !ok {
		return
	}
	emit.Value(seriesRemembered, float64(s.State().Remembered), m.Name())
	for event, n := range s.Counts() {
		emit.Value(seriesAuthEvents, float64(n), m.Name(), event)
	}
}

// Authenticators lists the authenticators of the generation in use and what they
// hold.
func (g *Gateway) Authenticators() any {
	list := []auth.State{}
	for _, m := range g.Current().auth.Members() {
		s := auth.State{}
		if a, ok := m.Authenticator.(auth.Stater); ok {
			s = a.State()
		}
		s.Name, s.Kind = m.Name(), m.Kind()
		list = append(list, s)
	}
	return list
}
