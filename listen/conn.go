package listen

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"sluice/fault"
	"sluice/wire"
)

// The protocols that a greeting can end in.
const (
	alpnHTTP1    = "http/1.1"
	protoRefused = "" // none: the connection is to be closed
)

// alpn are the protocols offered in TLS, the preferred first. A protocol is
// added here and as an engine in Doors.engines.
var alpn = []string{alpnHTTP1}

// conn is an accepted connection as fasthttp sees it. fasthttp calls Handshake
// and ConnectionState, as it would on TLS, to learn which protocol handler to
// call, and Close when that has returned.
type conn struct {
	net.Conn // the socket
	door     *door

	client  *wire.Conn // what the engine gets; nil when refused
	refusal error      // why it was refused
	counted netip.Addr // what it counts as in Doors.perIP; zero: not counted
	closed  atomic.Bool
}

// errSilent is a peer that left without having said anything, as the probes of
// load balancers do. It counts as nothing.
var errSilent = errors.New("listen: the peer left before it said anything")

// Handshake greets the connection. It runs in the worker and returns nil in any
// case: an error would make fasthttp take the connection for its own HTTP.
func (c *conn) Handshake() error {
	c.client, c.refusal = c.greet()
	return nil
}

// ConnectionState tells which protocol the greeting ended in. It is called
// after Handshake.
func (c *conn) ConnectionState() tls.ConnectionState {
	if c.client == nil {
		return tls.ConnectionState{NegotiatedProtocol: protoRefused}
	}
	if t := c.client.TLS; t != nil && t.NegotiatedProtocol != "" {
		return tls.ConnectionState{NegotiatedProtocol: t.NegotiatedProtocol}
	}
	return tls.ConnectionState{NegotiatedProtocol: alpnHTTP1}
}

// Close closes the connection and counts it out. The engine may have closed
// what it was given already.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	var err error
	if c.client != nil {
		err = c.client.Close() // with TLS's own farewell
	} else {
		err = c.Conn.Close()
	}
	d := c.door.all
	if c.counted.IsValid() {
		d.perIP.leave(c.counted)
	}
	c.door.counts.open.Add(-1)
	d.leave()
	return err
}

// greet does what comes before HTTP, the cheap checks first: the PROXY header,
// the limit of the client's address, TLS.
func (c *conn) greet() (*wire.Conn, error) {
	set := c.door.settings.Load()
	bound := c.door.all.bounds.Load()

	client, pre, err := c.readProxy(set.proxy)
	if err != nil {
		return nil, err
	}
	if key := addressKey(client.Addr()); key.IsValid() {
		if !c.door.all.perIP.enter(key, bound.perIP) {
			c.door.counts.refused[RefusedPerIP].Add(1)
			if set.tls == nil {
				c.answer(fault.ConnectionLimit)
			}
			return nil, errPerIP
		}
		c.counted = key
	}
	var w *wire.Conn
	if set.tls == nil {
		w = wire.NewConn(c.Conn, pre)
	} else {
		t, err := c.startTLS(set.tls, pre, bound.headerTimeout)
		if err != nil {
			return nil, err
		}
		w = wire.NewConn(t, nil)
	}
	w.Remote = client
	w.Door = set.name
	return w, nil
}

var errPerIP = errors.New("listen: too many connections from this address")

// readProxy returns the client's address and what was read beyond the PROXY
// header.
func (c *conn) readProxy(rule *proxyRule) (client netip.AddrPort, pre []byte, err error) {
	client = socketAddr(c.Conn.RemoteAddr())
	if rule == nil || !rule.trusts(client.Addr()) {
		return client, nil, nil
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(rule.timeout))
	source, pre, err := rule.read(c.Conn)
	if err != nil {
		if err != errSilent {
			c.door.counts.refused[RefusedProxy].Add(1)
		}
		return client, nil, err
	}
	_ = c.Conn.SetReadDeadline(time.Time{})
	if source.IsValid() {
		client = source
	}
	return client, pre, nil
}

func (c *conn) startTLS(id *identity, pre []byte, timeout time.Duration) (*tls.Conn, error) {
	under := c.Conn
	if len(pre) > 0 {
		under = &prefixed{Conn: under, pre: pre}
	}
	_ = under.SetDeadline(time.Now().Add(timeout))
	t := tls.Server(under, id.config.Load())
	if err := t.Handshake(); err != nil {
		if err == io.EOF {
			return nil, errSilent
		}
		c.door.counts.handshakeErrors.Add(1)
		var record tls.RecordHeaderError
		if errors.As(err, &record) && record.Conn != nil && startsLikeHTTP(record.RecordHeader[:]) {
			c.answer(fault.BadRequest)
		}
		return nil, err
	}
	_ = under.SetDeadline(time.Time{})
	return t, nil
}

// startsLikeHTTP tells whether the bytes where TLS should begin are those of a
// request in the clear: a method in capital letters.
func startsLikeHTTP(b []byte) bool {
	for i, ch := range b {
		if ch == ' ' {
			return i >= 3
		}
		if ch < 'A' || ch > 'Z' {
			return false
		}
	}
	return true
}

// prefixed is a socket of which some bytes have been read already.
type prefixed struct {
	net.Conn
	pre []byte
}

// NetConn is the socket itself.
func (p *prefixed) NetConn() net.Conn { return p.Conn }

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.pre) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.pre)
	if p.pre = p.pre[n:]; len(p.pre) == 0 {
		p.pre = nil
	}
	return n, nil
}

// socketAddr is the zero AddrPort for peers on a unix socket.
func socketAddr(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
