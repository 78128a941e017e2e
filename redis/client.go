package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"
)

// ErrDown says that there is no connection now. The keeper is at it.
var ErrDown = errors.New("redis: not connected")

// Client keeps the connections to one Redis. All methods are safe for many
// goroutines. End it with Close.
type Client struct {
	cfg    Config
	option rueidis.ClientOption
	log    zerolog.Logger

	conn  atomic.Pointer[rueidis.Client] // nil until the first connection
	up    atomic.Bool
	nudge chan struct{}
	stop  context.CancelFunc
	done  chan struct{}
	once  sync.Once

	connects, failures atomic.Uint64
}

const (
	pingEvery   = time.Second
	firstRetry  = 50 * time.Millisecond
	longestWait = 5 * time.Second

	// rebuildAfter failed pings in a row the whole client is made anew: what it
	// knows of a cluster or of sentinels may be of no use any more.
	rebuildAfter = 5

	// bufferBytes for each direction of a connection. Limits send 150 bytes a
	// command; larger values pass through without being gathered.
	bufferBytes = 64 << 10
)

// Open begins to connect and returns at once, whether the server is there or
// not. cfg must have passed Validate. The error is of the TLS files only; their
// content is read once.
func Open(cfg Config, log zerolog.Logger) (*Client, error) {
	tc, err := cfg.TLS.open()
	if err != nil {
		return nil, err
	}
	// KeepAlive is also how often rueidis asks an idle connection whether it is
	// there; ConnWriteTimeout is how long it waits for that answer.
	dialer := net.Dialer{Timeout: cfg.ConnectTimeout.Std(), KeepAlive: time.Second}
	c := &Client{
		cfg: cfg, log: log.With().Strs("redis", cfg.Addresses).Logger(),
		nudge: make(chan struct{}, 1), done: make(chan struct{}),
		option: rueidis.ClientOption{
			InitAddress: cfg.Addresses, TLSConfig: tc, Dialer: dialer,
			Username: cfg.Username, Password: cfg.Password, SelectDB: cfg.DB,
			ClientName:        "sluice",
			ForceSingleClient: cfg.Mode == "single",
			ConnWriteTimeout:  cfg.Timeout.Std(),
			// Without it a lone command with a deadline would close the
			// connection when the deadline passes.
			AlwaysPipelining: true,
			// A single server executes one command at a time: more connections
			// only make for smaller packets.
			PipelineMultiplex:   -1,
			BlockingPipeline:    -1,
			ReadBufferEachConn:  bufferBytes,
			WriteBufferEachConn: bufferBytes,
			DisableCache:        true,
			// Who uses Redis here has something better to do than wait.
			DisableRetry: true,
		},
	}
	if cfg.Mode == "sentinel" {
		c.option.Sentinel = rueidis.SentinelOption{
			MasterSet: cfg.Master, Dialer: dialer, TLSConfig: tc,
			Username: cfg.SentinelUser, Password: cfg.SentinelPass,
			TopologyRefreshInterval: 5 * time.Second,
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.keep(ctx)
	return c, nil
}

// open reads the files. A nil t is no TLS.
func (t *TLS) open() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("redis: tls.ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis: tls.ca: expected a PEM certificate in %s", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("redis: tls.cert, tls.key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Config returns what c was opened with.
func (c *Client) Config() Config { return c.cfg }

// Up tells whether the server answered when it was last asked.
func (c *Client) Up() bool { return c.up.Load() }

// Conn returns the connection to send commands on, or ErrDown while the server
// is known not to answer. It does not block. A connection must not be closed,
// nor kept for later calls: another may take its place.
func (c *Client) Conn() (rueidis.Client, error) {
	if !c.up.Load() {
		return nil, ErrDown
	}
	return *c.conn.Load(), nil
}

// Check has the keeper ask the server now instead of at its next turn: after a
// command that failed. It does not block.
func (c *Client) Check() {
	select {
	case c.nudge <- struct{}{}:
	default:
	}
}

// Stats counts since Open.
type Stats struct {
	Up       bool
	Connects uint64 // times that the server came up
	Failures uint64 // connections and pings that failed
}

// Stats returns the counts.
func (c *Client) Stats() Stats {
	return Stats{Up: c.up.Load(), Connects: c.connects.Load(), Failures: c.failures.Load()}
}

// Close ends the connections and the keeper. Commands under way fail. It waits
// for a connection attempt under way, at most Config.ConnectTimeout for each
// address.
func (c *Client) Close() {
	c.once.Do(c.stop)
	<-c.done
}

// keep connects and asks the server whether it is there, until ctx ends.
func (c *Client) keep(ctx context.Context) {
	defer close(c.done)
	var failed int // in a row
	said := false  // that it is down
	for {
		err := c.look(ctx, failed)
		if ctx.Err() != nil {
			break
		}
		wait := pingEvery
		if err == nil {
			failed, said = 0, false
			if !c.up.Swap(true) {
				c.connects.Add(1)
				c.log.Info().Msg("redis is up")
			}
		} else {
			failed++
			c.failures.Add(1)
			c.up.Store(false)
			if !said {
				said = true
				c.log.Warn().Str("error", c.redact(err)).Msg("redis is down")
			}
			wait = min(firstRetry<<min(failed-1, 10), longestWait)
			wait = wait/2 + rand.N(wait/2) // so that gateways do not come all at once
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-c.nudgeWhile(err == nil):
		}
		timer.Stop()
	}
	c.up.Store(false)
	if p := c.conn.Load(); p != nil {
		(*p).Close()
	}
}

// nudgeWhile returns the channel of Check, or one that never speaks: while the
// server is down the back-off holds.
func (c *Client) nudgeWhile(up bool) <-chan struct{} {
	if up {
		return c.nudge
	}
	return nil
}

// look makes sure that the server answers: by connecting when there is no
// client, else by a ping.
func (c *Client) look(ctx context.Context, failed int) error {
	p := c.conn.Load()
	if p != nil && failed > 0 && failed%rebuildAfter == 0 {
		fresh, err := c.connect()
		if err != nil {
			return err
		}
		c.conn.Store(&fresh)
		(*p).Close()
		p = &fresh
	}
	if p == nil {
		fresh, err := c.connect()
		if err != nil {
			return err
		}
		c.conn.Store(&fresh)
		p = &fresh
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout.Std())
	defer cancel()
	return (*p).Do(ctx, (*p).B().Ping().Build()).Error()
}

func (c *Client) connect() (rueidis.Client, error) {
	option := c.option
	option.InitAddress = append([]string(nil), c.option.InitAddress...)
	client, err := rueidis.NewClient(option)
	if err != nil && client != nil {
		client.Close()
	}
	return client, err
}

// redact returns the text of err without a credential that a server or library
// might have put there.
func (c *Client) redact(err error) string {
	text := err.Error()
	for _, secret := range []string{c.cfg.Password, c.cfg.SentinelPass} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return text
}
