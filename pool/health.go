package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/setting"
	"sluice/wire"
)

// HealthConfig describes active health checks. Without a path a check is a TCP
// connection.
type HealthConfig struct {
	Path      string           `yaml:"path" doc:"The path of a GET. Empty: only a TCP connection is made."`
	Interval  setting.Duration `yaml:"interval" default:"2s" min:"10ms" max:"1h" doc:"From one check to the next, give or take a tenth."`
	Timeout   setting.Duration `yaml:"timeout" default:"1s" min:"1ms" max:"1h" doc:"How long a check may take."`
	Healthy   int              `yaml:"healthy" default:"2" min:"1" max:"1000" doc:"Good checks in a row that make a target healthy."`
	Unhealthy int              `yaml:"unhealthy" default:"3" min:"1" max:"1000" doc:"Failed checks in a row that make it unhealthy."`
	Statuses  []string         `yaml:"statuses" doc:"Statuses that are good: 200, 2xx, 200-399. None: 200-399."`
	Body      string           `yaml:"body" doc:"Text that a good answer's first 64 KiB must hold."`
	Host      string           `yaml:"host" doc:"The Host of the check. Empty: the target's own."`
	Port      int              `yaml:"port" default:"0" min:"0" max:"65535" doc:"The port of the check. 0: the target's own."`
	Initial   string           `yaml:"initial" default:"healthy" enum:"healthy,unhealthy" doc:"What a new target is taken for until its first checks are in."`
}

// Validate reports what the tags cannot say.
func (c *HealthConfig) Validate(p *setting.Problems) {
	if c.Path != "" && !strings.HasPrefix(c.Path, "/") {
		p.Add("path", "expected a path such as /healthz, got %q", c.Path)
	}
	for i, s := range c.Statuses {
		if _, _, ok := statusRange(s); !ok {
			p.Add(indexed("statuses", i, ""), "expected a status such as 200, 2xx or 200-399, got %q", s)
		}
	}
	if c.Path == "" && (c.Body != "" || len(c.Statuses) > 0) {
		p.Add("path", "expected a path, for statuses and body to be looked at")
	}
}

// statusRange reads 200, 2xx or 200-399.
func statusRange(s string) (low, high int, ok bool) {
	if len(s) == 3 && strings.HasSuffix(s, "xx") && s[0] >= '1' && s[0] <= '5' {
		n := int(s[0]-'0') * 100
		return n, n + 99, true
	}
	from, to, ranged := strings.Cut(s, "-")
	if !ranged {
		to = from
	}
	low, ok1 := statusOf(from)
	high, ok2 := statusOf(to)
	return low, high, ok1 && ok2 && low <= high
}

func statusOf(s string) (int, bool) {
	if len(s) != 3 || s[0] < '1' || s[0] > '5' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil
}

// standing is what active checks say of a target. It survives reloads with it.
type standing struct {
	down   atomic.Bool
	last   atomic.Pointer[string] // why the last failed check failed
	checks atomic.Uint64
	failed atomic.Uint64

	mu   sync.Mutex
	busy chan struct{} // guarded by mu; closed when the checker at work ends

	// The checker's own, who is one at a time: see turn.
	began   bool // down says something
	decided bool // by checks, not by Initial
	good    int  // checks in a row
	bad     int
}

// turn waits until no other checker is at work on the target and makes the
// caller the one that is, so that the checker of an earlier configuration has
// ended before the next begins. It returns nil when ctx ends first.
func (s *standing) turn(ctx context.Context) (end func()) {
	for {
		s.mu.Lock()
		at := s.busy
		if at == nil {
			mine := make(chan struct{})
			s.busy = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				s.busy = nil
				s.mu.Unlock()
				close(mine)
			}
		}
		s.mu.Unlock()
		select {
		case <-at:
		case <-ctx.Done():
			return nil
		}
	}
}

// begin takes the target for what cfg says until checks decide. A target that
// has been checked before, under an earlier configuration, stays what it is.
func (s *standing) begin(cfg *HealthConfig) {
	if !s.began {
		s.began = true
		s.down.Store(cfg.Initial == "unhealthy")
	}
}

// took takes in the outcome of a check and tells whether the standing changed.
func (s *standing) took(err error, cfg *HealthConfig) bool {
	s.checks.Add(1)
	down := s.down.Load()
	if err == nil {
		s.good, s.bad = s.good+1, 0
	} else {
		s.failed.Add(1)
		text := err.Error()
		s.last.Store(&text)
		s.good, s.bad = 0, s.bad+1
	}
	switch {
	case s.good >= cfg.Healthy:
		s.decided = true
		s.down.Store(false)
		return down
	case s.bad >= cfg.Unhealthy:
		s.decided = true
		s.down.Store(true)
		return !down
	}
	return false
}

