package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	idleOpeners    = 64    // connections opened at the same time
	portsPerSource = 20000 // fewer than the ports that Linux gives one source address
)

// idleConns is a set of keep-alive connections to one address.
type idleConns struct {
	addr, path string
	conns      []net.Conn
}

// openIdle opens n connections to addr and sends one request on each.
// Source addresses are taken from 127.0.0.1 upwards as ports run out.
func openIdle(ctx context.Context, addr, path string, n int) (*idleConns, error) {
	set := &idleConns{addr: addr, path: path, conns: make([]net.Conn, n)}
	err := each(ctx, n, func(i int) error {
		d := net.Dialer{Timeout: 5 * time.Second, Control: shareSourcePorts}
		if source := i / portsPerSource; source > 0 {
			d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+source))}
		}
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		// Closing with a reset leaves no TIME_WAIT to starve the next round of ports.
		if err := c.(*net.TCPConn).SetLinger(0); err != nil {
			return errors.Join(err, c.Close())
		}
		set.conns[i] = c
		return set.ask(c)
	})
	if err != nil {
		set.close()
		return nil, fmt.Errorf("open %d idle connections: %w", n, err)
	}
	return set, nil
}

// shareSourcePorts lets the kernel choose the port at connect, when it knows
// the destination: only then may two connections share one.
func shareSourcePorts(_, _ string, c syscall.RawConn) (err error) {
	return errors.Join(c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}), err)
}

// askAll sends one more request on every connection and returns how many had
// been closed in the meantime.
func (s *idleConns) askAll(ctx context.Context) (dead int64, err error) {
	var count atomic.Int64
	err = each(ctx, len(s.conns), func(i int) error {
		if s.ask(s.conns[i]) != nil {
			count.Add(1)
		}
		return nil
	})
	return count.Load(), err
}

func (s *idleConns) ask(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", s.path, s.addr); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 2048), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.Close {
		return fmt.Errorf("expected 200 and keep-alive, got %s", resp.Status)
	}
	return nil
}

func (s *idleConns) close() {
	for _, c := range s.conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

// each calls f for 0 to n-1 from a bounded number of goroutines and returns
// the first error; the rest is then skipped.
func each(ctx context.Context, n int, f func(i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, idleOpeners) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// settled reads the resident bytes of the tree of pids until three readings
// in a row agree within 0.2 %, and gives up after five seconds with the last.
func settled(ctx context.Context, pids ...int) (int64, error) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	var last int64
	for agree, tries := 0, 0; agree < 3 && tries < 20; tries++ {
		now, err := residentOf(pids...)
		if err != nil {
			return 0, err
		}
		if diff := now - last; diff*500 < now && -diff*500 < now {
			agree++
		} else {
			agree = 0
		}
		last = now
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
	if last == 0 {
		return 0, errors.New("expected a resident size, got 0: the process has ended")
	}
	return last, nil
}
