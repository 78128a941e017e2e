package pool

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sluice/fault"
	"sluice/wire"
)

// Target is one server of an upstream and the connections to it. All methods
// are safe for many goroutines.
type Target struct {
	URL    string // as configured
	Label  string // the URL, and the address when that is not the URL's own: unlike any other of the upstream
	Host   string // host:port, the name for Host when the upstream asks for it
	Weight int

	key     string // identity: a target with an equal key is the same target
	address string // host:port to dial
	named   bool   // the host is a name that must be resolved
	tls     *tls.Config
	cfg     Config
	watch   *wire.Watch

	addrs   atomic.Pointer[[]string] // resolved addresses, nil before the first look-up
	next    atomic.Uint32            // which of them is dialled next
	retired atomic.Bool
	cancel  context.CancelFunc

	downUntil atomic.Int64
	lastError atomic.Pointer[string]
	active    atomic.Int64 // requests on it
	ewma      atomic.Uint64
	ewmaAt    atomic.Int64
	latency   latency
	conduct   conduct
	standing  standing

	open    atomic.Int64 // connections, idle and in use
	waiting atomic.Int64 // requests that wait for one
	shards  []idleShard
	queueMu sync.Mutex // guards queue; taken only when a request waits
	queue   []*waiter

	Counters Counters
}

// Counters count what happened on a target since the process started.
type Counters struct {
	Requests       atomic.Uint64
	Dials          atomic.Uint64
	ConnectErrors  atomic.Uint64
	ConnectTimeout atomic.Uint64
	Resets         atomic.Uint64 // connection lost before the answer
	BadAnswers     atomic.Uint64
	AnswerTimeouts atomic.Uint64
	Stale          atomic.Uint64 // pooled connections found dead
	QueueFull      atomic.Uint64
	QueueTimeouts  atomic.Uint64
}

// idleShard is one stack of idle connections.
type idleShard struct {
	mu    sync.Mutex
	conns []*Conn
	_     [32]byte // its own cache line
}

// waiter is a request that waits for a connection. It is given one, or nil as
// the leave to dial.
type waiter struct{ give chan *Conn }

// newTarget makes a target that is not started. address, host:port, is what is
// dialled instead of the URL's when it is not empty.
func newTarget(upstream string, tc TargetConfig, address string, cfg Config, watch *wire.Watch) (*Target, error) {
	u, err := url.Parse(tc.URL)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", tc.URL, err)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	t := &Target{URL: tc.URL, Host: u.Host, Weight: tc.Weight, cfg: cfg, watch: watch}
	t.address = net.JoinHostPort(u.Hostname(), port)
	t.named = net.ParseIP(u.Hostname()) == nil
	t.Label = tc.URL
	if address != "" && address != t.address {
		t.address, t.named = address, false
		t.Label = tc.URL + "@" + address
	}
	// No more stacks than idle connections, so that each may hold one.
	shards := 1
	for shards < runtime.GOMAXPROCS(0) && shards < 64 && 2*shards <= cfg.Connections.MaxIdle {
		shards *= 2
	}
	t.shards = make([]idleShard, shards)
	var stamp string
	if u.Scheme == "https" {
		if t.tls, stamp, err = clientTLS(cfg.TLS, u.Hostname()); err != nil {
			return nil, err
		}
	}
	t.key = fmt.Sprint(upstream, "|", t.Label, "|", cfg.Connections, cfg.Timeouts, cfg.Resolve, cfg.FailTimeout, cfg.TLS, stamp)
	return t, nil
}

// clientTLS reads what https targets are spoken to with. stamp changes when a
// file's content does, so that a reload makes new connections with it.
func clientTLS(c TLSConfig, host string) (conf *tls.Config, stamp string, err error) {
	conf = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         host,
		InsecureSkipVerify: c.InsecureSkipVerify,
		ClientSessionCache: tls.NewLRUClientSessionCache(64),
	}
	if c.ServerName != "" {
		conf.ServerName = c.ServerName
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, "", fmt.Errorf("tls.ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, "", fmt.Errorf("tls.ca: expected PEM certificates in %s, found none", c.CA)
		}
		stamp += string(pem)
	}
	if c.Cert != "" {
		cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, "", fmt.Errorf("tls.cert, tls.key: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
		stamp += string(cert.Certificate[0])
	}
	return conf, stamp, nil
}

