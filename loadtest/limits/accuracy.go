package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sluice/e2e/rig"
)

const (
	accuracyRate    = 2000 // a second
	accuracyBurst   = 200
	accuracyClients = 8 // connections to each gateway; each asks as fast as it is answered
)

// accuracy prints what is admitted of a rate.
func (p plan) accuracy(ctx context.Context) error {
	fmt.Fprintf(p.out, "\n### Limit accuracy\n\n%d/s with a burst of %d, one key, for %d s; %d clients a gateway ask without pause.\n\n"+
		"| case | offered | admitted | beside one burst, of rate x time | bound |\n|---|---:|---:|---:|---|\n",
		accuracyRate, accuracyBurst, p.seconds, accuracyClients)
	var failed []error
	for _, c := range []struct {
		name     string
		gateways int
		procs    string
		mode     string
		over     float64 // what may be admitted beyond the rate, in requests
		bound    string
	}{
		{"one gateway, one core", 1, "1", "", 0, "1 %"},
		{"one gateway, two cores", 1, "2", "", 0, "1 %"},
		{"three gateways, exact", 3, "1", "exact", 0, "1 %"},
		// n*burst + (n-1)*rate*(2*sync+d), less the one burst that is told apart
		{"three gateways, fast", 3, "1", "fast", 2*accuracyBurst + 2*accuracyRate*0.25, "two more bursts and 0.5 s of rate"},
	} {
		r, err := p.admitted(ctx, c.gateways, c.procs, c.mode)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		due := accuracyRate * r.took.Seconds()
		share := (float64(r.admitted) - accuracyBurst) / due
		fmt.Fprintf(p.out, "| %s | %d | %d | %.4f | %s |\n", c.name, r.asked, r.admitted, share, c.bound)
		if share < 0.99 || float64(r.admitted)-accuracyBurst-c.over > due*1.01 {
			failed = append(failed, fmt.Errorf("%s: admitted %d, expected %.0f within the bound", c.name, r.admitted, due+accuracyBurst))
		}
	}
	return errors.Join(failed...)
}

type admitted struct {
	asked, admitted int64
	took            time.Duration
}

// admitted loads gateways that are limited together.
func (p plan) admitted(ctx context.Context, n int, procs, mode string) (r admitted, err error) {
	text := "listen: [\"127.0.0.1:0\"]\nadmin: { address: \"\" }\nlog: { access: { enabled: false } }\nlimits:\n  all:\n" +
		fmt.Sprintf("    rate: %d/s\n    burst: %d\n    key: route\n", accuracyRate, accuracyBurst)
	if mode != "" {
		addr, end, err := startRedis(ctx, p.dir)
		if err != nil {
			return r, err
		}
		defer end()
		// Redis counts as gone until it was connected to: nothing is let pass then.
		text = "redis: { main: \"" + addr + "\" }\n" + text + "    shared: { mode: " + mode + ", timeout: 500ms, on_error: closed }\n"
	}
	text += "routes: [{ name: all, match: /*, limit: all, respond: ok }]\n"
	file := filepath.Join(p.dir, "limits.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return r, err
	}
	var addrs []string
	for range n {
		g, err := rig.Start(ctx, rig.Command{Binary: p.binary, Args: []string{"-c", file}, Env: []string{"GOMAXPROCS=" + procs}})
		if err != nil {
			return r, err
		}
		defer func() { _ = g.Kill() }()
		addrs = append(addrs, g.Doors[0])
	}
	if mode != "" {
		for _, addr := range addrs {
			if err := rig.Poll(ctx, "Redis is in use", func() bool { return ask(addr) == http.StatusOK }); err != nil {
				return r, err
			}
		}
		// What that took is paid back.
		time.Sleep(2 * accuracyBurst * time.Second / accuracyRate)
	}
	var asked, passed, last atomic.Int64
	began := time.Now()
	until := began.Add(time.Duration(p.seconds) * time.Second)
	var wg sync.WaitGroup
	var first error
	var once sync.Once
	for _, addr := range addrs {
		for range accuracyClients {
			wg.Go(func() {
				err := hammer(addr, until, func(status int) {
					if asked.Add(1); status == http.StatusOK {
						passed.Add(1)
						last.Store(int64(time.Since(began)))
					}
				})
				if err != nil {
					once.Do(func() { first = err })
				}
			})
		}
	}
	wg.Wait()
	return admitted{asked.Load(), passed.Load(), time.Duration(last.Load())}, first
}

// hammer asks on one connection until then.
func hammer(addr string, until time.Time, answered func(status int)) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(until.Add(10 * time.Second))
	in := bufio.NewReader(c)
	for time.Now().Before(until) {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		answered(res.StatusCode)
	}
	return nil
}

// ask asks once; 0 is no answer.
func ask(addr string) (status int) {
	_ = hammer(addr, time.Now().Add(time.Millisecond), func(s int) { status = s })
	return status
}

// startRedis starts a redis-server of its own.
func startRedis(ctx context.Context, dir string) (addr string, end func(), err error) {
	if addr, err = rig.FreeAddress(); err != nil {
		return "", nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := rig.Launch(cmd); err != nil {
		return "", nil, fmt.Errorf("redis-server, which Debian has: %w", err)
	}
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	err = rig.Poll(ctx, "redis-server answers", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	if err != nil {
		end()
		return "", nil, err
	}
	return addr, end, nil
}
