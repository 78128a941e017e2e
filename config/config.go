// Package config is the written word: the schema of a Sluice configuration,
// its three sources (file, environment, flags; later wins) and the strict
// loading that turns them into one checked value.
//
// Load turns Sources into a *Config. It goes over the YAML tree with its own
// reflective decoder, driven by the tags of package setting alone, so that
// every mistake is reported at once, each with file, line, column, the path to
// the key and what was expected; flags, docs/configuration.md (Markdown) and the
// JSON Schema (Schema) come from the same tags and cannot disagree. A value that
// came from ${...} is a secret: neither a mistake nor Redacted shows it.
//
// The machines' own Config types (pool.Config, observe.LogConfig) are composed
// here, so that no machine imports this package; this package knows nothing of
// how a request is served. A *Config is plain data: safe to read from many
// goroutines once loaded. Everything here may allocate and read files; nothing
// here is on the hot path. What comes from outside is bounded, see syntax.go.
package config

import (
	"sluice/aggregate"
	"sluice/auth"
	"sluice/cache"
	"sluice/document"
	"sluice/encode"
	"sluice/limiter"
	"sluice/observe"
	"sluice/pool"
	"sluice/redis"
	"sluice/setting"
)

//go:generate go run ./gen ../docs/configuration.md

// Config is one whole configuration. Load and Parse make it; they alone know
// where each value was written.
type Config struct {
	Listen    []Listener                `yaml:"listen" doc:"The doors that clients come in by. Short form of an entry: its address."`
	Admin     Admin                     `yaml:"admin" doc:"The private door: health, metrics, state, reload, profiles."`
	Log       observe.LogConfig         `yaml:"log" doc:"What is logged, and where to."`
	Server    Server                    `yaml:"server" doc:"Bounds and timeouts of client connections."`
	Forwarded Forwarded                 `yaml:"forwarded" doc:"What is believed of, and told about, the hops on the way."`
	Reload    Reload                    `yaml:"reload" doc:"When the file is read again."`
	Shutdown  Shutdown                  `yaml:"shutdown" doc:"How the process ends."`
	Defaults  Defaults                  `yaml:"defaults" doc:"What upstreams and routes have where they say nothing themselves."`
	Auth      map[string]auth.Config    `yaml:"auth" doc:"Authenticators by name, for routes to ask for. See docs/auth.md."`
	Failures  Failures                  `yaml:"auth_failures" doc:"How callers are slowed whose credentials keep being refused. Short form: the rate."`
	Redis     map[string]redis.Config   `yaml:"redis" doc:"Redis or Valkey servers by name, for what several gateways share. Short form: the address."`
	Limits    map[string]limiter.Config `yaml:"limits" doc:"Rate limits by name, for routes to use. Short form: the rate."`
	Cache     cache.Config              `yaml:"cache" doc:"The memory that answers of routes with cache are kept in. Short form: its size."`
	Upstreams map[string]pool.Config    `yaml:"upstreams" doc:"Groups of servers by name. Short form: the URL of the only target."`
	Routes    []Route                   `yaml:"routes" doc:"Which request goes where. The most specific match wins, see docs/routing.md."`

	origin *origin
}

// Defaults are the values that an upstream starts from.
type Defaults struct {
	Connections pool.ConnectionsConfig `yaml:"connections" doc:"Bounds of the connection pool, for each target."`
	Timeouts    pool.TimeoutsConfig    `yaml:"timeouts" doc:"How long each wait on a target may last."`
	Resolve     setting.Duration       `yaml:"resolve" default:"30s" min:"1s" doc:"How often the names of targets are resolved again."`
	FailTimeout setting.Duration       `yaml:"fail_timeout" default:"1s" doc:"How long a target that refused a connection is passed over while others are there."`
	Balance     string                 `yaml:"balance" default:"round_robin" enum:"round_robin,random,least_request,peak_ewma,hash" doc:"How a target is chosen for a request."`
}