// start begins to keep the target's addresses fresh.
func (t *Target) start() {
	if t.cancel != nil {
		return // taken over, and at work
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel = cancel
	if t.named {
		go t.resolve(ctx)
	}
}

// resolve looks the target's name up again and again until ctx ends. The last
// good addresses stay when the name server does not answer.
func (t *Target) resolve(ctx context.Context) {
	host, port, _ := net.SplitHostPort(t.address)
	tick := time.NewTicker(t.cfg.Resolve.Std())
	defer tick.Stop()
	for {
		look, cancel := context.WithTimeout(ctx, t.cfg.Timeouts.Connect.Std())
		ips, err := net.DefaultResolver.LookupNetIP(look, "ip", host)
		cancel()
		if err == nil && len(ips) > 0 {
			addrs := make([]string, 0, len(ips))
			for _, ip := range ips {
				addrs = append(addrs, net.JoinHostPort(ip.Unmap().String(), port))
			}
			slices.Sort(addrs)
			t.addrs.Store(&addrs)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// retire ends the target's life in the pool: idle connections are closed now,
// those in use when they come back.
func (t *Target) retire() {
	t.retired.Store(true)
	if t.cancel != nil {
		t.cancel()
	}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		idle := s.conns
		s.conns = nil
		s.mu.Unlock()
		for _, c := range idle {
			c.close()
		}
	}
}

// sweep closes idle connections whose time is over and those that the target
// has closed.
func (t *Target) sweep(now int64) {
	for i := range t.shards {
		s := &t.shards[i]
		var dead []*Conn
		s.mu.Lock()
		kept := s.conns[:0]
		for _, c := range s.conns {
			if now-c.idleSince > int64(t.cfg.Connections.Idle) || !t.fresh(c, now) || !c.IsQuiet() {
				dead = append(dead, c)
			} else {
				kept = append(kept, c)
			}
		}
		clear(s.conns[len(kept):])
		s.conns = kept
		s.mu.Unlock()
		for _, c := range dead {
			c.close()
		}
	}
}

// fresh tells whether c may be used again at all.
func (t *Target) fresh(c *Conn, now int64) bool {
	if life := int64(t.cfg.Connections.Lifetime); life > 0 && now-c.born > life {
		return false
	}
	if !t.named {
		return true
	}
	addrs := t.addrs.Load()
	return addrs == nil || slices.Contains(*addrs, c.dialled)
}

// Begin counts a request that starts on the target, until End.
func (t *Target) Begin() {
	t.active.Add(1)
	t.Counters.Requests.Add(1)
}

// End ends what Begin began.
func (t *Target) End() { t.active.Add(-1) }

// Get returns a connection for one request: an idle one, or when there is none
// a new one, or when there are too many the first that becomes free. fresh
// forbids an idle one. It fails with a kind from the list of faults at the time
// until, in the unit of wire.Nanotime, at the latest.
func (t *Target) Get(shard uint32, fresh bool, now, until int64) (*Conn, fault.Kind) {
	if !fresh {
		if c := t.idle(shard, now); c != nil {
			return c, fault.None
		}
	}
	return t.dialOrWait(shard, now, until)
}

func (t *Target) idle(shard uint32, now int64) *Conn {
	mask := uint32(len(t.shards) - 1)
	for i := range uint32(len(t.shards)) {
		s := &t.shards[(shard+i)&mask]
		for {
			s.mu.Lock()
			n := len(s.conns)
			if n == 0 {
				s.mu.Unlock()
				break
			}
			c := s.conns[n-1]
			s.conns[n-1] = nil
			s.conns = s.conns[:n-1]
			s.mu.Unlock()
			if t.fresh(c, now) {
				return c
			}
			c.close()
		}
	}
	return nil
}

func (t *Target) dialOrWait(shard uint32, now, until int64) (*Conn, fault.Kind) {
	if t.reserve() {
		return t.dial(until)
	}
	limit := min(until, now+int64(t.cfg.Connections.QueueTimeout))
	if t.waiting.Add(1) > int64(t.cfg.Connections.Queue) {
		t.waiting.Add(-1)
		t.Counters.QueueFull.Add(1)
		return nil, fault.QueueFull
	}
	w := &waiter{give: make(chan *Conn, 1)}
	t.queueMu.Lock()
	t.queue = append(t.queue, w)
	t.queueMu.Unlock()
	// A connection may have come back between the look and the place in the
	// queue; nobody would hand it over.
	if c := t.idle(shard, now); c != nil {
		t.release(c, shard)
	} else if t.reserve() && !t.handOver(nil) {
		t.open.Add(-1)
	}
	timer := time.NewTimer(time.Duration(limit - wire.Nanotime()))
	defer timer.Stop()
	var c *Conn
	select {
	case c = <-w.give:
	case <-timer.C:
		if t.leave(w) {
			t.Counters.QueueTimeouts.Add(1)
			return nil, fault.QueueTimeout
		}
		c = <-w.give
	}
	if c == nil {
		return t.dial(until)
	}
	c.Waited = true
	return c, fault.None
}

// reserve takes the leave to open one more connection.
func (t *Target) reserve() bool {
	for {
		n := t.open.Load()
		if n >= int64(t.cfg.Connections.Max) {
			return false
		}
		if t.open.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// unreserve gives the leave back, to the first who waits if there is one.
func (t *Target) unreserve() {
	if t.waiting.Load() > 0 && t.handOver(nil) {
		return
	}
	t.open.Add(-1)
	// Someone may have begun to wait in between.
	if t.waiting.Load() > 0 && t.reserve() && !t.handOver(nil) {
		t.open.Add(-1)
	}
}

// handOver gives c, or with nil the leave to dial, to the first who waits.
func (t *Target) handOver(c *Conn) bool {
	t.queueMu.Lock()
	defer t.queueMu.Unlock()
	if len(t.queue) == 0 {
		return false
	}
	w := t.queue[0]
	t.queue[0] = nil
	if t.queue = t.queue[1:]; len(t.queue) == 0 {
		t.queue = nil
	}
	t.waiting.Add(-1)
	w.give <- c
	return true
}

// leave takes w out of the queue; false says that it has been served.
func (t *Target) leave(w *waiter) bool {
	t.queueMu.Lock()
	defer t.queueMu.Unlock()
	i := slices.Index(t.queue, w)
	if i < 0 {
		return false
	}
	t.queue = slices.Delete(t.queue, i, i+1)
	t.waiting.Add(-1)
	return true
}

// enoughToConnect is a time in which a target that is well takes a connection,
// in nanoseconds.
const enoughToConnect = int64(50e6)

// dial opens a connection, for which a leave has been taken.
func (t *Target) dial(until int64) (*Conn, fault.Kind) {
	now := wire.Nanotime()
	limit := min(int64(t.cfg.Timeouts.Connect), until-now)
	if limit <= 0 { // all the time went into the queue
		t.unreserve()
		return nil, fault.QueueTimeout
	}
	t.Counters.Dials.Add(1)
	hurried := limit < min(int64(t.cfg.Timeouts.Connect), enoughToConnect)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(limit))
	defer cancel()
	c, err := t.openAny(ctx)
	if err == nil {
		return c, fault.None
	}
	t.unreserve()
	var ne net.Error
	timeout := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
	// A request that was short of time says nothing of the target, nor does a
	// process that is short of descriptors or ports.
	ours := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL)
	if ft := int64(t.cfg.FailTimeout); ft > 0 && !(timeout && hurried) && !ours {
		t.downUntil.Store(wire.Nanotime() + ft)
	}
	if timeout {
		t.Counters.ConnectTimeout.Add(1)
		t.note(err)
		return nil, fault.ConnectTimeout
	}
	if ours {
		t.Counters.QueueFull.Add(1)
		t.note(err)
		return nil, fault.QueueFull
	}
	t.Counters.ConnectErrors.Add(1)
	t.note(err)
	return nil, fault.ConnectFailed
}

// note keeps err for the admin door.
func (t *Target) note(err error) {
	text := err.Error()
	t.lastError.Store(&text)
}

// LastError is why the last connection could not be opened, for logs.
func (t *Target) LastError() string {
	if e := t.lastError.Load(); e != nil {
		return *e
	}
	return ""
}

// openAny opens one connection, trying the addresses of the name in turn.
func (t *Target) openAny(ctx context.Context) (*Conn, error) {
	addrs := []string{t.address}
	if known := t.addrs.Load(); known != nil {
		n := int(t.next.Add(1))
		addrs = addrs[:0]
		for i := range *known {
			addrs = append(addrs, (*known)[(n+i)%len(*known)])
		}
	}
	var d net.Dialer
	var err error
	for _, addr := range addrs {
		var nc net.Conn
		if nc, err = d.DialContext(ctx, "tcp", addr); err != nil {
			continue
		}
		if t.tls != nil {
			tc := tls.Client(nc, t.tls)
			if err = tc.HandshakeContext(ctx); err != nil {
				nc.Close()
				continue
			}
			nc = tc
		}
		t.downUntil.Store(0)
		return newConn(t, nc, addr), nil
	}
	return nil, err
}

// release puts c back, or gives it to the first who waits.
func (t *Target) release(c *Conn, shard uint32) {
	if !t.fresh(c, c.idleSince) {
		c.close()
		return
	}
	if t.waiting.Load() > 0 && t.handOver(c) {
		return
	}
	s := &t.shards[shard&uint32(len(t.shards)-1)]
	s.mu.Lock()
	if t.retired.Load() || len(s.conns) >= t.cfg.Connections.MaxIdle/len(t.shards) {
		s.mu.Unlock()
		c.close()
		return
	}
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	if t.waiting.Load() > 0 {
		// Someone began to wait in between and looked before the push.
		if c := t.idle(shard, wire.Nanotime()); c != nil {
			t.release(c, shard)
		}
	}
}

// State is what a target is doing, for the admin door and metrics.
type State struct {
	URL       string   `json:"url"`
	Weight    int      `json:"weight"`
	Addresses []string `json:"addresses,omitempty"`
	Down      bool     `json:"down"`
	Unhealthy bool     `json:"unhealthy,omitempty"`
	Ejected   bool     `json:"ejected,omitempty"`
	Check     string   `json:"last_check_error,omitempty"`
	Error     string   `json:"last_error,omitempty"`
	Active    int64    `json:"active_requests"`
	Open      int64    `json:"open_connections"`
	Idle      int      `json:"idle_connections"`
	Waiting   int64    `json:"waiting_requests"`
	Requests  uint64   `json:"requests"`
	MedianMS  float64  `json:"p50_ms,omitempty"`
}

// State takes a look at the target.
func (t *Target) State() State {
	s := State{
		URL: t.Label, Weight: t.Weight, Down: t.downUntil.Load() > wire.Nanotime(),
		Active: t.active.Load(), Open: t.open.Load(), Waiting: t.waiting.Load(),
		Requests: t.Counters.Requests.Load(), MedianMS: float64(t.Median()) / 1e6,
	}
	if a := t.addrs.Load(); a != nil {
		s.Addresses = *a
	}
	s.Unhealthy, s.Ejected = t.standing.down.Load(), t.conduct.until.Load() > wire.Nanotime()
	if e := t.standing.last.Load(); e != nil && s.Unhealthy {
		s.Check = *e
	}
	if e := t.lastError.Load(); e != nil && s.Down {
		s.Error = *e
	}
	for i := range t.shards {
		t.shards[i].mu.Lock()
		s.Idle += len(t.shards[i].conns)
		t.shards[i].mu.Unlock()
	}
	return s
}
