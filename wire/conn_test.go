package wire

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair is the two ends of a TCP connection.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{c, s} {
		_ = c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { c.Close() })
	}
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

// until waits for what the kernel will show soon.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestConnAddresses(t *testing.T) {
	near, _ := pair(t)
	c := NewConn(near, nil)
	if c.Peer != c.Remote || c.Peer.String() != near.RemoteAddr().String() || c.Local.String() != near.LocalAddr().String() {
		t.Errorf("peer %s, remote %s, local %s", c.Peer, c.Remote, c.Local)
	}
	if !c.Plain() || c.TLS != nil || c.Pending() {
		t.Error("a plain connection that is not")
	}
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	u, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if c := NewConn(u, nil); c.Peer.IsValid() || !c.Plain() {
		t.Errorf("a Unix socket: peer %s, plain %v", c.Peer, c.Plain())
	}
}

func TestConnReadsWhatWasReadBefore(t *testing.T) {
	near, far := pair(t)
	c := NewConn(near, []byte("hello"))
	if !c.Pending() {
		t.Error("nothing pending")
	}
	_, _ = far.Write([]byte("!"))
	far.Close()
	var got []byte
	for b := make([]byte, 2); ; {
		n, err := c.Read(b)
		if got = append(got, b[:n]...); err != nil {
			break
		}
	}
	if string(got) != "hello!" || c.Pending() {
		t.Errorf("%q, pending %v", got, c.Pending())
	}
}

// gather reads in a session as its rules demand, until the stream ends.
func gather(c *Conn, size int) (got string, calls int, err error) {
	buf := make([]byte, size)
	sessionErr := c.Session(func(fd uintptr) bool {
		calls++
		for {
			n, e := ReadNow(fd, buf)
			switch {
			case e == ErrWait:
				return false
			case e != nil:
				err = e
				return true
			}
			got += string(buf[:n])
		}
	})
	if err == nil {
		err = sessionErr
	}
	return got, calls, err
}

func TestSession(t *testing.T) {
	f := func(name string, size int, far func(*net.TCPConn)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			near, peer := pair(t)
			done := make(chan struct{})
			go func() { defer close(done); far(peer) }()
			got, _, err := gather(NewConn(near, nil), size)
			<-done
			if want := "hello world"; got != want || err != io.EOF {
				t.Errorf("%q, %v; want %q, EOF", got, err, want)
			}
		})
	}
	for _, size := range []int{1, 5, 11, 4096} {
		f("data and its end together", size, func(c *net.TCPConn) { _, _ = c.Write([]byte("hello world")); c.Close() })
		f("half-close", size, func(c *net.TCPConn) { _, _ = c.Write([]byte("hello world")); _ = c.CloseWrite() })
		f("byte by byte", size, func(c *net.TCPConn) {
			for _, b := range []byte("hello world") {
				_, _ = c.Write([]byte{b})
			}
			c.Close()
		})
	}
}

func TestSessionExpires(t *testing.T) {
	near, far := pair(t)
	c := NewConn(near, nil)
	_, _ = far.Write([]byte("hello"))
	w := NewWatch(time.Millisecond)
	defer w.Stop()
	x := &expiring{c}
	s := w.Add(x)
	s.Arm(Nanotime() + int64(time.Millisecond))
	got, _, err := gather(c, 16)
	if (got != "hello" && got != "") || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v; want the deadline's error", got, err)
	}
	if s.Disarm() {
		t.Error("the slot does not know that its time has come")
	}
	// Every later wait ends as well.
	if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	if _, err := c.Conn.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v, want the deadline's error", err)
	}
	if err := c.Session(func(uintptr) bool { return false }); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Session: %v, want the deadline's error", err)
	}
}

type expiring struct{ *Conn }

func (x *expiring) Check(int64) int64 { return 0 }

func TestSessionOfAClosedConnection(t *testing.T) {
	near, _ := pair(t)
	c := NewConn(near, nil)
	ended := make(chan error, 1)
	waits := make(chan struct{})
	go func() {
		ended <- c.Session(func(uintptr) bool { close(waits); return false })
	}()
	<-waits
	c.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want net.ErrClosed", err)
	}
}

