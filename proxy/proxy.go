// Package proxy is the life of a request: one connection after another is
// read (client.go), and every request goes down one function (serve.go) that
// reads like a table of contents: begin, match, admit, limits, preflight,
// identify, lookup, answer, recover, finish. docs/request.md draws the same stages under
// the same names.
//
// An Engine serves connections; what it does with a request is said by the
// Snapshot that is current when the request begins, and by it alone to the
// request's end. Routes are found by table.go, the target is spoken to by
// forward.go, bodies run through body.go, upgraded connections through
// tunnel.go. What is answered from memory, and how it gets there, is in lookup.go,
// keep.go, stored.go and refresh.go; one answer is made of several in aggregate.go. Who calls is asked by identify.go, and what of a request is a
// credential, which neither targets nor logs get to see, is in credential.go.
//
// What may block: reading from and writing to sockets, waiting for a
// connection of the pool, for the provider of a credential that is not
// remembered, for the Redis of a shared limit. A forwarded request whose body is small allocates
// nothing; a body that is streamed costs a fixed buffer, whatever its size.
package proxy

import (
	"context"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"sluice/auth"
	"sluice/cache"
	"sluice/encode"
	"sluice/limiter"
	"sluice/observe"
	"sluice/pool"
	"sluice/wire"
)

// Snapshot is one generation of settings, compiled. It is immutable.
type Snapshot struct {
	Table    *Table
	Settings Settings
	Access   *observe.AccessLog  // nil for none
	Audit    *observe.AccessLog  // of refusals, nil for none
	Unrouted *observe.RouteStats // counts requests that no route matched
	Cache    *cache.Cache        // nil when no route caches
}

// Settings are the bounds and habits that hold for every route.
type Settings struct {
	Head           wire.Limits
	MaxBody        int64 // 0 is without bound
	HeaderTimeout  time.Duration
	IdleTimeout    time.Duration
	BodyTimeout    time.Duration
	WriteTimeout   time.Duration
	MaxRequests    int // on one connection, 0 is without bound
	Trusted        []netip.Prefix
	XForwarded     bool
	Forwarded      bool
	Via            bool
	Pseudonym      string
	RequestID      string // header name, "" for none
	Traceparent    bool
	Underscores    bool           // forward field names that have one
	Failures       *limiter.Limit // of refused credentials by address, nil for none
	Identity       []string       // headers that tell targets of the caller: no client sends them
	identity       nameSet
	SecretQuery    []string // query parameters that no log shows
	secrets        credentials
	failurePause   string // seconds until an address that is slowed may try again
	Budget         string // header that carries what is left of a budget, in ms; "" for none
	requestIDField bool   // RequestID is X-Request-Id, which the parser knows
}

// Engine serves connections. One Engine lives as long as the process.
type Engine struct {
	current  atomic.Pointer[Snapshot]
	watch    *wire.Watch
	log      zerolog.Logger
	draining atomic.Bool
	drainAt  atomic.Int64
	live     atomic.Int64 // connections being served
	nobodies atomic.Int64 // of these, requests of no connection
	tunnels  atomic.Int64
	flights  flights       // that no client waits for
	next     atomic.Uint32 // spreads connections over shards
}

// NewEngine makes an engine that serves nothing until Publish.
func NewEngine(watch *wire.Watch, log zerolog.Logger) *Engine {
	return &Engine{watch: watch, log: log}
}

// Publish makes s the snapshot of all requests that begin from now on.
func (e *Engine) Publish(s *Snapshot) {
	s.Settings.identity = newNameSet(s.Settings.Identity)
	s.Settings.secrets.query = s.Settings.SecretQuery
	if l := s.Settings.Failures; l != nil {
		s.Settings.failurePause = strconv.Itoa(l.Pause())
	}
	s.Settings.requestIDField = wire.KindOf([]byte(s.Settings.RequestID)) == wire.XRequestID
	e.current.Store(s)
}

// Counts tells how many client connections and tunnels are open.
func (e *Engine) Counts() (connections, tunnels int64) {
	return e.live.Load() - e.nobodies.Load(), e.tunnels.Load()
}

// lingerIdle is how long, once the end has begun, an idle connection is still
// read from: a request that the client had already sent is answered.
const lingerIdle = 500 * time.Millisecond

// Drain ends the engine's work: answers say that the connection closes, idle
// connections are closed, and requests and tunnels in flight are waited for
// until ctx ends; then they are cut. Copies for a shadow upstream are cut when
// the last client is gone. It returns the number of clients that was cut.
//
// A connection that was accepted before the doors closed may come to ServeConn
// after Drain has returned; whoever counts connections calls it again.
func (e *Engine) Drain(ctx context.Context) int {
	e.drainAt.Store(wire.Nanotime())
	e.draining.Store(true)
	defer e.flights.cut()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	cut := 0
	for late := ctx.Done(); e.live.Load() > 0; {
		select {
		case <-late:
			late = nil
			e.eachClient(func(c *client) {
				if !c.nobody {
					cut++
				}
				c.cut()
			})
		case <-tick.C:
			if late == nil {
				// What stood in a queue then has come to its turn now.
				e.eachClient((*client).cut)
			} else if wire.Nanotime()-e.drainAt.Load() >= int64(lingerIdle) {
				e.eachClient((*client).endIdle)
			}
		}
	}
	return cut
}

