package pool

import (
	"net/url"
	"strconv"
	"strings"

	"sluice/setting"
)

// Config describes one upstream: a group of targets that serve the same thing.
// Its short form is the URL of its only target.
type Config struct {
	Targets     []TargetConfig    `yaml:"targets" doc:"The servers of this upstream. Short form of an entry: its URL."`
	Discover    *DiscoverConfig   `yaml:"discover" doc:"Where targets come from when they are not written down."`
	Balance     string            `yaml:"balance" default:"round_robin" enum:"round_robin,random,least_request,peak_ewma,hash" doc:"How a target is chosen for a request."`
	Hash        HashConfig        `yaml:"hash" doc:"What is hashed when balance is hash."`
	Host        string            `yaml:"host" default:"preserve" doc:"The Host sent to targets: preserve (the client's), target (the target's own name), or a literal name."`
	Connections ConnectionsConfig `yaml:"connections" doc:"Bounds of the connection pool, for each target."`
	Timeouts    TimeoutsConfig    `yaml:"timeouts" doc:"How long each wait on a target may last."`
	TLS         TLSConfig         `yaml:"tls" doc:"TLS towards https targets."`
	Resolve     setting.Duration  `yaml:"resolve" default:"30s" min:"1s" doc:"How often the names of targets are resolved again."`
	Health      *HealthConfig     `yaml:"health" doc:"Active health checks."`
	Outlier     *OutlierConfig    `yaml:"outlier" doc:"Passive health: targets whose answers are bad are passed over for a while."`
	SlowStart   setting.Duration  `yaml:"slow_start" default:"10s" doc:"How long the share of a target that came back grows from a tenth to the whole. 0 gives it all at once."`
	Panic       setting.Percent   `yaml:"panic" default:"0%" doc:"When fewer than this share of targets are healthy, health is ignored and all are used."`
	Breaker     *BreakerConfig    `yaml:"breaker" doc:"A circuit breaker over the upstream."`
	Concurrency *BulkheadConfig   `yaml:"concurrency" doc:"A bound on the requests at work at one time."`
	Adaptive    *AdaptiveConfig   `yaml:"adaptive" doc:"A bound on the requests at work that follows the latency."`
	FailTimeout setting.Duration  `yaml:"fail_timeout" default:"1s" doc:"How long a target that refused a connection is passed over while others are there. 0 never passes over."`
}

// TargetConfig is one server of an upstream.
type TargetConfig struct {
	URL    string `yaml:"url" doc:"http://host:port or https://host:port. A path is not allowed; use rewrite."`
	Weight int    `yaml:"weight" default:"1" min:"1" max:"1000" doc:"Share of the requests relative to the other targets."`
}

// HashConfig says what identifies a caller for consistent hashing. At most one
// of Header and Cookie is set; By is used when neither is.
type HashConfig struct {
	By     string `yaml:"by" default:"ip" enum:"ip,path" doc:"What is hashed when no header and no cookie is named."`
	Header string `yaml:"header" doc:"The request header whose value is hashed. Requests without it are hashed by ip."`
	Cookie string `yaml:"cookie" doc:"The cookie whose value is hashed. Requests without it are hashed by ip."`
}

// ConnectionsConfig bounds the connections to each target.
type ConnectionsConfig struct {
	Max          int              `yaml:"max" default:"512" min:"1" max:"1000000" doc:"Connections to one target at the most."`
	MaxIdle      int              `yaml:"max_idle" default:"256" min:"0" max:"1000000" doc:"Idle connections kept for one target."`
	Idle         setting.Duration `yaml:"idle" default:"60s" min:"1s" doc:"An idle connection is closed after this time. Keep it below the backend's own keep-alive time."`
	Lifetime     setting.Duration `yaml:"lifetime" default:"0" doc:"A connection is not used again after this age. 0 is without end."`
	Queue        int              `yaml:"queue" default:"1024" min:"0" max:"1000000" doc:"Requests that may wait for a connection when max is reached."`
	QueueTimeout setting.Duration `yaml:"queue_timeout" default:"1s" doc:"How long a request waits for a connection before it is answered 503."`
}

// TimeoutsConfig bounds each wait on a target.
type TimeoutsConfig struct {
	Connect  setting.Duration `yaml:"connect" default:"5s" min:"1ms" doc:"Name look-up, TCP connect and TLS handshake together."`
	Response setting.Duration `yaml:"response" default:"60s" min:"1ms" doc:"From the request sent to the head of the answer."`
	Idle     setting.Duration `yaml:"idle" default:"60s" min:"1ms" doc:"Between two reads or two writes of a body."`
	Tunnel   setting.Duration `yaml:"tunnel" default:"1h" min:"1ms" doc:"A tunnel (WebSocket or other upgrade) that moves no byte for this long is closed."`
}

// TLSConfig is what https targets are spoken to with.
type TLSConfig struct {
	CA                 string `yaml:"ca" doc:"File of PEM certificates that are trusted instead of the system's."`
	Cert               string `yaml:"cert" doc:"File with the client certificate chain (PEM)."`
	Key                string `yaml:"key" secret:"true" doc:"File with the client certificate's key (PEM)."`
	ServerName         string `yaml:"server_name" doc:"Name for SNI and verification instead of the target's own."`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" default:"false" doc:"Accept any certificate. For tests only."`
}

// Shorthand reads the short form of an upstream: the URL of its only target.
func (c *Config) Shorthand(s string) {
	c.Targets = []TargetConfig{{URL: s, Weight: 1}}
}

// Shorthand reads the short form of a target: its URL.
func (t *TargetConfig) Shorthand(s string) { t.URL = s }

// Validate reports what the tags cannot say.
func (c *Config) Validate(p *setting.Problems) {
	switch {
	case c.Discover != nil && len(c.Targets) > 0:
		p.Add("discover", "expected either targets or discover, got both")
	case c.Discover == nil && len(c.Targets) == 0:
		p.Add("targets", "expected at least one target such as http://10.0.0.11:9000, or discover")
	}
	for i, t := range c.Targets {
		if why := checkTargetURL(t.URL); why != "" {
			p.Add(indexed("targets", i, "url"), why+", got %q", t.URL)
		}
	}
	if c.Health != nil {
		c.Health.Validate(p.At("health"))
	}
	if a := c.Adaptive; a != nil && (a.Min > a.Max || a.Initial < a.Min || a.Initial > a.Max) {
		p.Add("adaptive", "expected min <= initial <= max, got %d, %d, %d", a.Min, a.Initial, a.Max)
	}
	if o := c.Outlier; o != nil {
		for i, s := range o.Statuses {
			if s < 100 || s > 599 {
				p.Add(indexed("outlier.statuses", i, ""), "expected a status from 100 to 599, got %d", s)
			}
		}
	}
	if c.Hash.Header != "" && c.Hash.Cookie != "" {
		p.Add("hash", "expected either header or cookie, got both")
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		p.Add("tls", "expected cert and key together")
	}
	if c.Host == "" || strings.ContainsAny(c.Host, " \t\r\n/") {
		p.Add("host", "expected preserve, target or a host name, got %q", c.Host)
	}
}

func checkTargetURL(raw string) string {
	const want = "expected http://host:port or https://host:port"
	u, err := url.Parse(raw)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return want
	case u.User != nil:
		return want + " without credentials"
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return want + " without a path (use rewrite on the route)"
	}
	return ""
}

func indexed(list string, i int, key string) string {
	return setting.Join(list+"["+itoa(i)+"]", key)
}

func itoa(i int) string { return strconv.Itoa(i) }
