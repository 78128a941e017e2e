// Package gateway turns a checked configuration into what runs: it compiles
// upstreams, routes and settings into an immutable snapshot, carries over from
// the generation before what has not changed (targets with their connections
// and marks, counters, the access log), swaps the snapshot in with one atomic
// store and retires what is left over.
//
// A change comes in two steps, so that others can take part in all or nothing:
// Prepare compiles and may fail, without effect on what runs; Commit cannot
// fail. A Generation that is not committed is discarded. Methods are safe for
// concurrent use; Prepare reads certificate files and may block on disk. None
// of this is on the path of a request.
package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"sluice/auth"
	"sluice/cache"
	"sluice/config"
	"sluice/limiter"
	"sluice/observe"
	"sluice/pool"
	"sluice/proxy"
	"sluice/redis"
	"sluice/setting"
	"sluice/wire"
)

// tick is how exactly waits end.
const tick = 5 * time.Millisecond

// Gateway holds the generation in use.
type Gateway struct {
	Engine  *proxy.Engine
	metrics *observe.Metrics
	log     zerolog.Logger
	watch   *wire.Watch

	mu        sync.Mutex // guards what follows; not on the path of a request
	now       *Generation
	number    uint64
	logs      []*observe.AccessLog // every access log so far, for what they dropped
	addresses []*auth.Addresses    // lists whose files are watched
	ends      map[uint64]func()    // of what older requests may still use, by generation
	audits    []*observe.AccessLog // every audit log so far
}

// Generation is one compiled configuration.
type Generation struct {
	Config   *config.Config
	Number   uint64
	Since    time.Time
	snapshot *proxy.Snapshot
	set      *pool.Set
	access   *observe.AccessLog
	routes   []*proxy.Route
	limits   map[string]*limiter.Limit
	shared   map[string]*limiter.Shared
	redis    map[string]*redis.Client
	auth     *auth.Set
	failures *limiter.Limit
	audit    *observe.AccessLog
	cache    *cache.Cache
}

// New returns a gateway that serves nothing until the first Commit.
func New(metrics *observe.Metrics, log zerolog.Logger) *Gateway {
	g := &Gateway{metrics: metrics, log: log, watch: wire.NewWatch(tick)}
	g.Engine = proxy.NewEngine(g.watch, log)
	metrics.Collect(g.collect)
	return g
}

// Prepare compiles cfg. The error lists every mistake with its place.
func (g *Gateway) Prepare(cfg *config.Config) (_ *Generation, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := cfg.Problems()
	next := &Generation{Config: cfg}
	defer func() {
		if err != nil {
			next.closeRedis(g.now)
		}
	}()
	var old *pool.Set
	if g.now != nil {
		old = g.now.set
	}
	set, err := pool.Build(cfg.Upstreams, old, g.watch)
	if err != nil {
		p.Add("upstreams", "%v", err)
		return nil, cfg.Err(p)
	}
	next.set = set
	g.limits(cfg, next, p)
	g.callers(cfg, next, p)
	g.cached(cfg, next, p)
	next.routes = append(g.routes(cfg, next, p), g.logins(next)...)
	if len(p.List()) > 0 {
		return nil, cfg.Err(p)
	}
	table, err := proxy.NewTable(next.routes)
	if err != nil {
		place(cfg, p, err)
		return nil, cfg.Err(p)
	}
	if g.now != nil && g.now.Config.Log.Access == cfg.Log.Access {
		next.access = g.now.access
	} else if next.access, err = observe.OpenAccessLog(cfg.Log.Access, g.log); err != nil {
		p.Add("log.access.output", "expected an output that can be written: %v", err)
		return nil, cfg.Err(p)
	}
	if g.now != nil && g.now.Config.Log.Audit == cfg.Log.Audit {
		next.audit = g.now.audit
	} else if next.audit, err = observe.OpenAuditLog(cfg.Log.Audit, g.log); err != nil {
		p.Add("log.audit.output", "expected an output that can be written: %v", err)
		if g.now == nil || next.access != g.now.access {
			_ = next.access.Close()
		}
		return nil, cfg.Err(p)
	}
	next.snapshot = &proxy.Snapshot{
		Table:    table,
		Settings: settings(cfg),
		Access:   next.access,
		Audit:    next.audit,
		Unrouted: g.metrics.Route(observe.Unrouted),
		Cache:    next.cache,
	}
	next.snapshot.Settings.Failures = next.failures
	next.snapshot.Settings.Identity = identityHeaders(next.auth)
	next.snapshot.Settings.SecretQuery = secretQuery(next.auth)
	return next, nil
}

