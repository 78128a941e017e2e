// Package backend is an HTTP/1.1 server that fails on demand, for tests of
// what stands before it. A Script, which may change at any time, says how: it
// refuses connections, resets them, hangs before or after the head of an
// answer, trickles, talks garbage, answers an error or takes its time, each at
// a rate drawn from a generator with a fixed seed.
//
// Start runs one in this process. Spawn runs one in a process of its own, so
// that kill -9 is the real thing; it is scripted over an HTTP port beside
// the one it serves on (see child.go).
//
// It counts what reached it, not what it answered: extra load is seen here.
// Sockets are real and the framing is written by hand, because net/http's
// server will not misbehave. At most maxConns connections are open, heads are
// bounded, and everything ends with Close. A connection costs a goroutine;
// faults and counts take one lock a request, which is fine for thousands of
// requests a second and no more.
package backend

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Counts is what reached a backend since it started.
type Counts struct {
	Connections uint64 `json:"connections"`
	Requests    uint64 `json:"requests"` // whole heads, health checks not among them
	Checks      uint64 `json:"checks"`   // GET HealthPath
}

// Add returns the sum of c and d.
func (c Counts) Add(d Counts) Counts {
	return Counts{c.Connections + d.Connections, c.Requests + d.Requests, c.Checks + d.Checks}
}

const (
	maxConns = 16 << 10
	maxHead  = 64 << 10
	maxSent  = 16 << 20 // of a request's body
)

// Server is a running backend. All methods are safe for many goroutines.
type Server struct {
	addr string
	quit chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex
	script   Script
	version  int // of script
	rng      *rand.Rand
	counts   Counts
	listener net.Listener          // nil while it refuses
	conns    map[*net.TCPConn]bool // true while one hangs
	closed   bool
}

// Start serves on addr, host:port with 0 for any port. seed fixes which
// requests suffer, in the order in which they come.
func Start(addr string, seed uint64) (*Server, error) {
	s := &Server{addr: addr, quit: make(chan struct{}), conns: map[*net.TCPConn]bool{}, rng: rand.New(rand.NewPCG(seed, 1))}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return nil, err
	}
	s.addr = s.listener.Addr().String()
	return s, nil
}

// Addr is the address that it serves on, also while it refuses.
func (s *Server) Addr() string { return s.addr }

// Counts is what reached it so far.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// Set puts a script in force. Connections that hang are closed, as those of a
// process that is started anew are; a request that is being answered or waits
// out its delay ends as it began. An invalid script changes nothing.
func (s *Server) Set(script Script) error {
	if err := script.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	for c, hangs := range s.conns {
		if hangs || script.Refuse {
			_ = c.Close()
		}
	}
	switch {
	case script.Refuse && s.listener != nil:
		_ = s.listener.Close()
		s.listener = nil
	case !script.Refuse && s.listener == nil:
		if err := s.open(); err != nil {
			return err
		}
	}
	s.script = script
	s.version++
	return nil
}

// Close ends the server and all its connections.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.quit)
		if s.listener != nil {
			_ = s.listener.Close()
		}
		for c := range s.conns {
			_ = c.Close()
		}
	}
	s.mu.Unlock()
	s.done.Wait()
	return nil
}

// open begins to listen. s.mu is held.
func (s *Server) open() error {
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	s.listener = l
	s.done.Go(func() { s.accept(l) })
	return nil
}

func (s *Server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, most likely: others must close first.
			select {
			case <-s.quit:
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		conn := c.(*net.TCPConn)
		s.mu.Lock()
		s.counts.Connections++
		ok := s.listener == l && !s.closed && len(s.conns) < maxConns
		if ok {
			s.conns[conn] = false
			s.done.Go(func() { s.serve(conn) })
		}
		s.mu.Unlock()
		if !ok {
			_ = conn.Close()
		}
	}
}

// serve answers requests on one connection until it ends.
func (s *Server) serve(conn *net.TCPConn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		_ = conn.Close()
	}()
	in := &io.LimitedReader{R: conn}
	r := bufio.NewReader(in)
	for {
		in.N = maxHead
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		in.N = maxSent
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		if !s.answer(conn, req) || req.Close {
			return
		}
	}
}

// fate is what becomes of a request.
type fate struct {
	Script
	version int
	misdeed
	delay time.Duration
}

// decide counts a request and draws its fate.
func (s *Server) decide(check bool) fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if check {
		s.counts.Checks++
		if !s.script.Checks {
			return fate{}
		}
	} else {
		s.counts.Requests++
	}
	what, delay := s.script.draw(s.rng)
	return fate{s.script, s.version, what, delay}
}

// answer does what the script says; false ends the connection.
func (s *Server) answer(conn *net.TCPConn, req *http.Request) bool {
	f := s.decide(req.URL.Path == HealthPath)
	if f.misdeed == hangBefore {
		s.hang(conn, f.version)
		return false
	}
	if !s.wait(f.delay) {
		return false
	}
	status, body := http.StatusOK, f.Body
	switch f.misdeed {
	case reset:
		_ = conn.SetLinger(0) // the close is a reset then
		return false
	case garbage:
		_, _ = io.WriteString(conn, "\x00\x16\x03 this is no HTTP\r\n\r\n")
		return false
	case failure:
		if status = f.ErrorStatus; status == 0 {
			status = http.StatusServiceUnavailable
		}
	case hangAfter, trickle:
		body = max(body, 1)
	}
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", status, http.StatusText(status), body)
	if status == http.StatusNoContent || status == http.StatusNotModified {
		head, body = fmt.Sprintf("HTTP/1.1 %d %s\r\n\r\n", status, http.StatusText(status)), 0
	}
	if req.Method == http.MethodHead {
		body = 0
	}
	switch {
	case f.misdeed == hangAfter:
		if _, err := io.WriteString(conn, head); err == nil {
			s.hang(conn, f.version)
		}
		return false
	case f.misdeed == trickle:
		_, err := io.WriteString(conn, head)
		for range body {
			if err != nil || !s.wait(f.TrickleEvery) {
				return false
			}
			_, err = conn.Write([]byte{'t'})
		}
		return err == nil
	}
	_, err := io.WriteString(conn, head+strings.Repeat("b", body))
	return err == nil
}

// hang keeps the connection open until the peer closes it or the script of
// this version is over.
func (s *Server) hang(conn *net.TCPConn, version int) {
	s.mu.Lock()
	over := version != s.version
	s.conns[conn] = true
	s.mu.Unlock()
	if !over {
		_, _ = io.Copy(io.Discard, conn)
	}
}

// wait is false when the server was closed meanwhile.
func (s *Server) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.quit:
		return false
	case <-t.C:
		return true
	}
}
