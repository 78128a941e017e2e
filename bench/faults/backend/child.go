package backend

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The variables that make a process a backend.
const (
	childAddress = "FAULT_BACKEND_ADDRESS"
	childSeed    = "FAULT_BACKEND_SEED"
)

// ServeIfChild turns this process into a backend when Spawn started it, and
// then does not return. It belongs at the start of main or TestMain.
//
// The first line that such a process prints is "ADDRESS CONTROL": where it
// serves, and the port on which PUT /script takes a Script and GET /counts
// tells Counts, both JSON. It ends when its standard input does.
func ServeIfChild() {
	addr := os.Getenv(childAddress)
	if addr == "" {
		return
	}
	if err := serveChild(addr); err != nil {
		fmt.Fprintln(os.Stderr, "backend:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveChild(addr string) error {
	var seed uint64
	if _, err := fmt.Sscan(os.Getenv(childSeed), &seed); err != nil {
		return fmt.Errorf("%s: expected a number: %w", childSeed, err)
	}
	s, err := Start(addr, seed)
	if err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := http.Server{Handler: s.Control(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(control) }()
	fmt.Println(s.Addr(), control.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = server.Close()
	return s.Close()
}

// maxScript bounds the JSON of a script.
const maxScript = 64 << 10

// Control is the HTTP interface by which a backend is scripted.
func (s *Server) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /script", func(w http.ResponseWriter, r *http.Request) {
		var script Script
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxScript))
		d.DisallowUnknownFields()
		err := d.Decode(&script)
		if err == nil {
			err = s.Set(script)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /counts", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s.Counts())
	})
	return mux
}

// Child is a backend in a process of its own. Its methods may be called from
// any goroutine.
type Child struct {
	seed uint64

	mu      sync.Mutex
	addr    string
	control string
	cmd     *exec.Cmd // nil while it is dead
	stdin   io.Closer
	exited  chan struct{}
	before  Counts // what reached the processes before this one
}

// Spawn runs this program once more as a backend that serves on addr. The
// program must call ServeIfChild. ctx bounds the start; Close must be called.
func Spawn(ctx context.Context, addr string, seed uint64) (*Child, error) {
	c := &Child{seed: seed, addr: addr}
	return c, c.Revive(ctx)
}

// Addr is the address that it serves on, also while it is dead.
func (c *Child) Addr() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addr
}

// Revive starts the process again after Kill, on the same address and with the
// zero Script. It does nothing while the process lives.
func (c *Child) Revive(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd != nil {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childAddress+"="+c.addr, fmt.Sprintf("%s=%d", childSeed, c.seed))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	line := make(chan string, 1)
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(exited)
		// The kernel counts a thread, not a process, as the parent whose death
		// Pdeathsig tells of: this one lives until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		s := bufio.NewScanner(stdout)
		if s.Scan() {
			line <- s.Text()
		}
		close(line)
		_, _ = io.Copy(io.Discard, stdout)
		_ = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return err
	}
	c.cmd, c.stdin, c.exited = cmd, stdin, exited
	select {
	case text := <-line:
		if _, err := fmt.Sscan(text, &c.addr, &c.control); err != nil {
			return errors.Join(fmt.Errorf("the backend at %s does not start", c.addr), c.kill())
		}
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("start the backend at %s: %w", c.addr, ctx.Err()), c.kill())
	}
	return nil
}

// Kill ends the process with SIGKILL and waits until it is gone. Its counts
// are read just before, so requests that come in between are missed.
func (c *Child) Kill(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil {
		return nil
	}
	n, err := c.ask(ctx)
	c.before = c.before.Add(n)
	return errors.Join(err, c.kill())
}

// Close ends the process.
func (c *Child) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kill()
}

// kill ends the process. c.mu is held.
func (c *Child) kill() error {
	if c.cmd == nil {
		return nil
	}
	err := c.cmd.Process.Kill()
	<-c.exited
	_ = c.stdin.Close()
	c.cmd = nil
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Set puts a script in force, see Server.Set.
func (c *Child) Set(ctx context.Context, script Script) error {
	text, err := json.Marshal(script)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.call(ctx, http.MethodPut, "/script", text)
	return err
}

// Counts is what reached this process and those before it.
func (c *Child) Counts(ctx context.Context) (Counts, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil {
		return c.before, nil
	}
	n, err := c.ask(ctx)
	return c.before.Add(n), err
}

func (c *Child) ask(ctx context.Context) (n Counts, err error) {
	text, err := c.call(ctx, http.MethodGet, "/counts", nil)
	if err != nil {
		return n, err
	}
	return n, json.Unmarshal(text, &n)
}

// call speaks to the control port. c.mu is held.
func (c *Child) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	if c.cmd == nil {
		return nil, fmt.Errorf("the backend at %s is dead", c.addr)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.control+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	transport := http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxScript))
	if err == nil && res.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, res.Status, strings.TrimSpace(string(text)))
	}
	return text, err
}