// place finds where in the file a mistake of the route table belongs.
func place(cfg *config.Config, p *setting.Problems, err error) {
	key := func(name, under string) string {
		for i, r := range cfg.Routes {
			if r.Name == name {
				return setting.Join(fmt.Sprintf("routes[%d]", i), under)
			}
		}
		return "routes"
	}
	var conflict *proxy.ConflictError
	var route *proxy.RouteError
	switch {
	case errors.As(err, &conflict):
		p.Add(key(conflict.B, "match"), "%v", err)
	case errors.As(err, &route):
		p.Add(key(route.Route, route.Key), "%v", route.Err)
	default:
		p.Add("routes", "%v", err)
	}
}

// oldLogFor is how long a replaced access log stays open for requests that
// began under it, and mostOldLogs how many do: each has buffers of some MiB.
const (
	oldLogFor   = 30 * time.Second
	mostOldLogs = 4
)

// Commit puts next in use for all requests that begin from now on.
func (g *Gateway) Commit(next *Generation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.now
	g.number++
	next.Number, next.Since = g.number, time.Now()
	var oldSet *pool.Set
	var oldAuth *auth.Set
	if old != nil {
		oldSet, oldAuth = old.set, old.auth
	}
	next.set.Start(oldSet)
	next.auth.Start(oldAuth)
	g.startLimits(next, old)
	g.startAddresses(next)
	g.startCache(next, old)
	g.Engine.Publish(next.snapshot)
	g.now = next
	g.metrics.Retain(statsOf(next.routes))
	g.metrics.ConfigApplied(next.Number, next.Config.Hash(), next.Since)
	if old == nil || old.access != next.access || old.audit != next.audit {
		if old == nil || old.access != next.access {
			g.logs = append(g.logs[:len(g.logs):len(g.logs)], next.access)
		}
		if old == nil || old.audit != next.audit {
			g.audits = append(g.audits[:len(g.audits):len(g.audits)], next.audit)
		}
		logs := slices.Concat(g.logs, g.audits)
		g.metrics.LogDropped(func() (sum uint64) {
			for _, l := range logs {
				sum += l.Dropped()
			}
			return sum
		})
	}
	if old == nil {
		return
	}
	old.set.Retire(next.set)
	// Requests of the old generation may still be asking its providers.
	g.afterRequests(func() {
		old.auth.Retire(next.auth)
		old.retireCache(next)
	})
	old.retireLimits(next)
	old.retireAddresses(next)
	if old.audit != next.audit {
		time.AfterFunc(oldLogFor, func() { _ = old.audit.Close() })
	}
	if old.access != next.access {
		time.AfterFunc(oldLogFor, func() { _ = old.access.Close() })
		if n := len(g.logs) - 2 - mostOldLogs; n >= 0 {
			go g.logs[n].Close() // closed by its timer already, unless reloads are that frequent
		}
	}
}

// afterRequests runs end once the requests of the generation before have had their
// time, or at Close. The caller holds g.mu.
func (g *Gateway) afterRequests(end func()) {
	if g.ends == nil {
		g.ends = map[uint64]func(){}
	}
	number := g.number
	g.ends[number] = end
	time.AfterFunc(oldLogFor, func() {
		g.mu.Lock()
		due := g.ends[number]
		delete(g.ends, number)
		g.mu.Unlock()
		if due != nil {
			due()
		}
	})
}

// Discard gives back what a generation that is not put in use holds.
func (g *Gateway) Discard(next *Generation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now == nil || next.access != g.now.access {
		_ = next.access.Close()
	}
	if g.now == nil || next.audit != g.now.audit {
		_ = next.audit.Close()
	}
	next.closeRedis(g.now)
}

