// Package load sends requests at a constant rate, whatever becomes of those
// before (an open loop), and measures each from the moment it was due. A
// server that stalls is thus charged for everyone who had to wait, not only
// for the request it stalled on: no coordinated omission.
//
// Connections are kept alive and the one last used is taken first. Nothing is
// ever sent twice: a request on a connection that breaks has failed. Memory is
// bounded by the number of requests (32 bytes each, at most maxShots) and by
// the number in flight. Run blocks until every answer has come or timed out.
package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Plan is a load.
type Plan struct {
	Address  string        // host:port
	Path     string        // of the GET
	Rate     int           // requests a second, 1 to 100000
	For      time.Duration // how long requests are sent
	Timeout  time.Duration // of one request, from when it was due
	InFlight int           // at the most; what is due beyond fails at once. 0: 4096
}

const maxShots = 5_000_000

// Shot is one request and what became of it.
type Shot struct {
	Due      time.Duration // since the start of the load
	Took     time.Duration // from Due to the end of the answer, or of hope
	Status   uint16        // 0 when the answer was not whole
	Broken   Broken        // why
	Fallback bool          // the gateway marked the answer as a stand-in
}

// Failed tells whether a shot got no whole answer of status 2xx.
func (s Shot) Failed() bool { return s.Status < 200 || s.Status > 299 }

// Broken is why there was no whole answer.
type Broken uint8

// The ways to break.
const (
	Whole     Broken = iota
	NoConnect        // the gateway took no connection
	Cut              // closed or reset in the middle
	Malformed        // not HTTP
	TimedOut         // nothing, or not all, within Plan.Timeout
	NotSent          // too many were in flight
)

var brokenNames = [...]string{"whole", "no connection", "cut off", "malformed", "timed out", "not sent"}

func (b Broken) String() string { return brokenNames[b] }

// FallbackHeaders are the lines by which gateways mark a stand-in.
var FallbackHeaders = []string{"Sluice-Fallback", "X-Fallback"}

// client is the connections of one load.
type client struct {
	plan    Plan
	request string
	start   time.Time
	shots   []Shot
	flying  chan struct{} // a place for each request in flight

	mu   sync.Mutex
	idle []*conn
}

type conn struct {
	net.Conn
	r *bufio.Reader
}

// Run sends the load and returns a shot for every request that was due. When
// ctx ends early no more are sent.
func Run(ctx context.Context, p Plan) ([]Shot, error) {
	if p.InFlight == 0 {
		p.InFlight = 4096
	}
	n := int(p.For.Seconds() * float64(p.Rate))
	if p.Rate < 1 || p.Rate > 100_000 || n < 1 || n > maxShots || p.Timeout <= 0 || p.InFlight < 1 {
		return nil, fmt.Errorf("load: expected a rate from 1 to 100000, 1 to %d requests in all, a timeout and a bound in flight, got %+v", maxShots, p)
	}
	c := &client{
		plan: p, request: "GET " + p.Path + " HTTP/1.1\r\nHost: " + p.Address + "\r\n\r\n",
		shots: make([]Shot, n), flying: make(chan struct{}, p.InFlight), start: time.Now(),
	}
	defer c.close()
	var done sync.WaitGroup
	defer done.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range c.shots {
		s := &c.shots[i]
		s.Due = time.Duration(float64(i) / float64(p.Rate) * float64(time.Second))
		if wait := s.Due - time.Since(c.start); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			done.Wait()
			return c.shots[:i], ctx.Err()
		}
		select {
		case c.flying <- struct{}{}:
			done.Go(func() {
				c.shoot(s)
				<-c.flying
			})
		default:
			s.Broken = NotSent
		}
	}
	done.Wait()
	return c.shots, nil
}

func (c *client) close() {
	for _, k := range c.idle {
		_ = k.Close()
	}
}

// shoot sends one request and waits for its answer.
func (c *client) shoot(s *Shot) {
	due := c.start.Add(s.Due)
	err := c.exchange(s, due.Add(c.plan.Timeout))
	s.Took = time.Since(due)
	if err == nil {
		return
	}
	s.Status = 0
	var op *net.OpError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.Broken = TimedOut
	case errors.As(err, &op) && op.Op == "dial":
		if s.Broken = NoConnect; op.Timeout() {
			s.Broken = TimedOut
		}
	case errors.As(err, &op), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		s.Broken = Cut
	default:
		s.Broken = Malformed
	}
}

// maxAnswer bounds the body of an answer.
const maxAnswer = 64 << 20

func (c *client) exchange(s *Shot, until time.Time) error {
	k, err := c.connect(until)
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if keep {
			c.mu.Lock()
			c.idle = append(c.idle, k)
			c.mu.Unlock()
			return
		}
		_ = k.Close()
	}()
	_ = k.SetDeadline(until)
	if _, err := io.WriteString(k, c.request); err != nil {
		return err
	}
	res, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)); err != nil || n == maxAnswer {
		return errors.Join(err, res.Body.Close())
	}
	s.Status = uint16(res.StatusCode)
	for _, name := range FallbackHeaders {
		s.Fallback = s.Fallback || res.Header.Get(name) != ""
	}
	keep = !res.Close
	return nil
}

func (c *client) connect(until time.Time) (*conn, error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		k := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return k, nil
	}
	c.mu.Unlock()
	d := net.Dialer{Deadline: until}
	nc, err := d.Dial("tcp", c.plan.Address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: nc, r: bufio.NewReader(nc)}, nil
}

// Summary is what became of some shots. In JSON latencies are milliseconds.
type Summary struct {
	Requests    int            `json:"requests"`
	Failed      int            `json:"failed"`
	FailedShare float64        `json:"failed_share"`
	Fallbacks   int            `json:"fallbacks"`
	P50         Millis         `json:"p50_ms"`
	P99         Millis         `json:"p99_ms"`
	P999        Millis         `json:"p999_ms"`
	Max         Millis         `json:"max_ms"`
	Outcomes    map[string]int `json:"outcomes"` // by status, or by how it broke
}

// Millis is a duration that is written in milliseconds.
type Millis time.Duration

// MarshalJSON writes three decimals.
func (m Millis) MarshalJSON() ([]byte, error) { return []byte(m.text(3)), nil }

// String writes one decimal.
func (m Millis) String() string { return m.text(1) }

func (m Millis) text(decimals int) string {
	return strconv.FormatFloat(float64(m)/1e6, 'f', decimals, 64)
}

// Summarise looks at the shots that were due from from until before to.
func Summarise(shots []Shot, from, to time.Duration) Summary {
	s := Summary{Outcomes: map[string]int{}}
	var took []time.Duration
	for _, shot := range shots {
		if shot.Due < from || shot.Due >= to {
			continue
		}
		s.Requests++
		took = append(took, shot.Took)
		if shot.Fallback {
			s.Fallbacks++
		}
		name := strconv.Itoa(int(shot.Status))
		if shot.Status == 0 {
			name = shot.Broken.String()
		}
		s.Outcomes[name]++
		if shot.Failed() {
			s.Failed++
		}
	}
	if s.Requests == 0 {
		return s
	}
	slices.Sort(took)
	s.FailedShare = float64(s.Failed) / float64(s.Requests)
	s.P50, s.P99, s.P999 = Millis(Percentile(took, 0.5)), Millis(Percentile(took, 0.99)), Millis(Percentile(took, 0.999))
	s.Max = Millis(took[len(took)-1])
	return s
}

// Percentile is the nearest rank in sorted values, 0 when there are none.
func Percentile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(share * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}
