package main

import (
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/miekg/dns"
)

// serviceName is the name that a scenario's targets have in DNS.
const serviceName = "app.test"

// names is a name server that gives every A question the same answer, with a
// TTL of one second.
type names struct {
	address string
	server  dns.Server
	answer  atomic.Pointer[[]netip.Addr]
}

func startNames(addrs []netip.Addr) (*names, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &names{address: conn.LocalAddr().String()}
	n.set(addrs)
	n.server.PacketConn, n.server.Handler = conn, n
	started := make(chan struct{})
	failed := make(chan error, 1)
	n.server.NotifyStartedFunc = func() { close(started) }
	go func() { failed <- n.server.ActivateAndServe() }()
	select {
	case <-started:
		return n, nil
	case err := <-failed:
		return nil, err
	}
}

func (n *names) set(addrs []netip.Addr) { n.answer.Store(&addrs) }

func (n *names) close() error { return n.server.Shutdown() }

// ServeDNS is part of dns.Handler.
func (n *names) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	if len(q.Question) == 1 && q.Question[0].Qtype == dns.TypeA {
		for _, a := range *n.answer.Load() {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
				A:   a.AsSlice(),
			})
		}
	}
	_ = w.WriteMsg(m)
}