// begin makes d the start of an upstream that has not been read yet.
func (d *Defaults) begin(c *pool.Config) {
	c.Connections, c.Timeouts = d.Connections, d.Timeouts
	c.Resolve, c.FailTimeout, c.Balance = d.Resolve, d.FailTimeout, d.Balance
}

// Listener is one door.
type Listener struct {
	Address       string         `yaml:"address" doc:"host:port, :port, or unix:/path."`
	TLS           *TLS           `yaml:"tls" doc:"Speak TLS on this door."`
	ProxyProtocol *ProxyProtocol `yaml:"proxy_protocol" doc:"Read PROXY protocol v1 or v2 from these peers."`
}

// TLS is how a door speaks TLS. 1.2 and 1.3 with the suites that Go holds secure.
type TLS struct {
	Cert         string        `yaml:"cert" doc:"File with the certificate chain (PEM)."`
	Key          string        `yaml:"key" doc:"File with the key (PEM)."`
	Certificates []Certificate `yaml:"certificates" doc:"More certificates; the client's SNI chooses among all."`
	MinVersion   string        `yaml:"min_version" default:"1.2" enum:"1.2,1.3" doc:"The oldest TLS version spoken."`
	ClientCA     string        `yaml:"client_ca" doc:"File with the CAs of client certificates (PEM)."`
	ClientAuth   string        `yaml:"client_auth" default:"none" enum:"none,request,require" doc:"Whether a client certificate is asked for, and needed. One that is sent is always verified."`
}

// Certificate is a certificate chain and its key.
type Certificate struct {
	Cert string `yaml:"cert" doc:"File with the certificate chain (PEM)."`
	Key  string `yaml:"key" doc:"File with the key (PEM)."`
}

// ProxyProtocol says which peers speak PROXY protocol before HTTP.
type ProxyProtocol struct {
	Trusted  []string         `yaml:"trusted" doc:"Addresses (CIDR) whose PROXY header is read. From all others it is an error of framing."`
	Required bool             `yaml:"required" default:"true" doc:"Whether a trusted peer must send the header."`
	Timeout  setting.Duration `yaml:"timeout" default:"5s" min:"10ms" doc:"How long the header may take."`
}

// Admin is the private door.
type Admin struct {
	Address string `yaml:"address" default:"127.0.0.1:9901" doc:"host:port of the private door; empty to have none."`
	Pprof   bool   `yaml:"pprof" default:"true" doc:"Serve /debug/pprof there."`
}

// Server bounds what a client may take.
type Server struct {
	MaxConnections      int              `yaml:"max_connections" default:"65536" min:"1" doc:"Open client connections, over all doors."`
	MaxConnectionsPerIP int              `yaml:"max_connections_per_ip" default:"0" min:"0" doc:"Open connections from one address (IPv6: from one /64). 0 is without bound."`
	MaxHeader           setting.Size     `yaml:"max_header" default:"32KiB" min:"1KiB" max:"1MiB" doc:"Bytes of a request's head. More is answered 431."`
	MaxHeaderFields     int              `yaml:"max_header_fields" default:"100" min:"8" max:"10000" doc:"Header lines of a request. More is answered 431."`
	MaxBody             setting.Size     `yaml:"max_body" default:"0" doc:"Bytes of a request's body, unless the route says otherwise. 0 is without bound; more is answered 413."`
	HeaderTimeout       setting.Duration `yaml:"header_timeout" default:"10s" min:"100ms" doc:"From the first byte of a request to the end of its head. Also bounds the TLS handshake."`
	IdleTimeout         setting.Duration `yaml:"idle_timeout" default:"75s" min:"1s" doc:"How long a kept-alive connection may wait for its next request."`
	BodyTimeout         setting.Duration `yaml:"body_timeout" default:"60s" min:"100ms" doc:"Between two reads of a request's body."`
	WriteTimeout        setting.Duration `yaml:"write_timeout" default:"60s" min:"100ms" doc:"How long a client may take none of its answer."`
	MaxRequests         int              `yaml:"max_requests" default:"0" min:"0" doc:"Requests on one connection before it is closed. 0 is without bound."`
}