// Current is the generation in use, nil before the first Commit.
func (g *Gateway) Current() *Generation {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

// ReopenLogs opens the access log's file again, after it was moved away.
func (g *Gateway) ReopenLogs() error {
	now := g.Current()
	return errors.Join(now.access.Reopen(), now.audit.Reopen())
}

// Close ends what runs besides requests, after Engine.Drain.
func (g *Gateway) Close() {
	if now := g.Current(); now != nil {
		now.set.Retire(nil)
		now.auth.Retire(nil)
		now.retireCache(nil) // what it has to tell Redis comes before that is closed
		now.retireLimits(nil)
		now.retireAddresses(nil)
	}
	g.mu.Lock()
	logs := slices.Concat(g.logs, g.audits)
	ends := g.ends
	g.ends = nil
	g.mu.Unlock()
	for _, end := range ends {
		end()
	}
	for _, l := range logs { // those too that wait for the end of older requests
		_ = l.Close()
	}
	g.watch.Stop()
}

// routes compiles the routes of cfg, whose references have been checked.
func (g *Gateway) routes(cfg *config.Config, next *Generation, p *setting.Problems) []*proxy.Route {
	set := next.set
	list := make([]*proxy.Route, 0, len(cfg.Routes))
	for i := range cfg.Routes {
		c := &cfg.Routes[i]
		r := &proxy.Route{
			Name: c.Name, Hosts: c.Match.Host, Path: c.Match.Path, Methods: c.Match.Methods,
			Headers: c.Match.Headers, Query: c.Match.Query,
			Upstream: set.Upstream(c.Upstream),
			Request:  edit(c.Request.Headers), Response: edit(c.Response.Headers),
			RawPath: c.Path == "raw", Upgrade: c.Upgrade,
			MaxBody:         int64(cfg.Server.MaxBody),
			ResponseTimeout: c.Timeout.Std(),
			Stats:           g.metrics.Route(c.Name),
		}
		if c.MaxBody != nil {
			r.MaxBody = int64(*c.MaxBody)
		}
		if s := c.Split; s != nil {
			r.Split = &proxy.Split{Cookie: s.Cookie, Header: s.Header}
			for _, to := range s.To {
				r.Split.To = append(r.Split.To, proxy.SplitTo{Upstream: set.Upstream(to.Upstream), Weight: to.Weight})
			}
		}
		if d := c.Redirect; d != nil {
			r.Redirect = &proxy.Redirect{Status: d.Status, To: d.To}
		}
		if a := c.Respond; a != nil {
			r.Respond = &proxy.Respond{Status: a.Status, Body: a.Body, Type: a.Type, Headers: a.Headers}
		}
		if w := c.Rewrite; w != nil {
			r.Rewrite = proxy.Rewrite{Path: w.Path, StripPrefix: w.StripPrefix, AddPrefix: w.AddPrefix, Host: w.Host}
		}
		for _, name := range c.Rate {
			r.Limits = append(r.Limits, proxy.RateLimit{Limit: next.limits[name], Shared: next.shared[name]})
		}
		g.policy(r, c, next, p.At(fmt.Sprintf("routes[%d]", i)))
		caches(r, c, &cfg.Cache, credentialFields(r))
		if err := g.aggregates(r, c, cfg, set); err != nil {
			p.Add(fmt.Sprintf("routes[%d].match.path", i), "%v", err)
		}
		r.Usual = set.Times(c.Name)
		g.resilience(r, c, set)
		if m := c.Mirror; m != nil {
			r.Mirror = &proxy.Mirror{Upstream: set.Upstream(m.Upstream), Share: float64(m.Share), MaxBody: int64(m.MaxBody)}
		}
		list = append(list, r)
	}
	return list
}

// shares is how much of an adaptive limit requests of a priority may use.
var shares = map[string]float64{"low": 0.7, "normal": 0.9, "high": 1}

// resilience compiles what a route does about failures.
func (g *Gateway) resilience(r *proxy.Route, c *config.Route, set *pool.Set) {
	r.Budget, r.Share = c.Budget.Std(), shares[c.Priority]
	r.Bulkhead = pool.NewBulkhead(c.Limit)
	if t := c.Retry; t != nil {
		r.Retry = &proxy.Retry{
			Attempts: t.Attempts, PerTry: t.PerTry.Std(), Backoff: t.Backoff.Std(), MaxBackoff: t.MaxBackoff.Std(),
			MaxBody: int64(t.MaxBody), NonIdempotent: t.NonIdempotent,
		}
		for _, what := range t.Conditions() {
			switch what {
			case "connect":
				r.Retry.Connect = true
			case "reset":
				r.Retry.Reset = true
			case "timeout":
				r.Retry.Timeout = true
			default:
				if status, err := strconv.Atoi(what); err == nil {
					r.Retry.Statuses = append(r.Retry.Statuses, status)
				}
			}
		}
		r.Extra = pool.NewExtra(float64(t.Budget), t.Floor)
	}
	if h := c.Hedge; h != nil {
		r.Hedge = &proxy.Hedge{}
		if p, ok := strings.CutPrefix(h.After, "p"); ok {
			r.Hedge.Percentile, _ = strconv.Atoi(p)
		} else if d, err := setting.ParseDuration(h.After); err == nil {
			r.Hedge.After = d.Std()
		}
		if r.Extra == nil {
			r.Extra = pool.NewExtra(0.2, 3)
		}
	}
	g.carryOver(r, c)
	for i, f := range c.Fallback {
		if i == 0 {
			if r.FallbackOn = f.On; len(f.On) == 0 {
				r.FallbackOn = []int{502, 503, 504}
			}
		}
		b := proxy.Fallback{Upstream: set.Upstream(f.Upstream)}
		if b.Upstream == nil {
			status := f.Status
			if status == 0 {
				status = 200
			}
			b.Respond = &proxy.Respond{Status: status, Body: f.Body, Type: f.Type, Headers: f.Headers}
		}
		r.Fallbacks = append(r.Fallbacks, b)
	}
}

// carryOver keeps what a route of the same name has in use and does not change:
// the places that its requests have taken, and what is left of its extra tries.
func (g *Gateway) carryOver(r *proxy.Route, c *config.Route) {
	if g.now == nil {
		return
	}
	i := g.indexOf(r.Name)
	if i < 0 {
		return
	}
	old, was := g.now.routes[i], &g.now.Config.Routes[i]
	if reflect.DeepEqual(was.Limit, c.Limit) {
		r.Bulkhead = old.Bulkhead
	}
	if old.Extra == nil || r.Extra == nil || (was.Retry == nil) != (c.Retry == nil) {
		return
	}
	if c.Retry == nil || was.Retry.Budget == c.Retry.Budget && was.Retry.Floor == c.Retry.Floor {
		r.Extra = old.Extra
	}
}

func edit(h config.HeaderOps) proxy.Edit {
	return proxy.Edit{Set: h.Set, Add: h.Add, Remove: h.Remove}
}

func settings(cfg *config.Config) proxy.Settings {
	s, f := &cfg.Server, &cfg.Forwarded
	out := proxy.Settings{
		Head:          wire.Limits{Bytes: int(s.MaxHeader), Fields: s.MaxHeaderFields},
		MaxBody:       int64(s.MaxBody),
		HeaderTimeout: s.HeaderTimeout.Std(), IdleTimeout: s.IdleTimeout.Std(),
		BodyTimeout: s.BodyTimeout.Std(), WriteTimeout: s.WriteTimeout.Std(),
		MaxRequests: s.MaxRequests,
		XForwarded:  f.XForwarded, Forwarded: f.Forwarded, Via: f.Via,
		Pseudonym: f.Pseudonym, RequestID: f.RequestID, Traceparent: f.Traceparent, Budget: f.Budget, Underscores: f.Underscores,
	}
	for _, text := range f.Trusted {
		if p, err := netip.ParsePrefix(text); err == nil {
			out.Trusted = append(out.Trusted, p.Masked())
		} else if a, err := netip.ParseAddr(text); err == nil {
			out.Trusted = append(out.Trusted, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}