// checkHealth checks t until ctx ends; it then returns at once, even out of a
// check. Only one checker works on a target at a time: a second waits for the
// first to end. The first check comes within one interval, at a time drawn at
// random, so that many targets and gateways do not check in step.
func (t *Target) checkHealth(ctx context.Context, cfg HealthConfig) {
	s := &t.standing
	end := s.turn(ctx)
	if end == nil {
		return
	}
	defer end()
	s.begin(&cfg)
	probe := newProbe(t, cfg)
	wait := time.NewTimer(firstWait(&cfg))
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		err := probe.check(ctx)
		if ctx.Err() != nil {
			return // the check was broken off, which says nothing
		}
		if s.took(err, &cfg) && !s.down.Load() {
			t.conduct.returned.Store(wire.Nanotime())
			// A target that answers its checks has earned another trial.
			t.conduct.until.Store(0)
			t.conduct.inRow.Store(0)
			t.downUntil.Store(0)
		}
		wait.Reset(s.nextWait(&cfg))
	}
}

// quickCheck is the longest wait for the checks that a new target which counts
// as unhealthy needs to be let in.
const quickCheck = 100 * time.Millisecond

func firstWait(cfg *HealthConfig) time.Duration {
	most := cfg.Interval.Std()
	if cfg.Initial == "unhealthy" {
		most = min(most, quickCheck)
	}
	return rand.N(most + 1)
}

// nextWait is the interval give or take a tenth.
func (s *standing) nextWait(cfg *HealthConfig) time.Duration {
	most := cfg.Interval.Std()
	if s.down.Load() && !s.decided && s.good > 0 {
		most = min(most, quickCheck)
	}
	return most*9/10 + rand.N(most/5+1)
}

// probe is how one target is checked.
type probe struct {
	cfg     HealthConfig
	address string
	url     string
	http    *http.Transport
}

const (
	maxCheckedHead = 64 << 10
	maxCheckedBody = 64 << 10
)

func newProbe(t *Target, cfg HealthConfig) *probe {
	host, port, _ := net.SplitHostPort(t.address)
	if cfg.Port != 0 {
		port = strconv.Itoa(cfg.Port)
	}
	p := &probe{cfg: cfg, address: net.JoinHostPort(host, port)}
	scheme := "http"
	if t.tls != nil {
		scheme = "https"
	}
	p.url = scheme + "://" + p.address + cfg.Path
	if cfg.Host == "" {
		p.cfg.Host = t.Host
	}
	// The standard library's client, for a check must end when its context
	// does. A new connection each time: it is the door that is to be tried too.
	p.http = &http.Transport{
		DisableKeepAlives: true, DisableCompression: true,
		TLSClientConfig: t.tls, MaxResponseHeaderBytes: maxCheckedHead,
	}
	return p
}

// check makes one check, within the timeout and until ctx ends.
func (p *probe) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout.Std())
	defer cancel()
	if p.cfg.Path == "" {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", p.address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	err := p.get(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("GET %s: expected an answer within %s", p.url, p.cfg.Timeout)
	case err != nil:
		return fmt.Errorf("GET %s: %w", p.url, err)
	}
	return nil
}

func (p *probe) get(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return err
	}
	req.Host = p.cfg.Host
	req.Header.Set("User-Agent", "sluice-health")
	// Not a Client: a redirect is an answer, not a way to go.
	res, err := p.http.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if !p.good(res.StatusCode) {
		return fmt.Errorf("expected a status of %s, got %d", p.expected(), res.StatusCode)
	}
	if p.cfg.Body == "" {
		return nil
	}
	// What was read before an error counts: the text may stand before the end
	// of a body that never ends.
	body, err := io.ReadAll(io.LimitReader(res.Body, maxCheckedBody))
	if bytes.Contains(body, []byte(p.cfg.Body)) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("expected a body with %q in its first %d bytes", p.cfg.Body, maxCheckedBody)
}

func (p *probe) good(status int) bool {
	if len(p.cfg.Statuses) == 0 {
		return status >= 200 && status < 400
	}
	return slices.ContainsFunc(p.cfg.Statuses, func(s string) bool {
		low, high, _ := statusRange(s)
		return low <= status && status <= high
	})
}

func (p *probe) expected() string {
	if len(p.cfg.Statuses) == 0 {
		return "200-399"
	}
	return strings.Join(p.cfg.Statuses, ", ")
}
