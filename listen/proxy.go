package listen

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"sluice/config"
)

// proxyRule says whose PROXY header a door reads.
type proxyRule struct {
	trusted  []netip.Prefix
	required bool
	timeout  time.Duration
}

func newProxyRule(key string, c *config.ProxyProtocol) (*proxyRule, []error) {
	r := &proxyRule{required: c.Required, timeout: c.Timeout.Std()}
	var mistakes []error
	for i, s := range c.Trusted {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil || a.Zone() != "" {
				mistakes = append(mistakes, fmt.Errorf("%s.trusted[%d]: expected an address or CIDR such as 10.0.0.0/8, got %q", key, i, s))
				continue
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		r.trusted = append(r.trusted, p.Masked())
	}
	return r, mistakes
}

// trusts tells whether the PROXY header of a peer is read. A peer without an
// address sits on a unix socket: whoever the file's mode lets in is trusted.
func (r *proxyRule) trusts(peer netip.Addr) bool {
	if !peer.IsValid() {
		return true
	}
	peer = peer.WithZone("")
	for _, p := range r.trusted {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

// Bounds of a header: version 1 is one line, version 2 a fixed part and as much
// as it says, of which more than maxV2 is refused.
const (
	maxV1   = 107
	fixedV2 = 16
	maxV2   = 4096
)

var headerReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, maxV2) }}

var (
	errNoProxyHeader = errors.New("listen: a PROXY header is required and none came")
	errLateHeader    = errors.New("listen: the PROXY header did not come in time")
)

// read takes the PROXY header from a trusted peer. source is the client's
// address, or zero where the header does not tell one (LOCAL, UNKNOWN, UNSPEC,
// UNIX) and where there is none and none is required. pre is what was read
// beyond the header.
func (r *proxyRule) read(c io.Reader) (source netip.AddrPort, pre []byte, err error) {
	br := headerReaders.Get().(*bufio.Reader)
	br.Reset(c)
	defer func() {
		br.Reset(nil)
		headerReaders.Put(br)
	}()
	if _, err := br.Peek(1); err == io.EOF {
		return source, nil, errSilent
	}
	source, found, err := readProxyHeader(br)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return source, nil, errLateHeader
	case err != nil:
		return source, nil, err
	case !found && r.required:
		return source, nil, errNoProxyHeader
	}
	if n := br.Buffered(); n > 0 {
		b, _ := br.Peek(n)
		pre = bytes.Clone(b)
	}
	return source, pre, nil
}

// readProxyHeader reads the header of either version and not a byte more. Found
// is false, and nothing is taken from br, when the stream begins otherwise.
func readProxyHeader(br *bufio.Reader) (source netip.AddrPort, found bool, err error) {
	if err := fillV1(br); err != nil {
		return source, false, err
	}
	if skipped, err := skipUnspec(br); skipped || err != nil {
		return source, skipped, err
	}
	h, err := proxyproto.Read(br)
	switch {
	case errors.Is(err, proxyproto.ErrNoProxyProtocol):
		return source, false, nil
	case err != nil:
		return source, false, fmt.Errorf("listen: malformed PROXY header: %w", err)
	case h.Command.IsLocal(), h.TransportProtocol.IsUnix():
		return source, true, nil
	}
	from, _, ok := h.TCPAddrs()
	if !ok {
		return source, false, errors.New("listen: the PROXY header tells of no TCP connection")
	}
	ap := from.AddrPort()
	if !ap.Addr().IsValid() {
		return source, false, errors.New("listen: the PROXY header tells no valid address")
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true, nil
}

// fillV1 waits for the whole line of version 1, if that is what comes: the
// library refuses a line that arrives in pieces.
func fillV1(br *bufio.Reader) error {
	for {
		n := br.Buffered()
		b, _ := br.Peek(n)
		if head := b[:min(n, len(proxyproto.SIGV1))]; !bytes.Equal(head, proxyproto.SIGV1[:len(head)]) {
			return nil
		}
		if n >= maxV1 || bytes.IndexByte(b, '\n') >= 0 {
			return nil
		}
		switch _, err := br.Peek(n + 1); {
		case err == io.EOF:
			return nil // for the library to judge
		case err != nil:
			return err
		}
	}
}

// skipUnspec passes over a version 2 header that proxies an unspecified
// family, as senders do for clients on a unix socket. The protocol lets the
// receiver take the socket's own addresses; the library refuses.
func skipUnspec(br *bufio.Reader) (skipped bool, err error) {
	b, err := br.Peek(1)
	if err != nil || b[0] != proxyproto.SIGV2[0] {
		return false, ignoreEOF(err)
	}
	b, err = br.Peek(fixedV2)
	if err != nil || !bytes.HasPrefix(b, proxyproto.SIGV2) {
		return false, ignoreEOF(err)
	}
	if b[12] != byte(proxyproto.PROXY) || b[13] != byte(proxyproto.UNSPEC) {
		return false, nil
	}
	length := int(binary.BigEndian.Uint16(b[14:]))
	if length > maxV2 {
		return false, fmt.Errorf("listen: malformed PROXY header: %d bytes, expected at most %d", length, maxV2)
	}
	if _, err := br.Discard(fixedV2 + length); err != nil {
		return false, fmt.Errorf("listen: malformed PROXY header: %w", err)
	}
	return true, nil
}

// ignoreEOF leaves the end of the stream for the library to judge.
func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
