package rig

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// pattern is what large bodies repeat. Its length shares no factor with the
// sizes of buffers, so that a piece that is lost, doubled or swapped shows.
var pattern = func() []byte {
	b := make([]byte, 65521)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}()

// WritePattern writes the first n bytes of the endless pattern.
func WritePattern(w io.Writer, n int64) (written int64, err error) {
	for n > 0 {
		m, err := w.Write(pattern[:min(n, int64(len(pattern)))])
		written += int64(m)
		if n -= int64(m); err != nil {
			return written, err
		}
	}
	return written, nil
}

// CheckPattern reads r to its end and compares it with the pattern.
func CheckPattern(r io.Reader) (n int64, err error) {
	buf := make([]byte, len(pattern))
	for {
		m, err := io.ReadFull(r, buf)
		if !bytes.Equal(buf[:m], pattern[:m]) {
			return n, fmt.Errorf("expected the pattern, got something else within %d bytes after byte %d", m, n)
		}
		n += int64(m)
		switch {
		case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
			// A body that was cut says so at the next read.
			if m, err = r.Read(buf[:1]); m == 0 && err == io.EOF {
				return n, nil
			}
			return n, fmt.Errorf("after byte %d: %w", n, err)
		case err != nil:
			return n, fmt.Errorf("after byte %d: %w", n, err)
		}
	}
}

// Transfer is clients that move large bodies through a gateway.
type Transfer struct {
	Addr    string
	Clients int
	Bytes   int64         // of each body
	Idle    time.Duration // how long a body may stand still
	Down    bool          // download, each on a connection of its own
	Up      bool          // upload, likewise and at the same time
}

// Run moves all bodies at once and returns when the last has arrived whole.
// Every other one is sent in chunks, without a length.
func (t Transfer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make(chan error, 2*t.Clients)
	begin := func(i int, what string, move func(c net.Conn, chunked bool) error) {
		wg.Go(func() {
			if err := t.connected(ctx, func(c net.Conn) error { return move(c, i%2 == 1) }); err != nil {
				errs <- fmt.Errorf("%s %d: %w", what, i, err)
			}
		})
	}
	for i := range t.Clients {
		if t.Down {
			begin(i, "download", t.download)
		}
		if t.Up {
			begin(i, "upload", t.upload)
		}
	}
	wg.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// connected gives use a connection on which a body may not stand still.
func (t Transfer) connected(ctx context.Context, use func(net.Conn) error) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	return use(moving{c, t.Idle})
}

// moving is a connection whose every read and write must come to something.
type moving struct {
	net.Conn
	idle time.Duration
}

func (m moving) Read(b []byte) (int, error) {
	_ = m.SetReadDeadline(time.Now().Add(m.idle))
	return m.Conn.Read(b)
}

func (m moving) Write(b []byte) (int, error) {
	_ = m.SetWriteDeadline(time.Now().Add(m.idle))
	return m.Conn.Write(b)
}

func (t Transfer) download(c net.Conn, chunked bool) error {
	path := fmt.Sprintf("/bytes?n=%d", t.Bytes)
	if chunked {
		path += "&chunked=1"
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: transfer.test\r\n\r\n", path); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(c, 64<<10), nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("expected 200, got %s", res.Status)
	}
	n, err := CheckPattern(res.Body)
	if err == nil && n != t.Bytes {
		err = fmt.Errorf("expected %d bytes, got %d", t.Bytes, n)
	}
	return err
}

func (t Transfer) upload(c net.Conn, chunked bool) error {
	framing := "Content-Length: " + strconv.FormatInt(t.Bytes, 10)
	if chunked {
		framing = "Transfer-Encoding: chunked"
	}
	if _, err := fmt.Fprintf(c, "POST /sink HTTP/1.1\r\nHost: transfer.test\r\n%s\r\n\r\n", framing); err != nil {
		return err
	}
	body := io.Writer(c)
	if chunked {
		body = chunks{c}
	}
	if _, err := WritePattern(body, t.Bytes); err != nil {
		return err
	}
	if chunked {
		if _, err := io.WriteString(c, "0\r\n\r\n"); err != nil {
			return err
		}
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	got, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err != nil {
		return err
	}
	if want := strconv.FormatInt(t.Bytes, 10); res.StatusCode != http.StatusOK || string(got) != want {
		return fmt.Errorf("expected 200 and %s, got %s and %q", want, res.Status, got)
	}
	return nil
}

// chunks writes every piece as one chunk.
type chunks struct{ w io.Writer }

func (c chunks) Write(p []byte) (int, error) {
	framed := net.Buffers{fmt.Appendf(nil, "%x\r\n", len(p)), p, []byte("\r\n")}
	if _, err := framed.WriteTo(c.w); err != nil {
		return 0, err
	}
	return len(p), nil
}
