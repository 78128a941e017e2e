// Package admin is the private door: health, readiness, metrics, the state of
// the gateway, reload and profiles, over plain HTTP for operators and probes.
//
// New takes plain functions, so that this package knows nothing of what it
// shows; an endpoint whose function is nil does not exist. Listen binds, Serve
// answers until Shutdown. There is no authentication: the door belongs on
// loopback or a private network, and what it shows holds no secrets because
// the functions give none. Web pages are kept out all the same: a Host that is
// a foreign name (DNS rebinding) is refused, and so is a POST or a profile
// from another site. Mistakes are answered with application/problem+json.
//
// Nothing here is on the path of a request to the gateway. All of it may
// allocate; handlers block for as long as their functions do.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"

	"sluice/observe"
)

// Bounds of a client. Operators and probes need little.
const (
	maxHead        = 16 << 10
	maxBody        = 4 << 10
	maxConnections = 256
	readTimeout    = 5 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = 90 * time.Second
	scrapeTimeout  = 20 * time.Second
	maxScrapes     = 4
)

// Options are what the door shows. The functions are called from many
// goroutines at once; a nil one leaves its endpoint out.
type Options struct {
	Address string   // host:port; a host that is a name is accepted as Host
	Hosts   []string // further names that are accepted as Host
	Build   observe.Build
	Log     zerolog.Logger

	Ready     func() error           // nil, or why no traffic should come here
	Metrics   prometheus.Gatherer    //
	Config    func() ([]byte, error) // YAML without secrets
	Routes    func() any             // becomes JSON
	Upstreams func() any             // becomes JSON
	Callers   func() any             // becomes JSON
	Cache     func() any             // becomes JSON
	// Purge ends what is stored; the error's text goes to the caller.
	Purge  func(scope, value string, soft bool) error
	Reload func() error // the error's text goes to the caller
	Pprof  bool         // serve /debug/pprof/
}

// Server is the door. Its methods are safe for concurrent use.
type Server struct {
	address   string
	hosts     hostNames
	build     observe.Build
	log       zerolog.Logger
	endpoints []endpoint
	http      fasthttp.Server

	mu       sync.Mutex
	listener net.Listener
	closed   bool
}

// endpoint is one line of the index page.
type endpoint struct {
	method  string // GET, which includes HEAD, or POST
	path    string // exact, or a prefix when it ends in a slash
	help    string
	anyHost bool // for probes that send a Host of their own making
	ownSite bool // costs so much that no page of another site may ask, by GET either
	serve   fasthttp.RequestHandler
}

// New returns a door that is still closed.
func New(o Options) *Server {
	s := &Server{address: o.Address, hosts: newHostNames(o.Address, o.Hosts), build: o.Build, log: o.Log}
	s.endpoints = s.table(o)
	s.http = fasthttp.Server{
		Handler:                      s.serve,
		ErrorHandler:                 refuseMessage,
		NoDefaultServerHeader:        true,
		ReadBufferSize:               maxHead,
		MaxRequestBodySize:           maxBody,
		Concurrency:                  maxConnections,
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		CloseOnShutdown:              true,
		DisablePreParseMultipartForm: true,
		SecureErrorLogMessage:        true,
		Logger:                       quiet{o.Log},
	}
	return s
}

// table lists what there is, in the order of the index page.
func (s *Server) table(o Options) []endpoint {
	all := []endpoint{
		{method: "GET", path: "/healthz", help: "200 while the process lives", anyHost: true, serve: healthz},
		{method: "GET", path: "/readyz", help: "200 when traffic may come, else 503 with the reason", anyHost: true, serve: readyz(o.Ready)},
		{method: "GET", path: "/version", help: "what runs", serve: func(ctx *fasthttp.RequestCtx) { writeJSON(ctx, s.build) }},
	}
	add := func(is bool, e endpoint) {
		if is {
			all = append(all, e)
		}
	}
	add(o.Metrics != nil, endpoint{method: "GET", path: "/metrics", help: "Prometheus metrics", serve: s.metrics(o.Metrics)})
	add(o.Config != nil, endpoint{method: "GET", path: "/config", help: "the configuration in use, secrets hidden", serve: s.config(o.Config)})
	add(o.Routes != nil, endpoint{method: "GET", path: "/routes", help: "the routes in the order of the file", serve: showJSON(o.Routes)})
	add(o.Upstreams != nil, endpoint{method: "GET", path: "/upstreams", help: "the upstreams and the state of their targets", serve: showJSON(o.Upstreams)})
	add(o.Callers != nil, endpoint{method: "GET", path: "/auth", help: "the authenticators and what they hold", serve: showJSON(o.Callers)})
	add(o.Cache != nil, endpoint{method: "GET", path: "/cache", help: "how much is stored", serve: showJSON(o.Cache)})
	add(o.Purge != nil, endpoint{method: "POST", path: "/cache/purge", help: "end what is stored: ?url=, ?prefix=, ?tag= (each any number of times) or ?all, with &soft to make it stale only", serve: s.purge(o.Purge)})
	add(o.Reload != nil, endpoint{method: "POST", path: "/reload", help: "read the configuration again: 200, or 422 with the mistakes", serve: s.reload(o.Reload)})
	add(o.Pprof, endpoint{method: "GET", path: "/debug/pprof/", help: "profiles of the process", ownSite: true, serve: profile})
	page := index(s.build, all)
	return append(all, endpoint{method: "GET", path: "/", help: "this page", serve: page})
}

