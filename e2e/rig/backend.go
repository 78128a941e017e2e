package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Backend is an HTTP/1.1 server that does what a request's path says:
//
//	/echo/TOKEN          answers TOKEN, a line feed, and the request's body;
//	                     with ?size=N also N bytes of Pattern
//	/hold/TOKEN          the same, but only after Release
//	/status/N            answers with that status
//	/headers             answers the request's header as JSON
//	/bytes?n=N           answers N bytes of Pattern, with chunked=1 in chunks
//	/sink                checks that the body is Pattern, answers its length
//	/switch              upgrades to "echo" and sends back what comes
//	/break               begins a body of 100 bytes and breaks it off
//
// Every answer but those of the last two has X-Backend: name.
type Backend struct {
	Name string
	URL  string

	http    http.Server
	release chan struct{}
	free    sync.Once
	held    chan string
	child   *exec.Cmd
	stdin   io.Closer
	exited  chan struct{}
}

// StartBackend runs a backend in this process.
func StartBackend(name string) (*Backend, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := newBackend(name)
	b.URL = "http://" + l.Addr().String()
	go func() { _ = b.http.Serve(l) }()
	return b, nil
}

// maxHeld bounds how many requests Held can tell of before it is read.
const maxHeld = 1024

func newBackend(name string) *Backend {
	b := &Backend{Name: name, release: make(chan struct{}), held: make(chan string, maxHeld)}
	b.http.Handler = b
	return b
}

// Held waits until the next request to /hold has come and returns its token.
func (b *Backend) Held(ctx context.Context) (string, error) {
	select {
	case token := <-b.held:
		return token, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Release lets all requests to /hold go on, now and later.
func (b *Backend) Release() {
	b.free.Do(func() {
		close(b.release)
		if b.stdin != nil {
			_ = b.stdin.Close()
		}
	})
}

// Close ends the backend and the connections to it.
func (b *Backend) Close() error {
	b.Release()
	if b.child != nil {
		return b.Kill()
	}
	return b.http.Close()
}

// ServeHTTP is the backend's own.
func (b *Backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Backend", b.Name)
	word, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	n, _ := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
	switch word {
	case "hold":
		b.held <- rest
		select {
		case <-b.release:
		case <-r.Context().Done():
			return
		}
		b.echo(w, r, rest)
	case "echo":
		b.echo(w, r, rest)
	case "status":
		status, _ := strconv.Atoi(rest)
		w.WriteHeader(status)
	case "headers":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(r.Header)
	case "bytes":
		if r.URL.Query().Get("chunked") == "" {
			w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		}
		_, _ = WritePattern(w, n)
	case "sink":
		n, err := CheckPattern(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		_, _ = fmt.Fprint(w, n)
	case "switch":
		b.switchTo(w, r)
	case "break":
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	default:
		http.NotFound(w, r)
	}
}

// maxEcho bounds the body that /echo sends back.
const maxEcho = 1 << 20

func (b *Backend) echo(w http.ResponseWriter, r *http.Request, token string) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxEcho))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	size, _ := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
	_, _ = fmt.Fprintf(w, "%s\n%s", token, body)
	_, _ = WritePattern(w, size)
}

func (b *Backend) switchTo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "echo" {
		http.Error(w, "expected Upgrade: echo", http.StatusUpgradeRequired)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if rw.Flush() == nil {
		_, _ = io.Copy(conn, rw)
	}
}

// childName is the variable that makes a process a backend.
const childName = "RIG_BACKEND"

// ServeIfChild turns this process into a backend when StartChild started it,
// and then does not return. It belongs at the start of TestMain or main.
func ServeIfChild() {
	name := os.Getenv(childName)
	if name == "" {
		return
	}
	b, err := StartBackend(name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(b.URL)
	go func() {
		for token := range b.held {
			fmt.Println(token)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin) // ends at Release
	b.Release()
	select {} // until it is killed
}

// StartChild runs a backend in a process of its own: this program once more,
// which must call ServeIfChild.
func StartChild(name string) (*Backend, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := newBackend(name)
	b.child = exec.Command(self)
	b.child.Env = append(os.Environ(), childName+"="+name)
	b.child.Stderr = os.Stderr
	b.child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := b.child.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := b.child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := Launch(b.child); err != nil {
		return nil, err
	}
	b.stdin = stdin
	b.exited = make(chan struct{})
	lines := bufio.NewScanner(stdout)
	if lines.Scan() {
		b.URL = lines.Text()
	}
	go func() {
		defer close(b.exited)
		for lines.Scan() {
			b.held <- lines.Text()
		}
		_ = b.child.Wait()
	}()
	if b.URL == "" {
		return nil, errors.Join(errors.New("the backend does not start"), b.Kill())
	}
	return b, nil
}

// Kill ends a child with SIGKILL and waits until it is gone.
func (b *Backend) Kill() error {
	err := b.child.Process.Kill()
	<-b.exited
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// HeldByEither waits like Held, for either of two backends.
func HeldByEither(ctx context.Context, a, b *Backend) (token string, on *Backend, err error) {
	select {
	case token = <-a.held:
		return token, a, nil
	case token = <-b.held:
		return token, b, nil
	case <-ctx.Done():
		return "", nil, ctx.Err()
	}
}
