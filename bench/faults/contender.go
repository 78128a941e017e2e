package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/template"
	"time"
)

//go:embed configs
var configFiles embed.FS

var configs = template.Must(template.ParseFS(configFiles, "configs/*.tmpl"))

// contender is a gateway that scenarios are run against.
type contender struct {
	name    string
	configs []string // templates, written to the run's folder without .tmpl
	argv    []string // arguments; DIR stands for the run's folder
	start   func(s site) (running, error)
}

// running is a contender that was started.
type running struct {
	pid  int
	stop func() error // must be called; fails when it has ended by itself
}

// contenders are those that run as processes of their own.
var contenders = []contender{
	{name: "sluice", configs: []string{"sluice.yaml"}, argv: []string{"-c", "DIR/sluice.yaml"}},
	{name: "haproxy", configs: []string{"haproxy.cfg", "fallback.http"}, argv: []string{"-db", "-f", "DIR/haproxy.cfg"}},
	{name: "nginx", configs: []string{"nginx.conf"}, argv: []string{"-p", "DIR", "-c", "DIR/nginx.conf", "-e", "DIR/error.log"}},
}

// site is what the templates of one run may use.
type site struct {
	tuning
	Dir     string
	Listen  string
	Targets []string // host:port
	Root    bool

	// MaxFails is a tenth of one target's requests in two seconds.
	MaxFails int

	// With a Resolver (host:port) the targets are what it says of Name.
	Resolver, Name, Port string
}

// stopGrace is how long a process gets between SIGTERM and SIGKILL.
const stopGrace = 5 * time.Second

// launch starts c and waits until it forwards.
func (c contender) launch(ctx context.Context, s site) (running, error) {
	for _, name := range c.configs {
		var b strings.Builder
		if err := configs.ExecuteTemplate(&b, name+".tmpl", s); err != nil {
			return running{}, err
		}
		text := b.String()
		if strings.HasSuffix(name, ".http") {
			text = strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\r\n")
		}
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o600); err != nil {
			return running{}, err
		}
	}
	r, err := c.start(s)
	if err != nil {
		return running{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := forwards(ctx, s.Listen); err != nil {
		return running{}, errors.Join(fmt.Errorf("%s does not forward: %w", c.name, err), r.stop())
	}
	return r, nil
}

// process is the start of a contender that is a process of its own.
func process(binary string, argv []string) func(site) (running, error) {
	return func(s site) (running, error) {
		out, err := os.Create(filepath.Join(s.Dir, "output.log"))
		if err != nil {
			return running{}, err
		}
		defer out.Close()
		cmd := exec.Command(binary)
		for _, a := range argv {
			cmd.Args = append(cmd.Args, strings.ReplaceAll(a, "DIR", s.Dir))
		}
		cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, out, out
		// The group lets stop reach workers.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		started, exited := make(chan error, 1), make(chan struct{})
		go func() {
			defer close(exited)
			// The kernel counts a thread, not a process, as the parent whose
			// death Pdeathsig tells of: this one lives until the child is gone.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			err := cmd.Start()
			started <- err
			if err == nil {
				_ = cmd.Wait()
			}
		}()
		if err := <-started; err != nil {
			return running{}, err
		}
		return running{pid: cmd.Process.Pid, stop: func() error {
			select {
			case <-exited:
				text, _ := os.ReadFile(out.Name())
				return fmt.Errorf("%s ended early: %s: %s", binary, cmd.ProcessState, text)
			default:
			}
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
			select {
			case <-exited:
			case <-time.After(stopGrace):
			}
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-exited
			return nil
		}}, nil
	}
}

// forwards asks until an answer comes through.
func forwards(ctx context.Context, addr string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	transport := http.Transport{DisableKeepAlives: true}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
		if err != nil {
			return err
		}
		res, err := transport.RoundTrip(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(res.Status)
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// freePort finds a loopback port below the range from which the kernel takes
// client ports, so that no connection of a load can grab it while a backend is
// dead.
func freePort() (string, error) {
	const low, high = 15000, 32000
	for range 200 {
		addr := fmt.Sprintf("127.0.0.1:%d", low+rand.IntN(high-low))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		return addr, l.Close()
	}
	return "", fmt.Errorf("expected a free port from %d to %d on 127.0.0.1", low, high)
}

// lookUp finds a binary on PATH or where Debian keeps servers; "" when it is
// not installed.
func lookUp(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
		if _, err := os.Stat(path); err != nil {
			return ""
		}
	}
	return path
}

// build compiles Sluice the way a release is.
func build(ctx context.Context, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	out := filepath.Join(dir, "sluice")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, "sluice")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sluice: %w\n%s", err, text)
	}
	return out, nil
}