func TestWriteNow(t *testing.T) {
	near, far := pair(t)
	c := NewConn(near, nil)
	piece := bytes.Repeat([]byte("x"), 64<<10)
	sent := 0
	err := c.Session(func(fd uintptr) bool {
		for {
			n, err := WriteNow(fd, piece)
			if err == ErrWait {
				return true
			}
			if err != nil {
				t.Error(err)
				return true
			}
			sent += n
		}
	})
	if err != nil || sent == 0 {
		t.Fatalf("%d bytes, %v", sent, err)
	}
	near.Close()
	if n, err := io.Copy(io.Discard, far); int(n) != sent || err != nil {
		t.Errorf("%d bytes arrived of %d, %v", n, sent, err)
	}
}

// Writing to a connection that the other end has reset is an error, not a
// signal.
func TestWriteNowToNobody(t *testing.T) {
	near, far := pair(t)
	c := NewConn(near, nil)
	_ = far.SetLinger(0)
	far.Close()
	until(t, "the reset to show", c.HungUp)
	err := c.Session(func(fd uintptr) bool {
		for {
			_, err := WriteNow(fd, []byte("x"))
			if err == nil {
				continue
			}
			if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v, want a broken pipe", err)
			}
			return true
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestQuietAndHungUp(t *testing.T) {
	near, far := pair(t)
	c := NewConn(near, nil)
	if !c.IsQuiet() || c.HungUp() || !c.Drained() {
		t.Error("an open, silent connection is not quiet")
	}
	_, _ = far.Write([]byte("x"))
	until(t, "data to show", func() bool { return !c.IsQuiet() })
	if c.HungUp() {
		t.Error("data is taken for an end")
	}
	_ = far.CloseWrite()
	// The end hides behind a byte that was not read.
	until(t, "the end to show", c.HungUp)
	if c.IsQuiet() {
		t.Error("a connection with an end is quiet")
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	if c.IsQuiet() {
		t.Error("the end is forgotten after it was read")
	}
	c.Close()
	if c.IsQuiet() || !c.HungUp() {
		t.Error("a closed connection is quiet")
	}
}

func TestReset(t *testing.T) {
	near, far := pair(t)
	c := NewConn(near, nil)
	if err := c.Reset(); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other end sees %v, want a reset", err)
	}
}

func TestCloseWrite(t *testing.T) {
	near, far := pair(t)
	c := NewConn(near, nil)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other end sees %v, want EOF", err)
	}
	_, _ = far.Write([]byte("still"))
	far.Close()
	if got, err := io.ReadAll(c); string(got) != "still" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// held is a connection that keeps what is written until let go, so that TLS
// records arrive together.
type held struct {
	net.Conn
	keep bool
	buf  bytes.Buffer
}

func (h *held) Write(p []byte) (int, error) {
	if h.keep {
		return h.buf.Write(p)
	}
	return h.Conn.Write(p)
}

func TestDrainedOverTLS(t *testing.T) {
	s := httptest.NewTLSServer(nil)
	certs := s.TLS.Certificates
	s.Close()
	near, far := pair(t)
	h := &held{Conn: far}
	server := tls.Server(h, &tls.Config{Certificates: certs})
	go func() { _ = server.Handshake() }()
	client := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	c := NewConn(client, nil)
	if c.Plain() || c.TLS == nil {
		t.Fatal("a TLS connection that is plain")
	}
	buf := make([]byte, 16)
	send := func(records ...string) {
		t.Helper()
		h.keep = true
		for _, r := range records {
			_, _ = server.Write([]byte(r))
		}
		h.keep = false
		if _, err := h.buf.WriteTo(far); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:n]), records[0]) {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	send("one")
	if !c.Drained() || !c.IsQuiet() {
		t.Error("all has been read, yet it is not drained")
	}
	send("two")
	if !c.Drained() {
		t.Error("the first look has spoilt the connection")
	}
	send("three", "four")
	if !c.IsQuiet() {
		t.Error("the records did not come together; the test shows nothing")
	}
	if c.Drained() {
		t.Error("a record that was not read does not show")
	}
}
