package rig

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Load is clients that each keep one connection to a gateway busy with
// requests to a Backend's /echo, one after another. A client opens a new
// connection when an answer said Connection: close or was broken off, and
// after every request when it is one of Reconnect. It repeats nothing but
// attempts to connect: a request is sent once, and what became of it counts.
type Load struct {
	Dial      func(ctx context.Context) (net.Conn, error)
	Clients   int
	Name      string // told apart from other loads in tokens
	Reconnect int    // how many of the clients use each connection once
	Bodies    bool   // also requests with bodies, of known and of unknown length
	Watch     func(*http.Response)
}

// Dialer dials one address.
func Dialer(network, addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
}

// Failure is a request that was not answered as it should.
type Failure struct {
	Token       string
	Began       time.Time
	Err         error // set when there was no whole answer
	Status      int
	ContentType string
	Body        string // its beginning
}

func (f Failure) String() string {
	if f.Err != nil {
		return f.Token + ": " + f.Err.Error()
	}
	return fmt.Sprintf("%s: status %d, %s, %.300q", f.Token, f.Status, f.ContentType, f.Body)
}

// Result is what became of a load.
type Result struct {
	Answers     int // as they should be
	Failed      int
	Failures    []Failure // the first of them
	Connections int       // opened
	Refused     int       // attempts to open one that failed
}

// maxFailures bounds what a Result keeps.
const maxFailures = 100

// Err tells of every failure kept, nil when there was none.
func (r Result) Err() error {
	if r.Failed == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d requests failed", r.Failed, r.Failed+r.Answers)
	for _, f := range r.Failures[:min(len(r.Failures), 10)] {
		b.WriteString("\n\t" + f.String())
	}
	return errors.New(b.String())
}

// Running is a load under way.
type Running struct {
	load   Load
	ctx    context.Context
	stop   chan struct{}
	once   sync.Once
	done   sync.WaitGroup
	mu     sync.Mutex
	result Result
}

// Start begins the load. It goes on until Stop; ctx only ends what hangs.
func (l Load) Start(ctx context.Context) *Running {
	r := &Running{load: l, ctx: ctx, stop: make(chan struct{})}
	for i := range l.Clients {
		r.done.Go(func() { r.client(i) })
	}
	return r
}

// Now is what has become of the load so far.
func (r *Running) Now() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result
}

// Stop lets every client finish its request and returns the result.
func (r *Running) Stop() Result {
	r.once.Do(func() { close(r.stop) })
	r.done.Wait()
	return r.Now()
}

func (r *Running) stopped() bool {
	select {
	case <-r.stop:
		return true
	case <-r.ctx.Done():
		return true
	default:
		return false
	}
}

// answerTime bounds one request. It is far from what any should take.
const answerTime = 30 * time.Second

func (r *Running) client(number int) {
	var c net.Conn
	var in *bufio.Reader
	for n := 0; !r.stopped(); n++ {
		if c == nil {
			if c = r.connect(); c == nil {
				return
			}
			in = bufio.NewReader(c)
		}
		q := r.load.request(number, n)
		again, failure := q.ask(c, in, r.load.Watch)
		r.mu.Lock()
		if failure == nil {
			r.result.Answers++
		} else {
			r.result.Failed++
			if len(r.result.Failures) < maxFailures {
				r.result.Failures = append(r.result.Failures, *failure)
			}
		}
		r.mu.Unlock()
		if !again {
			_ = c.Close()
			c = nil
		}
	}
	if c != nil {
		_ = c.Close()
	}
}

// connect tries until it has a connection; nil says that the load is over.
func (r *Running) connect() net.Conn {
	for !r.stopped() {
		c, err := r.load.Dial(r.ctx)
		r.mu.Lock()
		if err == nil {
			r.result.Connections++
		} else {
			r.result.Refused++
		}
		r.mu.Unlock()
		if err == nil {
			return c
		}
		// A door that is closed answers at once, over and over.
		select {
		case <-time.After(time.Millisecond):
		case <-r.stop:
		}
	}
	return nil
}

// question is a request and the answer that it must get.
type question struct {
	token string
	send  []byte
	want  []byte
	close bool
}

// request makes the nth request of a client. Its form depends on n alone.
func (l Load) request(client, n int) question {
	token := fmt.Sprintf("%s-%d-%d", l.Name, client, n)
	q := question{token: token, close: client < l.Reconnect}
	method, query, framing, body := "GET", "", "", ""
	if l.Bodies {
		switch n % 4 {
		case 1:
			method, body = "POST", strings.Repeat(token+" ", 1+n%50)
			framing = "Content-Length: " + strconv.Itoa(len(body)) + "\r\n"
		case 2:
			method, body = "PUT", strings.Repeat(token+" ", 1+n%900)
			framing = "Transfer-Encoding: chunked\r\n"
		case 3:
			query = "?size=100000"
		}
	}
	q.want = []byte(token + "\n" + body)
	if query != "" {
		var b bytes.Buffer
		_, _ = WritePattern(&b, 100000)
		q.want = append(q.want, b.Bytes()...)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s /echo/%s%s HTTP/1.1\r\nHost: load.test\r\nX-Request-Id: %s\r\n%s", method, token, query, token, framing)
	if q.close {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	if strings.HasPrefix(framing, "Transfer") {
		fmt.Fprintf(&b, "%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	} else {
		b.WriteString(body)
	}
	q.send = b.Bytes()
	return q
}

// ask sends q and compares the answer. again says that the connection may be
// used for another request.
func (q question) ask(c net.Conn, in *bufio.Reader, watch func(*http.Response)) (again bool, f *Failure) {
	f = &Failure{Token: q.token, Began: time.Now()}
	_ = c.SetDeadline(f.Began.Add(answerTime))
	_, writeErr := c.Write(q.send)
	// Even when the connection broke, an answer may have been sent before.
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		f.Err = fmt.Errorf("no answer: %w", errors.Join(err, writeErr))
		return false, f
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, int64(len(q.want))+maxProblem))
	f.Status, f.ContentType = res.StatusCode, res.Header.Get("Content-Type")
	f.Body = string(body[:min(len(body), maxProblem)])
	again = !res.Close && !q.close && err == nil
	switch {
	case err != nil:
		f.Err = fmt.Errorf("status %d, body broken after %d bytes: %w", res.StatusCode, len(body), err)
		return false, f
	case res.StatusCode != http.StatusOK || !bytes.Equal(body, q.want):
		return again, f
	}
	if watch != nil {
		watch(res)
	}
	return again, nil
}

// maxProblem is more than a problem document takes.
const maxProblem = 1 << 10

// IsRefused reports whether err is a door that is closed.
func IsRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}