func (e *Engine) eachClient(f func(*client)) {
	e.watch.Each(func(w wire.Waiter) {
		if c, ok := w.(*client); ok {
			f(c)
		}
	})
}

// Route is what is done with the requests that it matches. The exported fields
// are set before NewTable and only read after.
type Route struct {
	Name    string
	Hosts   []string // none is any
	Path    string
	Methods []string // none is any
	Headers map[string]string
	Query   map[string]string

	// Exactly one of these says what the answer is.
	Upstream  *pool.Upstream
	Split     *Split
	Redirect  *Redirect
	Respond   *Respond
	Login     auth.Handler
	Aggregate *Aggregate

	Addresses *auth.Addresses // nil lets all pass
	CORS      *auth.CORS
	Auth      *auth.Policy // nil asks nobody

	Compress  *encode.Policy // nil compresses nothing
	Cache     *cache.Policy  // nil caches nothing
	CacheWait time.Duration  // for another request's answer, 0 is not at all

	Rewrite         Rewrite
	Mirror          *Mirror
	Request         Edit
	Response        Edit
	RawPath         bool
	Upgrade         bool
	MaxBody         int64 // 0 is without bound
	ResponseTimeout time.Duration
	Budget          time.Duration // for everything, 0 is without
	Limits          []RateLimit
	Usual           *pool.Times // how long answers to its requests take
	Retry           *Retry
	Hedge           *Hedge
	Extra           *pool.Extra // bounds both; set when either is
	Fallbacks       []Fallback
	FallbackOn      []int          // statuses of answers that fallbacks stand in for
	Share           float64        // of the upstream's adaptive limit, by priority; up to 1
	Bulkhead        *pool.Bulkhead // nil for none
	Stats           *observe.RouteStats

	order            int
	name             []byte
	pattern          *Pattern
	headers          []predicate
	query            []predicate
	values           bool        // some template needs the path's parameters
	early, late      []RateLimit // Limits, by whether they must know who calls
	credentials      credentials
	hidesCredentials bool
}

// compile prepares what serving the route needs.
func (r *Route) compile() (err error) {
	r.name = []byte(r.Name)
	if r.pattern, err = ParsePattern(r.Path); err != nil {
		return &RouteError{r.Name, "match.path", err}
	}
	if r.headers, err = newPredicates(r.Headers); err != nil {
		return &RouteError{r.Name, "match.headers", err}
	}
	if r.query, err = newPredicates(r.Query); err != nil {
		return &RouteError{r.Name, "match.query", err}
	}
	template := func(key, text string) *Template {
		if text == "" || err != nil {
			return nil
		}
		t, e := ParseTemplate(text, r.pattern.params, strings.HasSuffix(key, "headers"))
		if e != nil {
			err = &RouteError{r.Name, key, e}
			return nil
		}
		for _, p := range t.parts {
			r.values = r.values || p.param >= 0
		}
		return t
	}
	r.Rewrite.path = template("rewrite.path", r.Rewrite.Path)
	r.Rewrite.host = template("rewrite.host", r.Rewrite.Host)
	if r.Redirect != nil {
		r.Redirect.to = template("redirect.to", r.Redirect.To)
	}
	r.Request.compile("request.headers", template)
	r.Response.compile("response.headers", template)
	if r.Respond != nil {
		r.Respond.compile()
	}
	for i := range r.Fallbacks {
		if f := r.Fallbacks[i].Respond; f != nil {
			f.compile()
		}
	}
	if r.Split != nil {
		r.Split.compile()
	}
	r.orderLimits()
	if r.Auth != nil {
		r.credentials, r.hidesCredentials = newCredentials(r.Auth.Places()), true
	}
	r.values = r.values || r.Aggregate != nil
	if r.Aggregate != nil && err == nil {
		err = r.Aggregate.compile()
	}
	return err
}

// orderLimits divides the limits into those that are asked before anybody is, and
// the others. Quotas come last of all: what another limit refuses must not use up
// a caller's month.
func (r *Route) orderLimits() {
	r.early, r.late = nil, nil
	var quotas []RateLimit
	for _, l := range r.Limits {
		switch {
		case l.Kind() == limiter.ByQuota:
			quotas = append(quotas, l)
		case l.NeedsIdentity():
			r.late = append(r.late, l)
		default:
			r.early = append(r.early, l)
		}
	}
	r.late = append(r.late, quotas...)
}

// RouteError is a mistake in a route: which, under what key, and what.
type RouteError struct {
	Route, Key string
	Err        error
}

func (e *RouteError) Error() string { return "route " + e.Route + ": " + e.Key + ": " + e.Err.Error() }

// Unwrap returns the mistake itself.
func (e *RouteError) Unwrap() error { return e.Err }

// shardOf spreads connections over per-core structures.
func (e *Engine) shardOf() uint32 { return e.next.Add(1) % uint32(runtime.GOMAXPROCS(0)) }
