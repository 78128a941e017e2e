package gateway

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sluice/observe"
	"sluice/pool"
	"sluice/proxy"
)

// RouteState is a route as the admin door shows it, in the order of the file.
type RouteState struct {
	Name    string            `json:"name"`
	Host    []string          `json:"host,omitempty"`
	Path    string            `json:"path"`
	Methods []string          `json:"methods,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Query   map[string]string `json:"query,omitempty"`
	Answer  string            `json:"answer"`
}

// Routes lists the routes of the generation in use.
func (g *Gateway) Routes() any {
	list := []RouteState{}
	now := g.Current()
	for i, r := range now.routes {
		key := fmt.Sprintf("routes[%d]", i)
		s := RouteState{Name: r.Name, Host: r.Hosts, Path: r.Path, Methods: r.Methods, Answer: answerOf(r)}
		s.Headers = shownAll(now.Config, key+".match.headers", r.Headers)
		s.Query = shownAll(now.Config, key+".match.query", r.Query)
		if r.Redirect != nil && shown(now.Config, key+".redirect", r.Redirect.To) != r.Redirect.To {
			s.Answer = "redirect " + strconv.Itoa(r.Redirect.Status)
		}
		list = append(list, s)
	}
	return list
}

func answerOf(r *proxy.Route) string {
	switch {
	case r.Login != nil:
		return "authenticator"
	case r.Aggregate != nil:
		return "aggregate of " + strings.Join(r.Aggregate.Plan.Names(), ", ")
	case r.Respond != nil:
		return "respond " + strconv.Itoa(r.Respond.Status)
	case r.Redirect != nil:
		return "redirect " + strconv.Itoa(r.Redirect.Status) + " to " + r.Redirect.To
	case r.Split != nil:
		text := "split"
		for _, to := range r.Split.To {
			text += " " + to.Upstream.Name + "=" + strconv.Itoa(to.Weight)
		}
		return text
	}
	return "upstream " + r.Upstream.Name
}

// UpstreamState is an upstream as the admin door shows it.
type UpstreamState struct {
	Name    string       `json:"name"`
	Balance string       `json:"balance"`
	Guards  pool.Guards  `json:"guards"`
	Targets []pool.State `json:"targets"`
}

// Upstreams lists the upstreams of the generation in use and what their
// targets are doing.
func (g *Gateway) Upstreams() any {
	list := []UpstreamState{}
	for _, u := range g.Current().set.Upstreams() {
		s := UpstreamState{Name: u.Name, Balance: u.Config.Balance, Guards: u.Guards()}
		for _, t := range u.Targets() {
			s.Targets = append(s.Targets, t.State())
		}
		list = append(list, s)
	}
	return list
}

var (
	seriesClients   = observe.NewGaugeSeries("sluice_client_connections", "Client connections being served.")
	seriesTunnels   = observe.NewGaugeSeries("sluice_tunnels", "Upgraded connections (WebSocket and others) that are open.")
	seriesRequests  = observe.NewCounterSeries("sluice_target_requests_total", "Requests sent to a target, tries included.", "upstream", "target")
	seriesActive    = observe.NewGaugeSeries("sluice_target_requests_in_flight", "Requests that a target is working on.", "upstream", "target")
	seriesOpen      = observe.NewGaugeSeries("sluice_target_connections", "Open connections to a target.", "upstream", "target")
	seriesIdle      = observe.NewGaugeSeries("sluice_target_connections_idle", "Open connections to a target that no request uses.", "upstream", "target")
	seriesWaiting   = observe.NewGaugeSeries("sluice_target_requests_waiting", "Requests that wait for a connection to a target.", "upstream", "target")
	seriesDown      = observe.NewGaugeSeries("sluice_target_down", "1 while a target is passed over because it refused a connection.", "upstream", "target")
	seriesDials     = observe.NewCounterSeries("sluice_target_dials_total", "Connections opened to a target, failed ones included.", "upstream", "target")
	seriesFailures  = observe.NewCounterSeries("sluice_target_failures_total", "Failures of a target by reason.", "upstream", "target", "reason")
	seriesLimited   = observe.NewCounterSeries("sluice_limit_decisions_total", "Decisions of a rate limit by result; dry_run would have been refused.", "limit", "result")
	seriesLimitFull = observe.NewCounterSeries("sluice_limit_full_total", "Decisions made without a budget because the limit's table had no room.", "limit")
	seriesLimitPlan = observe.NewCounterSeries("sluice_limit_unknown_plan_total", "Requests whose claim names no plan of the limit, and is none itself.", "limit")
	seriesMirrored  = observe.NewCounterSeries("sluice_mirror_requests_total", "Copies for a shadow upstream by what became of them.", "route", "result")
	failureOfTarget = []struct {
		reason string
		count  func(*pool.Counters) uint64
	}{
		{"connect", func(c *pool.Counters) uint64 { return c.ConnectErrors.Load() }},
		{"connect_timeout", func(c *pool.Counters) uint64 { return c.ConnectTimeout.Load() }},
		{"reset", func(c *pool.Counters) uint64 { return c.Resets.Load() }},
		{"bad_answer", func(c *pool.Counters) uint64 { return c.BadAnswers.Load() }},
		{"answer_timeout", func(c *pool.Counters) uint64 { return c.AnswerTimeouts.Load() }},
		{"stale", func(c *pool.Counters) uint64 { return c.Stale.Load() }},
		{"queue_full", func(c *pool.Counters) uint64 { return c.QueueFull.Load() }},
		{"queue_timeout", func(c *pool.Counters) uint64 { return c.QueueTimeouts.Load() }},
	}
)

// collect emits what the snapshot in use knows, at every scrape.
func (g *Gateway) collect(emit observe.Emit) {
	now := g.Current()
	if now == nil {
		return
	}
	connections, tunnels := g.Engine.Counts()
	emit.Value(seriesClients, float64(connections))
	emit.Value(seriesTunnels, float64(tunnels))
	for _, u := range now.set.Upstreams() {
		collectGuards(emit, u)
		targets := u.Targets()
		for i, t := range targets {
			if slices.Contains(targets[:i], t) {
				continue // it stands there twice
			}
			s := t.State()
			emit.Value(seriesRequests, float64(s.Requests), u.Name, t.Label)
			emit.Value(seriesActive, float64(s.Active), u.Name, t.Label)
			emit.Value(seriesOpen, float64(s.Open), u.Name, t.Label)
			emit.Value(seriesIdle, float64(s.Idle), u.Name, t.Label)
			emit.Value(seriesWaiting, float64(s.Waiting), u.Name, t.Label)
			emit.Value(seriesDown, oneIf(s.Down), u.Name, t.Label)
			emit.Value(seriesUnhealthy, oneIf(s.Unhealthy), u.Name, t.Label)
			emit.Value(seriesEjected, oneIf(s.Ejected), u.Name, t.Label)
			emit.Value(seriesDials, float64(t.Counters.Dials.Load()), u.Name, t.Label)
			for _, f := range failureOfTarget {
				emit.Value(seriesFailures, float64(f.count(&t.Counters)), u.Name, t.Label, f.reason)
			}
		}
	}
	now.collectShared(emit)
	now.collectCache(emit)
	for _, m := range now.auth.Members() {
		collectCallers(emit, m)
	}
	for name, l := range now.limits {
		n := l.Stats()
		if s := now.shared[name]; s != nil {
			n = s.Stats().Stats
		}
		emit.Value(seriesLimited, float64(n.Allowed), name, "allowed")
		emit.Value(seriesLimited, float64(n.Refused), name, "refused")
		emit.Value(seriesLimited, float64(n.DryRun), name, "dry_run")
		emit.Value(seriesLimitFull, float64(n.Full), name)
		emit.Value(seriesLimitPlan, float64(l.Stats().UnknownPlan), name)
	}
	for _, r := range now.routes {
		if m := r.Mirror; m != nil {
			emit.Value(seriesMirrored, float64(m.Sent.Load()), r.Name, "answered")
			emit.Value(seriesMirrored, float64(m.Failed.Load()), r.Name, "failed")
			emit.Value(seriesMirrored, float64(m.Skipped.Load()), r.Name, "skipped")
		}
	}
}