// Forwarded is the trust in, and the word to, the other hops.
type Forwarded struct {
	Trusted     []string `yaml:"trusted" doc:"Addresses (CIDR) of hops whose X-Forwarded-*, Forwarded, X-Request-Id and traceparent are believed."`
	XForwarded  bool     `yaml:"x_forwarded" default:"true" doc:"Send X-Forwarded-For, -Proto and -Host."`
	Forwarded   bool     `yaml:"forwarded" default:"false" doc:"Send Forwarded (RFC 7239)."`
	Underscores bool     `yaml:"underscores" default:"false" doc:"Forward request header names with an underscore. They are dropped otherwise: a backend that maps - and _ to one name takes X_Forwarded_For for X-Forwarded-For."`
	Via         bool     `yaml:"via" default:"true" doc:"Add Via to requests and answers (RFC 9110 7.6.3)."`
	Pseudonym   string   `yaml:"pseudonym" default:"sluice" doc:"The name of this gateway in Via and in Forwarded's by."`
	RequestID   string   `yaml:"request_id" default:"X-Request-Id" doc:"The header that carries the request id to targets and back to clients; empty to send none."`
	Budget      string   `yaml:"budget" doc:"The header that carries what is left of a request's budget, in milliseconds: read from trusted hops, sent to targets; empty for none."`
	Traceparent bool     `yaml:"traceparent" default:"true" doc:"Send traceparent (W3C Trace Context), made anew where a trusted hop sent none."`
}

// Reload says when the file is read again besides SIGHUP and the admin call.
type Reload struct {
	Watch bool `yaml:"watch" default:"true" doc:"Read the file again when it changes."`
}

// Shutdown says how long the end may take.
type Shutdown struct {
	Grace setting.Duration `yaml:"grace" default:"30s" doc:"How long requests and tunnels in flight may take after SIGTERM."`
	Delay setting.Duration `yaml:"delay" default:"0" doc:"How long readiness is red before the doors close, so that a load balancer in front sees it."`
}

