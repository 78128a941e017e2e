package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Probes on silent connections: a peer that is gone without a word is found
// after idle + interval * count.
const (
	keepAliveIdle     = 60 // seconds
	keepAliveInterval = 15 // seconds
	keepAliveCount    = 4
)

// maxUnixPath is what fits into sockaddr_un, with its closing NUL.
const maxUnixPath = 107

const addressForm = "expected host:port, :port or unix:/path"

func unixPath(address string) (string, bool) { return strings.CutPrefix(address, "unix:") }

func checkAddress(address string) error {
	if path, ok := unixPath(address); ok {
		if path == "" || len(path) > maxUnixPath {
			return fmt.Errorf("expected unix: and a path of 1 to %d bytes", maxUnixPath)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New(addressForm)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errors.New("expected a port from 0 to 65535")
	}
	return nil
}

// doorID is the same for addresses that open the same socket: for Go, all three
// ways to write the unspecified address mean IPv4 and IPv6 together.
func doorID(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "0.0.0.0" && host != "::" {
		return address
	}
	return ":" + port
}

// openSocket listens on address. The error does not repeat the address.
func openSocket(address string) (socket, error) {
	if err := checkAddress(address); err != nil {
		return nil, err
	}
	if path, ok := unixPath(address); ok {
		return openUnix(path)
	}
	lc := net.ListenConfig{KeepAlive: -1, Control: inherited}
	lc.SetMultipathTCP(false) // its sockets take none of the options below
	ln, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, plainReason(err)
	}
	return ln.(*net.TCPListener), nil
}

// inherited sets on the listening socket what accepted sockets take over from
// it, which saves four system calls for each connection. TCP_NODELAY is Go's
// own default.
func inherited(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		for _, o := range [...]struct{ level, name, value int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAliveIdle},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAliveInterval},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
		} {
			if err := unix.SetsockoptInt(int(fd), o.level, o.name, o.value); err != nil && failed == nil {
				failed = os.NewSyscallError("setsockopt", err)
			}
		}
	})
	return errors.Join(err, failed)
}

// openUnix listens on a unix socket. One that a dead process left behind is
// removed; one that somebody answers on is not.
func openUnix(path string) (socket, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, errors.New("the file exists and is not a socket")
		}
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			_ = c.Close()
			return nil, errors.New("address already in use")
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path)
		}
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, plainReason(err)
	}
	ln.SetUnlinkOnClose(false)
	s := &unixSocket{UnixListener: ln, path: path}
	s.file, _ = os.Lstat(path)
	return s, nil
}

// unixSocket removes its file when it closes, but not that of another process
// that has taken over the path since.
type unixSocket struct {
	*net.UnixListener
	path string
	file os.FileInfo
	once sync.Once
}

func (s *unixSocket) Close() error {
	s.once.Do(func() {
		if now, err := os.Lstat(s.path); err == nil && s.file != nil && os.SameFile(now, s.file) {
			_ = os.Remove(s.path)
		}
	})
	return s.UnixListener.Close()
}

// plainReason is what the system says of err, without the operation and the
// address that net wraps it in.
func plainReason(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