// Listen binds the address. It warns when others than this machine can reach it.
func (s *Server) Listen() error {
	l, err := net.Listen("tcp", s.address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("admin.address: %s is in use by another process: %w", s.address, err)
	case err != nil:
		return fmt.Errorf("admin.address: cannot listen on %s, expected host:port of this machine: %w", s.address, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil || s.closed {
		return errors.Join(errors.New("admin: Listen may be called once, and not after Shutdown"), l.Close())
	}
	s.listener = l
	if at, ok := l.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() {
		s.log.Warn().Stringer("address", at).Msg("admin.address is not loopback: whoever reaches it can read the state and reload")
	}
	return nil
}

// Addr is where the door is, nil before Listen.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Serve answers until Shutdown, which makes it return nil. Listen comes first.
func (s *Server) Serve() error {
	s.mu.Lock()
	l, closed := s.listener, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return nil
	case l == nil:
		return errors.New("admin: Serve needs Listen first")
	}
	err := s.http.Serve(l)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	return err
}

// Shutdown closes the door and waits for answers under way until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	l, already := s.listener, s.closed
	s.closed = true
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	if !already {
		// fasthttp closes it too, but only once Serve has taken it over.
		if err := l.Close(); err != nil {
			return fmt.Errorf("admin: cannot close: %w", err)
		}
	}
	if err := s.http.ShutdownWithContext(ctx); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("admin: answers were still under way: %w", err)
	}
	return nil
}

// serve is the life of an admin request.
func (s *Server) serve(ctx *fasthttp.RequestCtx) {
	defer s.recover(ctx)
	guard(ctx)
	e, found := s.find(string(ctx.Path()))
	if !found {
		problem(ctx, fasthttp.StatusNotFound, "not-found", "GET / lists what there is here")
		return
	}
	if !e.anyHost && !s.hosts.accept(string(ctx.Request.Header.Host())) {
		problem(ctx, fasthttp.StatusMisdirectedRequest, "host-not-accepted",
			"expected a Host that is an IP address, localhost, this machine's name or the name in admin.address")
		return
	}
	if method := string(ctx.Method()); method != e.method && (method != "HEAD" || e.method != "GET") {
		allow := e.method
		if allow == "GET" {
			allow = "GET, HEAD"
		}
		ctx.Response.Header.Set("Allow", allow)
		problem(ctx, fasthttp.StatusMethodNotAllowed, "method-not-allowed", "expected "+allow)
		return
	}
	if fromAnotherSite(ctx, e.ownSite) {
		problem(ctx, fasthttp.StatusForbidden, "cross-site", "a page of another site may not ask for this")
		return
	}
	e.serve(ctx)
}

func (s *Server) find(path string) (endpoint, bool) {
	for _, e := range s.endpoints {
		if e.path == path || len(e.path) > 1 && e.path[len(e.path)-1] == '/' && len(path) > len(e.path) && path[:len(e.path)] == e.path {
			return e, true
		}
	}
	return endpoint{}, false
}

// recover keeps a defect in what the door shows from ending the gateway.
func (s *Server) recover(ctx *fasthttp.RequestCtx) {
	if r := recover(); r != nil {
		s.log.Error().Interface("panic", r).Str("path", string(ctx.Path())).Bytes("stack", debug.Stack()).Msg("BUG: admin endpoint panicked")
		problem(ctx, fasthttp.StatusInternalServerError, "internal", "the process's log has the reason")
	}
}

func healthz(ctx *fasthttp.RequestCtx) { writeText(ctx, "alive\n") }

func readyz(ready func() error) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		if ready != nil {
			if err := ready(); err != nil {
				problem(ctx, fasthttp.StatusServiceUnavailable, "not-ready", err.Error())
				return
			}
		}
		writeText(ctx, "ready\n")
	}
}

func (s *Server) metrics(from prometheus.Gatherer) fasthttp.RequestHandler {
	if from == nil {
		return nil
	}
	// One series that cannot be collected must not hide all others.
	return fasthttpadaptor.NewFastHTTPHandler(promhttp.HandlerFor(from, promhttp.HandlerOpts{
		ErrorLog:            quiet{s.log},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
	}))
}

func (s *Server) config(read func() ([]byte, error)) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		text, err := read()
		if err != nil {
			s.log.Error().Err(err).Msg("admin cannot print the configuration")
			problem(ctx, fasthttp.StatusInternalServerError, "internal", "the process's log has the reason")
			return
		}
		ctx.SetContentType("application/yaml")
		ctx.SetBody(text)
	}
}

func (s *Server) reload(read func() error) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		if err := read(); err != nil {
			problem(ctx, fasthttp.StatusUnprocessableEntity, "configuration-refused", err.Error())
			return
		}
		writeJSON(ctx, struct {
			Result string `json:"result"`
		}{"applied"})
	}
}

func showJSON(read func() any) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) { writeJSON(ctx, read()) }
}

// maxProfile bounds how long a profile or trace may be asked to run.
const maxProfile = 30

func profile(ctx *fasthttp.RequestCtx) {
	if asked := ctx.QueryArgs().Peek("seconds"); len(asked) > 0 {
		// Trace takes fractions.
		if n, err := strconv.ParseFloat(string(asked), 64); err != nil || !(n >= 0 && n <= maxProfile) {
			problem(ctx, fasthttp.StatusBadRequest, "bad-request", "expected seconds from 0 to "+strconv.Itoa(maxProfile))
			return
		}
	}
	servePprof(ctx)
}

// quiet is where fasthttp and promhttp report what a client did wrong.
type quiet struct{ log zerolog.Logger }

func (q quiet) Printf(format string, args ...any) { q.log.Debug().Msgf("admin: "+format, args...) }

func (q quiet) Println(args ...any) { q.log.Warn().Msg("admin: " + fmt.Sprint(args...)) }