// Route says what is done with the requests that it matches. Exactly one of
// Upstream, Split, Aggregate, Redirect and Respond is set.
type Route struct {
	Name      string               `yaml:"name" doc:"The name in logs and metrics. Needed, and unique."`
	Match     Match                `yaml:"match" doc:"Which requests. Short form: the path."`
	Upstream  string               `yaml:"upstream" doc:"The upstream that answers."`
	Split     *Split               `yaml:"split" doc:"Several upstreams that share the requests by weight."`
	Aggregate map[string]Branch    `yaml:"aggregate" doc:"Answer with one JSON document that is made of the answers of several upstreams, by name. See docs/aggregation.md."`
	Compose   *aggregate.Config    `yaml:"compose" doc:"How aggregate makes the whole of its branches."`
	Redirect  *Redirect            `yaml:"redirect" doc:"Answer with a redirect. Short form: where to."`
	Respond   *Respond             `yaml:"respond" doc:"Answer with fixed content. Short form: the body."`
	Rewrite   *Rewrite             `yaml:"rewrite" doc:"Change the target of the request before it is forwarded."`
	Mirror    *Mirror              `yaml:"mirror" doc:"Send a copy of requests to another upstream and drop its answers. Short form: the upstream."`
	Request   HeaderEdit           `yaml:"request" doc:"Changes of the request's header."`
	Response  HeaderEdit           `yaml:"response" doc:"Changes of the answer's header."`
	Path      string               `yaml:"path_form" default:"normalized" enum:"normalized,raw" doc:"What the target sees: the normalized path that was matched, or the client's own bytes (see docs/routing.md for what that risks)."`
	Upgrade   bool                 `yaml:"upgrade" default:"true" doc:"Let clients upgrade to another protocol (WebSocket)."`
	IP        *auth.AddressConfig  `yaml:"ip" doc:"Which addresses may call at all."`
	CORS      *auth.CORSConfig     `yaml:"cors" doc:"Which pages of other origins may call from a browser. Short form: one origin."`
	Auth      *RouteAuth           `yaml:"auth" doc:"Who may call: authenticators of which one must prove the caller. Short form: one name, or a list."`
	Require   *auth.RequireConfig  `yaml:"require" doc:"What a proven caller must be besides."`
	Cache     *cache.RouteConfig   `yaml:"cache" doc:"Answer from memory (RFC 9111), see docs/cache.md. Short form: its ttl, or on for what the origin says."`
	Compress  *encode.Config       `yaml:"compress" doc:"Compress answers that are not. Short form: on."`
	MaxBody   *setting.Size        `yaml:"max_body" doc:"Bytes of a request's body, instead of server.max_body. 0 is without bound."`
	Budget    setting.Duration     `yaml:"budget" doc:"The time that everything for a request must fit in: waiting, connecting, every try and pause, the answer. 0 is without bound."`
	Rate      List                 `yaml:"limit" doc:"The rate limits that its requests must pass, all of them. Short form: one name."`
	Retry     *Retry               `yaml:"retry" doc:"When and how a failed request is tried again."`
	Hedge     *Hedge               `yaml:"hedge" doc:"Ask a second target when the first is slow. Short form: after."`
	Fallback  []Fallback           `yaml:"fallback" one:"true" doc:"What answers when the upstream fails, in this order. One entry needs no list."`
	Priority  string               `yaml:"priority" default:"normal" enum:"low,normal,high" doc:"Who is shed first when an upstream with an adaptive limit is overloaded."`
	Limit     *pool.BulkheadConfig `yaml:"concurrency" doc:"A bound on the route's requests at work at one time."`
	Timeout   setting.Duration     `yaml:"response_timeout" doc:"From the request sent to the head of the answer, instead of the upstream's timeouts.response."`
}

// Branch is one part of a composed answer: what is asked, of whom, and what of the
// answer is used.
type Branch struct {
	Upstream string `yaml:"upstream" doc:"The upstream that is asked."`
	aggregate.BranchConfig
	document.ShapeConfig
	Timeout setting.Duration   `yaml:"timeout" doc:"How long it may take, within the route's budget. 0: as long as that."`
	Retry   *Retry             `yaml:"retry" doc:"When and how it is tried again."`
	Hedge   *Hedge             `yaml:"hedge" doc:"Ask a second target when the first is slow. Short form: after."`
	Cache   *cache.RouteConfig `yaml:"cache" doc:"Answer it from memory. Short form: its ttl, or on."`
}

// Retry is when and how a request is tried again, on another target when there
// is one. It never is once bytes of an answer went to the client.
type Retry struct {
	Attempts      int              `yaml:"attempts" default:"2" min:"1" max:"10" doc:"Tries in all, the first included."`
	On            []string         `yaml:"on" doc:"What is tried again: connect, reset, timeout (per_try or the upstream's timeouts.response), and statuses of answers. None: connect, reset, 502, 503, 504, and timeout where per_try is set."`
	PerTry        setting.Duration `yaml:"per_try" doc:"How long one try may take to the head of its answer, with waiting for a connection and connecting. 0 leaves it to timeouts.response."`
	Backoff       setting.Duration `yaml:"backoff" default:"25ms" max:"1m" doc:"The pause before the second try is drawn between 0 and this; the bound doubles for each further one."`
	MaxBackoff    setting.Duration `yaml:"max_backoff" default:"250ms" max:"10m" doc:"The most that the bound grows to."`
	Budget        setting.Percent  `yaml:"budget" default:"20%" doc:"Tries beyond the first, hedges included, as a share of the route's requests."`
	Floor         int              `yaml:"floor" default:"3" min:"0" max:"1000000" doc:"Tries beyond the first that are allowed each second in any case."`
	MaxBody       setting.Size     `yaml:"max_body" default:"64KiB" max:"16MiB" doc:"Requests with a larger body, or one of unknown length, are not tried again."`
	NonIdempotent bool             `yaml:"non_idempotent" default:"false" doc:"Try again whatever the method; else only GET, HEAD, OPTIONS, PUT, DELETE."`
}

