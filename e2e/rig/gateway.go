// Package rig runs a real gateway process between real backends and clients
// that check every byte, for the tests in e2e and for loadtest/soak.
//
// Build makes the binary, Start runs it and reads from its log where its doors
// are. A Backend (backend.go) answers what the request tells it to, in this
// process or, so that it can be killed, in one of its own. Load (load.go) keeps
// connections busy with requests whose answers it knows beforehand, and never
// repeats one: every failure of the gateway shows. Transfer (transfer.go) moves
// bodies that are larger than memory.
//
// Nothing here sleeps to wait for something: all waits poll or read, and end by
// a context. Only processes that were started here are ever signalled.
package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Build compiles the gateway of this module into dir and returns the binary.
func Build(ctx context.Context, dir string, race bool) (string, error) {
	binary := filepath.Join(dir, "sluice")
	args := []string{"build", "-o", binary}
	if race {
		binary += "-race"
		args = []string{"build", "-race", "-o", binary}
	}
	out, err := exec.CommandContext(ctx, "go", append(args, "sluice")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

// Gateway is a running gateway process. Its methods may be called from any
// goroutine.
type Gateway struct {
	Doors []string // addresses of the doors at the start, in their order
	Admin string   // address of the private door, "" for none

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone and its log is read

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed, and replaced, at every line
}

// maxLines bounds what is kept of a process's log.
const maxLines = 100_000

// Command is how a gateway is started.
type Command struct {
	Binary string
	Args   []string
	Env    []string  // beside a clean environment
	Stdout io.Writer // nil drops it; writes come from another goroutine
}

// Exec is c as a process that has not been started.
func (c Command) Exec() *exec.Cmd {
	cmd := exec.Command(c.Binary, c.Args...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "GOMAXPROCS=" + os.Getenv("GOMAXPROCS"),
		"GORACE=atexit_sleep_ms=0", // the race detector's second at every exit, which reports nothing new
	}, c.Env...)
	cmd.Stdout = c.Stdout
	// A test that dies takes its gateway along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Start runs a gateway and waits until it serves. When it does not come to
// that, the error has what it said.
func Start(ctx context.Context, c Command) (*Gateway, error) {
	g := &Gateway{cmd: c.Exec(), exited: make(chan struct{}), more: make(chan struct{})}
	stderr, err := g.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := Launch(g.cmd); err != nil {
		return nil, err
	}
	go g.read(stderr)
	line, err := g.Await(ctx, func(line string) bool { return strings.Contains(line, `"message":"serving"`) })
	if err != nil {
		_ = g.cmd.Process.Kill()
		<-g.exited
		return nil, fmt.Errorf("the gateway does not serve: %w\n%s", err, g.Log())
	}
	var serving struct {
		Listen []string `json:"listen"`
		Admin  string   `json:"admin"`
	}
	if err := json.Unmarshal([]byte(line), &serving); err != nil {
		return nil, errors.Join(err, g.Kill())
	}
	g.Doors, g.Admin = serving.Listen, serving.Admin
	return g, nil
}

func (g *Gateway) read(stderr io.Reader) {
	defer close(g.exited)
	s := bufio.NewScanner(stderr)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		g.mu.Lock()
		if len(g.lines) < maxLines {
			g.lines = append(g.lines, s.Text())
		}
		close(g.more)
		g.more = make(chan struct{})
		g.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, stderr)
	_ = g.cmd.Wait()
}

// Await returns the first line of the process's log, old or new, that fits. It
// fails when the process ends or ctx does.
func (g *Gateway) Await(ctx context.Context, fits func(line string) bool) (string, error) {
	for seen := 0; ; {
		g.mu.Lock()
		lines, more := g.lines[seen:], g.more
		g.mu.Unlock()
		for _, line := range lines {
			if fits(line) {
				return line, nil
			}
		}
		seen += len(lines)
		select {
		case <-more:
		case <-g.exited:
			if g.mu.Lock(); seen == len(g.lines) {
				g.mu.Unlock()
				return "", fmt.Errorf("the process ended: %s", g.cmd.ProcessState)
			}
			g.mu.Unlock()
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// Log is what the process has logged so far.
func (g *Gateway) Log() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.lines, "\n")
}

// PID is the process's number.
func (g *Gateway) PID() int { return g.cmd.Process.Pid }

// Signal sends the process a signal.
func (g *Gateway) Signal(s os.Signal) error { return g.cmd.Process.Signal(s) }

// Wait returns the process's exit code when it has ended, -1 when a signal
// ended it.
func (g *Gateway) Wait(ctx context.Context) (int, error) {
	select {
	case <-g.exited:
		return g.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("the gateway does not end: %w", ctx.Err())
	}
}

// Kill ends the process at once, if it is still there.
func (g *Gateway) Kill() error {
	err := g.cmd.Process.Kill()
	<-g.exited
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Stop asks the process to end. It is an error when it does not, with code 0,
// before ctx ends; it is killed then.
func (g *Gateway) Stop(ctx context.Context) error {
	select {
	case <-g.exited:
	default:
		if err := g.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	code, err := g.Wait(ctx)
	if err != nil {
		return errors.Join(err, g.Kill())
	}
	if code != 0 {
		return fmt.Errorf("the gateway ended with %s", g.cmd.ProcessState)
	}
	return nil
}

// Reads of /proc/PID/status.
const (
	residentPeak = "VmHWM:"
	resident     = "VmRSS:"
)

// Resident is the process's resident memory in bytes: the most it ever was, and
// what it is now.
func (g *Gateway) Resident() (peak, now int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.PID()))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		name, value, _ := strings.Cut(line, "\t")
		if name != residentPeak && name != resident {
			continue
		}
		if _, err := fmt.Sscanf(value, "%d kB", &kib); err != nil {
			return 0, 0, fmt.Errorf("/proc/PID/status: expected %s N kB, got %q", name, line)
		}
		if name == residentPeak {
			peak = kib << 10
		} else {
			now = kib << 10
		}
	}
	return peak, now, nil
}

// Poll calls until, often, for as long as it is false. It fails when ctx ends.
func Poll(ctx context.Context, what string, until func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !until() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		}
	}
	return nil
}

// FreeAddress is a loopback address that nobody listened on a moment ago.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
