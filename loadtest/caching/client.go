package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// client is one connection to a gateway.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	body [pageSize + 1]byte
}

func connect(addr string) (*client, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	return &client{conn: c, in: bufio.NewReaderSize(c, 2<<10)}, nil
}

func (c *client) close() { _ = c.conn.Close() }

// answer is a good one: 200 and the page that was asked for.
type answer struct {
	number int64 // of the request to the backend that it was made for
	hit    bool  // without asking the backend now
}

// ask sends a request and waits for its answer.
func (c *client) ask(path string) (a answer, err error) {
	if err := c.send(path); err != nil {
		return a, err
	}
	return c.receive(path)
}

func (c *client) send(path string) error {
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	_, err := io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: caching.test\r\n\r\n")
	return err
}

func (c *client) receive(path string) (a answer, err error) {
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return a, fmt.Errorf("%s: %w", path, err)
	}
	n, err := io.ReadFull(res.Body, c.body[:])
	if err == nil || !errors.Is(err, io.ErrUnexpectedEOF) {
		return a, fmt.Errorf("%s: expected %d bytes, got %d and %w", path, pageSize, n, err)
	}
	number, ok := isPage(c.body[:n], path)
	if res.StatusCode != http.StatusOK || !ok {
		return a, fmt.Errorf("%s: expected 200 and the page, got %s and %.100q", path, res.Status, c.body[:n])
	}
	return answer{number, strings.Contains(res.Header.Get("Cache-Status"), "; hit")}, nil
}

// together has every client ask once, all at the same time, and returns the
// answers and how long each took.
func together(clients []*client, path string) (began time.Time, answers []answer, took []time.Duration, err error) {
	answers, took = make([]answer, len(clients)), make([]time.Duration, len(clients))
	errs := make([]error, len(clients))
	start := make(chan struct{})
	var ready, done sync.WaitGroup
	for i, c := range clients {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			answers[i], errs[i] = c.ask(path)
			took[i] = time.Since(began)
		})
	}
	ready.Wait()
	began = time.Now()
	close(start)
	done.Wait()
	return began, answers, took, errors.Join(errs...)
}

// steady is a load at a fixed rate, an open loop: requests are due by the clock,
// whatever became of those before.
type steady struct {
	addr    string
	clients int
	rate    int              // a second
	path    func(int) string // of the nth request
}

// sample is how long a request took that was due then, from the start.
type sample struct {
	due, took time.Duration
	hit       bool
}

// run loads from a time on for a while, and returns the samples in the order of
// due.
func (s steady) run(ctx context.Context, began time.Time, total time.Duration) ([]sample, error) {
	var done sync.WaitGroup
	all := make([][]sample, s.clients)
	errs := make([]error, s.clients)
	for i := range s.clients {
		done.Go(func() { all[i], errs[i] = s.client(ctx, i, began, total) })
	}
	done.Wait()
	samples := slices.Concat(all...)
	slices.SortFunc(samples, func(a, b sample) int { return int(a.due - b.due) })
	return samples, errors.Join(errs...)
}

func (s steady) client(ctx context.Context, i int, began time.Time, total time.Duration) (samples []sample, err error) {
	c, err := connect(s.addr)
	if err != nil {
		return nil, err
	}
	defer c.close()
	samples = make([]sample, 0, int(total.Seconds()*float64(s.rate))/s.clients+1)
	for n := i; ctx.Err() == nil; n += s.clients {
		due := time.Duration(n) * time.Second / time.Duration(s.rate)
		if due >= total {
			return samples, nil
		}
		from := began.Add(due)
		// What a request waits for the answer before it counts; that the timer of
		// this process is up to a millisecond late does not.
		if wait := time.Until(from); wait > 0 {
			time.Sleep(wait)
			from = time.Now()
		}
		a, err := c.ask(s.path(n))
		if err != nil {
			return samples, err
		}
		samples = append(samples, sample{due, time.Since(from), a.hit})
	}
	return samples, ctx.Err()
}

// spread is how long requests took.
type spread struct {
	p50, p99, most time.Duration
	misses         int
}

// spreadOf is that of the samples that were due from one time to another.
func spreadOf(samples []sample, from, to time.Duration) (s spread) {
	var took []time.Duration
	for _, m := range samples {
		if m.due >= from && m.due < to {
			took = append(took, m.took)
			if !m.hit {
				s.misses++
			}
		}
	}
	if len(took) == 0 {
		return s
	}
	slices.Sort(took)
	s.p50, s.p99, s.most = took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
	return s
}

// fill asks for n pages twice, so that they are not only stored but kept, on
// some connections as fast as it goes. It returns how many second requests were
// not answered from memory.
func fill(ctx context.Context, addr string, first, n int, path func(int) string) (missed int, err error) {
	const clients = 8
	var done sync.WaitGroup
	errs := make([]error, clients)
	misses := make([]int, clients)
	for i := range clients {
		done.Go(func() {
			c, err := connect(addr)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.close()
			for k := first + i; k < first+n && ctx.Err() == nil; k += clients {
				if _, errs[i] = c.ask(path(k)); errs[i] != nil {
					return
				}
				var a answer
				if a, errs[i] = c.ask(path(k)); errs[i] != nil {
					return
				}
				if !a.hit {
					misses[i]++
				}
			}
		})
	}
	done.Wait()
	for _, m := range misses {
		missed += m
	}
	return missed, errors.Join(append(errs, ctx.Err())...)
}