// Hedge is when a second target is asked.
type Hedge struct {
	After string `yaml:"after" default:"p95" doc:"A time such as 50ms, or p50, p90, p95, p99 of the upstream's recent answers."`
}

// Fallback is what answers in an upstream's place: another upstream, or fixed
// content.
type Fallback struct {
	On       []int             `yaml:"on" doc:"Statuses of the upstream's answers that are taken for a failure. None: 502, 503, 504. That of the first entry counts."`
	Upstream string            `yaml:"upstream" doc:"The upstream that answers instead."`
	Status   int               `yaml:"status" default:"0" min:"0" max:"599" doc:"The status of a fixed answer. 0: 200."`
	Body     string            `yaml:"body" doc:"Its body."`
	Type     string            `yaml:"type" doc:"Its Content-Type."`
	Headers  map[string]string `yaml:"headers" doc:"More header lines."`
}

// RouteAuth says who may call a route.
type RouteAuth struct {
	Any      []string `yaml:"any" one:"true" doc:"Authenticators, one of which must prove the caller; a+b asks for both."`
	Optional bool     `yaml:"optional" default:"false" doc:"Let requests without a credential pass. A bad one is refused all the same."`
}

// Shorthand reads the short form: one authenticator.
func (a *RouteAuth) Shorthand(s string) { a.Any = []string{s} }

// ShorthandList reads the other short form: a list of them.
func (a *RouteAuth) ShorthandList(list []string) { a.Any = list }

// Failures bounds what an address may try after its credentials were refused.
// What was proven before is answered all the same.
type Failures struct {
	Rate       string `yaml:"rate" default:"60/m" doc:"Refused credentials of one address before it must wait, 429: 60/m, 10/s; off for no bound."`
	Burst      int    `yaml:"burst" default:"60" min:"1" max:"1000000" doc:"Refused credentials at once after a pause."`
	Keys       int    `yaml:"keys" default:"65536" min:"1024" max:"16777216" doc:"Addresses that are followed at one time; each takes 16 bytes, from the start."`
	IPv6Prefix int    `yaml:"ipv6_prefix" default:"64" min:"16" max:"128" doc:"Bits of an IPv6 address that count as one."`
}

// Shorthand reads the short form: the rate.
func (f *Failures) Shorthand(s string) { f.Rate = s }

// Limit is the rate limit that f describes. ok is false when there is none.
func (f *Failures) Limit() (c limiter.Config, ok bool) {
	return limiter.Config{
		Rate: f.Rate, Burst: f.Burst, Key: "ip", Cost: 1, Keys: f.Keys, OnFull: "open", IPv6Prefix: f.IPv6Prefix,
	}, f.Rate != "off"
}

// Validate reports what the tags cannot say.
func (f *Failures) Validate(p *setting.Problems) {
	if c, ok := f.Limit(); ok {
		if _, err := limiter.ParseRate(c.Rate); err != nil {
			p.Add("rate", "%v, or off", err)
		}
	}
}

// Match holds the predicates of a route; all of them must hold.
type Match struct {
	Host    List              `yaml:"host" doc:"Host names, exact or *.example.com. None: any host. Short form: one name."`
	Path    string            `yaml:"path" default:"/*" doc:"/exact, /prefix/*, /users/{id}, /users/{id:[0-9]+}, /files/{rest:*}."`
	Methods []string          `yaml:"methods" doc:"Methods. None: any. GET includes HEAD."`
	Headers map[string]string `yaml:"headers" doc:"Request headers by name: a value, ~regex, or * for any."`
	Query   map[string]string `yaml:"query" doc:"Query parameters by name: a value, ~regex, or * for any."`
}

