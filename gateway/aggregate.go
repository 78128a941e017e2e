package gateway

import (
	"maps"
	"slices"
	"strings"

	"sluice/aggregate"
	"sluice/cache"
	"sluice/config"
	"sluice/pool"
	"sluice/proxy"
	"sluice/setting"
)

// aggregates compiles the branches of a route, each of which is a route of its own
// that no request matches.
func (g *Gateway) aggregates(r *proxy.Route, c *config.Route, cfg *config.Config, set *pool.Set) error {
	if c.Aggregate == nil {
		return nil
	}
	pattern, err := proxy.ParsePattern(c.Match.Path)
	if err != nil {
		return err
	}
	// What is wrong with it was told when the configuration was checked.
	silent := new(setting.Problems)
	plan := aggregate.NewPlan(c.Branches(), c.Compose, pattern.Params(), silent, silent)
	a := &proxy.Aggregate{Plan: plan}
	shared := cfg.Cache
	shared.ForwardTags = true // the whole has the surrogate keys of its parts
	shared.Name = ""
	for _, name := range plan.Names() {
		b := c.Aggregate[name]
		branch := &config.Route{Name: branchName(c.Name, name), Priority: c.Priority, Retry: b.Retry, Hedge: b.Hedge, Cache: keyedBy(b)}
		p := &proxy.Route{
			Name: branch.Name, Path: "/*", Upstream: set.Upstream(b.Upstream), ResponseTimeout: c.Timeout.Std(),
			Stats: g.metrics.Route(branch.Name), Usual: set.Times(branch.Name),
		}
		caches(p, branch, &shared, credentialFields(r))
		g.resilience(p, branch, set)
		a.Branches = append(a.Branches, p)
		a.Timeouts = append(a.Timeouts, b.Timeout.Std())
	}
	r.Aggregate = a
	return nil
}

// keyedBy is what branch b does with the cache, with the header lines that it
// writes itself as part of the key: its target may go by them without a Vary.
func keyedBy(b config.Branch) *cache.RouteConfig {
	if b.Cache == nil {
		return nil
	}
	c := *b.Cache
	for _, name := range slices.Sorted(maps.Keys(b.Headers)) {
		if !slices.ContainsFunc(c.Key.Headers, func(h string) bool { return strings.EqualFold(h, name) }) {
			c.Key.Headers = append(c.Key.Headers[:len(c.Key.Headers):len(c.Key.Headers)], name)
		}
	}
	return &c
}

// branchName is the name of a branch in metrics.
func branchName(route, branch string) string { return route + "/" + branch }

// statsOf are the names that the routes of cfg count under.
func statsOf(routes []*proxy.Route) (names []string) {
	for _, r := range routes {
		names = append(names, r.Name)
		if r.Aggregate != nil {
			for _, b := range r.Aggregate.Branches {
				names = append(names, b.Name)
			}
		}
	}
	return names
}

// explainAggregate draws what is asked in which order.
func explainAggregate(row func(stage, format string, args ...any), c *config.Route, r *proxy.Route) {
	row("answer", "one document, made of the answers of these branches (? may be missing, <- waits for):")
	for _, line := range r.Aggregate.Plan.Draw() {
		row("", "%s", line)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Aggregate)) {
		b := c.Aggregate[name]
		within := "the route's budget"
		if b.Timeout > 0 {
			within = b.Timeout.String()
		}
		row("", "%s: %s %s of upstream %s, within %s", name, b.Method, b.Path, b.Upstream, within)
	}
}
