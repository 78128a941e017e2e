package listen

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const errTooManyFiles = syscall.EMFILE

func checkOptions(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var wrong error
	err = raw.Control(func(fd uintptr) {
		for _, o := range [...]struct{ level, name, want int }{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAliveIdle},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAliveInterval},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
		} {
			if got, err := unix.GetsockoptInt(int(fd), o.level, o.name); err != nil || got != o.want {
				wrong = errors.Join(wrong, fmt.Errorf("option %d/%d is %d (%v), expected %d", o.level, o.name, got, err, o.want))
			}
		}
	})
	return errors.Join(err, wrong)
}

func TestDoorID(t *testing.T) {
	f := func(address, want string) {
		t.Helper()
		if got := doorID(address); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f(":80", ":80")
	f("0.0.0.0:80", ":80")
	f("[::]:80", ":80")
	f("127.0.0.1:80", "127.0.0.1:80")
	f("unix:/a:80", "unix:/a:80")
}