// List is one string or a list of strings.
type List []string

// Split shares requests between upstreams.
type Split struct {
	To     []SplitTo `yaml:"to" doc:"The upstreams and their weights."`
	Cookie string    `yaml:"cookie" doc:"Keep a client on its side by this cookie, which is set when it is missing."`
	Header string    `yaml:"header" doc:"Keep requests with the same value of this header on one side."`
}

// SplitTo is one side of a split.
type SplitTo struct {
	Upstream string `yaml:"upstream" doc:"The upstream."`
	Weight   int    `yaml:"weight" default:"1" min:"0" max:"1000000" doc:"Its share relative to the others."`
}

// Redirect is an answer that sends the client elsewhere.
type Redirect struct {
	To     string `yaml:"to" doc:"Where to: a URL or path, with {host}, {path}, {query}, {scheme}, {uri} and the route's parameters."`
	Status int    `yaml:"status" default:"308" enum:"301,302,303,307,308" doc:"The status."`
}

// Respond is a fixed answer.
type Respond struct {
	Status  int               `yaml:"status" default:"200" min:"200" max:"599" doc:"The status."`
	Body    string            `yaml:"body" doc:"The body."`
	Type    string            `yaml:"type" doc:"The Content-Type; none is sent without a body."`
	Headers map[string]string `yaml:"headers" doc:"More header lines."`
}

// Rewrite changes the request target.
type Rewrite struct {
	Path        string `yaml:"path" doc:"A new path, with the route's parameters: /v2/users/{id}. The query stays unless the path has one."`
	StripPrefix string `yaml:"strip_prefix" doc:"Cut this from the start of the path."`
	AddPrefix   string `yaml:"add_prefix" doc:"Put this before the path, after strip_prefix."`
	Host        string `yaml:"host" doc:"The Host sent to the target instead of the upstream's host setting."`
}

// Mirror copies requests to a shadow upstream.
type Mirror struct {
	Upstream string          `yaml:"upstream" doc:"The shadow upstream."`
	Share    setting.Percent `yaml:"share" default:"100%" doc:"The share of requests that is copied."`
	MaxBody  setting.Size    `yaml:"max_body" default:"64KiB" doc:"Requests with a larger body, or one of unknown length, are not copied."`
}

// HeaderEdit changes a header. Values may hold {client_ip}, {host}, {scheme},
// {method}, {path}, {query}, {request_id}, {route}, {uri} and the route's
// parameters.
type HeaderEdit struct {
	Headers HeaderOps `yaml:"headers" doc:"Lines to set, add and remove, in this order: remove, set, add."`
}

// HeaderOps are the changes.
type HeaderOps struct {
	Set    map[string]string `yaml:"set" doc:"Replace all lines of this name by one."`
	Add    map[string]string `yaml:"add" doc:"Add a line."`
	Remove []string          `yaml:"remove" doc:"Remove all lines of this name."`
}

// Shorthand reads the short form of a listener: its address.
func (l *Listener) Shorthand(s string) { l.Address = s }

// Shorthand reads the short form of a match: its path.
func (m *Match) Shorthand(s string) { m.Path = s }

// Shorthand reads the short form of a list: its only entry.
func (l *List) Shorthand(s string) { *l = List{s} }

// Shorthand reads the short form of a redirect: where to.
func (r *Redirect) Shorthand(s string) { r.To = s }

// Shorthand reads the short form of a fixed answer: its body.
func (r *Respond) Shorthand(s string) { r.Body = s }

// Shorthand reads the short form of a hedge: after.
func (h *Hedge) Shorthand(s string) { h.After = s }

// Shorthand reads the short form of a mirror: its upstream.
func (m *Mirror) Shorthand(s string) { m.Upstream = s }
