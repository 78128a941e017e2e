package wire

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrWait is what ReadNow and WriteNow say when the socket has nothing to give
// or no room to take.
var ErrWait = errors.New("wire: socket not ready")

// Conn is one connection that HTTP bytes travel on: a client's or a target's,
// plain or TLS. The exported fields are set before it is used and only read
// after. At most one goroutine reads and one writes at a time; SetDeadline and
// Close may come from anywhere.
type Conn struct {
	net.Conn // what the HTTP bytes pass through: the socket, or TLS over it

	Remote netip.AddrPort       // the client's true address, after PROXY protocol
	Peer   netip.AddrPort       // the other end of the socket
	Local  netip.AddrPort       // this end of the socket
	TLS    *tls.ConnectionState // nil on a plain connection
	Door   string               // the listener that the connection came in by

	sock  syscall.RawConn // the socket itself, under TLS too
	plain bool            // HTTP bytes are the socket's own bytes
	pre   []byte          // bytes read before this Conn was made
}

// NewConn wraps c, a *net.TCPConn, *net.UnixConn, or a *tls.Conn over one of
// these. pre holds bytes that were already read from c; Read gives them first.
func NewConn(c net.Conn, pre []byte) *Conn {
	w := &Conn{Conn: c, pre: pre}
	under := c
	if t, ok := c.(*tls.Conn); ok {
		under = t.NetConn()
		state := t.ConnectionState()
		w.TLS = &state
	} else {
		w.plain = true
	}
	for {
		if n, ok := under.(interface{ NetConn() net.Conn }); ok {
			under = n.NetConn()
			continue
		}
		break
	}
	if s, ok := under.(syscall.Conn); ok {
		w.sock, _ = s.SyscallConn()
	}
	if w.sock == nil {
		w.plain = false
	}
	w.Peer = addrPort(c.RemoteAddr())
	w.Local = addrPort(c.LocalAddr())
	w.Remote = w.Peer
	return w
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Read gives the bytes that were read before the Conn was made, then those of
// the connection.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.pre) > 0 {
		n := copy(p, c.pre)
		if c.pre = c.pre[n:]; len(c.pre) == 0 {
			c.pre = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// Plain tells whether Session, ReadNow and WriteNow work on this connection:
// it is a socket without TLS.
func (c *Conn) Plain() bool { return c.plain }

// Session calls ready with the socket's descriptor once, and again each time
// the socket may have become readable, until ready returns true or the wait
// ends in an error: a passed deadline or a closed connection.
//
// It saves the read that finds nothing: between two calls the goroutine waits
// for the next edge of readiness without trying a read first, which an ordinary
// Read must. The price is two rules for ready. It may return false only when
// what it last read did not fill the buffer, or gave ErrWait; and it may not
// call Read. An end of stream that came together with the last data makes no
// edge of its own: whoever waits for one must read until ErrWait.
func (c *Conn) Session(ready func(fd uintptr) bool) error { return c.sock.Read(ready) }

// Pending tells whether bytes wait that no session would see.
func (c *Conn) Pending() bool { return len(c.pre) > 0 }

// ReadNow reads from the socket fd of a running Session without waiting:
// ErrWait when there is nothing, io.EOF at the end of the stream.
func ReadNow(fd uintptr, p []byte) (int, error) {
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch {
		case e == 0 && n > 0:
			return int(n), nil
		case e == 0:
			return 0, io.EOF
		case e == syscall.EINTR:
			continue
		case e == syscall.EAGAIN:
			return 0, ErrWait
		}
		return 0, os.NewSyscallError("read", e)
	}
}

// WriteNow writes to the socket fd of a running Session without waiting. It
// may write less than all of p; ErrWait says that it wrote nothing.
func WriteNow(fd uintptr, p []byte) (int, error) {
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
		switch {
		case e == 0:
			return int(n), nil
		case e == syscall.EINTR:
			continue
		case e == syscall.EAGAIN:
			return 0, ErrWait
		}
		return 0, os.NewSyscallError("write", e)
	}
}

// WriteBothNow is WriteNow of a and b together, neither of them empty.
func WriteBothNow(fd uintptr, a, b []byte) (int, error) {
	parts := [2]syscall.Iovec{{Base: unsafe.SliceData(a)}, {Base: unsafe.SliceData(b)}}
	parts[0].SetLen(len(a))
	parts[1].SetLen(len(b))
	message := syscall.Msghdr{Iov: &parts[0], Iovlen: 2}
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&message)), unix.MSG_NOSIGNAL)
		switch {
		case e == 0:
			return int(n), nil
		case e == syscall.EINTR:
			continue
		case e == syscall.EAGAIN:
			return 0, ErrWait
		}
		return 0, os.NewSyscallError("sendmsg", e)
	}
}

// WriteFileNow writes head, which is not empty, and n bytes of the file from at, to
// the socket fd of a running Session without waiting or copying the file. written
// counts both.
func WriteFileNow(fd uintptr, head []byte, file int, at, n int64) (written int, err error) {
	for {
		m, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(head))), uintptr(len(head)), unix.MSG_NOSIGNAL|unix.MSG_MORE, 0, 0)
		switch {
		case e == syscall.EINTR:
			continue
		case e == syscall.EAGAIN:
			return 0, ErrWait
		case e != 0:
			return 0, os.NewSyscallError("write", e)
		case int(m) < len(head):
			return int(m), nil
		}
		break
	}
	for written = len(head); ; {
		m, _, e := syscall.RawSyscall6(syscall.SYS_SENDFILE, fd, uintptr(file), uintptr(unsafe.Pointer(&at)), uintptr(n), 0, 0)
		switch {
		case e == syscall.EINTR:
			continue
		case e != 0:
			// Whoever writes the rest finds out what it is, and whether it lasts.
			return written, nil
		}
		return written + int(m), nil
	}
}

// Quiet tells whether the socket fd is open and silent: nothing to read, no
// end of stream, no error. A pooled connection that is not quiet is stale.
func Quiet(fd uintptr) bool {
	var b [1]byte
	_, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return e == syscall.EAGAIN
}

// HungUp tells whether the other end has closed its sending side, or all of
// the connection, even where unread bytes still hide the end of the stream. It
// may be called from any goroutine.
func (c *Conn) HungUp() bool {
	if c.sock == nil {
		return false
	}
	gone := false
	err := c.sock.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(p, 0); err == nil && n > 0 {
			gone = p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
		}
	})
	return gone || err != nil
}

// IsQuiet is Quiet for a connection that runs no Session, TLS too.
func (c *Conn) IsQuiet() bool {
	if c.sock == nil {
		return true
	}
	quiet := false
	err := c.sock.Control(func(fd uintptr) { quiet = Quiet(fd) })
	return err == nil && quiet
}

// Drained tells whether nothing waits between the socket and Read: what TLS has
// received and not given out yet does not show on the socket. It takes away a
// deadline on reading, and is for the one goroutine that reads.
func (c *Conn) Drained() bool {
	if c.plain {
		return true
	}
	_ = c.SetReadDeadline(longAgo)
	var b [1]byte
	n, err := c.Conn.Read(b[:])
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && c.SetReadDeadline(time.Time{}) == nil
}

// Reset closes the connection so that the other end sees a reset, not an
// orderly end that it could take for the end of a message.
func (c *Conn) Reset() error {
	under := c.Conn
	for {
		if n, ok := under.(interface{ NetConn() net.Conn }); ok {
			under = n.NetConn()
			continue
		}
		break
	}
	if t, ok := under.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
		return t.Close()
	}
	return c.Conn.Close()
}

// CloseWrite ends the sending side and leaves the receiving side open.
func (c *Conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// Expire ends every wait on the connection, now and from now on, with
// os.ErrDeadlineExceeded. It may be called from any goroutine.
func (c *Conn) Expire() { _ = c.Conn.SetDeadline(longAgo) }
