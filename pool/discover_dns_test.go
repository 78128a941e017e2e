package pool

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sluice/setting"
)

// nameServer is a name server on loopback, UDP and TCP, whose answers a test
// changes.
type nameServer struct {
	address string
	reply   atomic.Pointer[func(q dns.Question, tcp bool, m *dns.Msg)]

	mu    sync.Mutex // guards asked
	asked []string   // "name TYPE", with "tcp " before it over TCP
}

// startNameServer answers by zone until told otherwise.
func startNameServer(t *testing.T, zone ...string) *nameServer {
	t.Helper()
	s := &nameServer{}
	s.zone(t, zone...)
	var packets net.PacketConn
	var stream net.Listener
	// The two share a port number, which another process may hold for one.
	for range 20 {
		var err error
		if packets, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if stream, err = net.Listen("tcp", packets.LocalAddr().String()); err == nil {
			break
		}
		_ = packets.Close()
	}
	if stream == nil {
		t.Fatal("found no port that is free for UDP and TCP")
	}
	s.address = packets.LocalAddr().String()
	for _, server := range []*dns.Server{{PacketConn: packets}, {Listener: stream}} {
		started := make(chan struct{})
		server.Handler = s
		server.NotifyStartedFunc = func() { close(started) }
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = server.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			_ = server.Shutdown()
			<-ended
		})
	}
	return s
}

func (s *nameServer) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	q := m.Question[0]
	line := q.Name + " " + dns.TypeToString[q.Qtype]
	if tcp {
		line = "tcp " + line
	}
	s.mu.Lock()
	s.asked = append(s.asked, line)
	s.mu.Unlock()
	reply := new(dns.Msg)
	reply.SetReply(m)
	reply.RecursionAvailable = true
	if m.IsEdns0() != nil {
		reply.SetEdns0(udpAnswerSize, false)
	}
	(*s.reply.Load())(q, tcp, reply)
	if reply.Rcode >= 0 { // below: no answer at all
		_ = w.WriteMsg(reply)
	}
}

// answerWith makes f fill in the answers.
func (s *nameServer) answerWith(f func(q dns.Question, tcp bool, m *dns.Msg)) { s.reply.Store(&f) }

// zone makes the server answer from records in zone-file notation. CNAMEs are
// followed and SRV records come without addresses. A line "; additional" puts
// those after it beside every answer with records; "; soa" gives the negative
// answers their SOA.
func (s *nameServer) zone(t *testing.T, lines ...string) {
	t.Helper()
	var records, beside []dns.RR
	var soa dns.RR
	to := &records
	for _, line := range lines {
		if line == "; additional" {
			to = &beside
			continue
		}
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		if rr.Header().Rrtype == dns.TypeSOA {
			soa = rr
			continue
		}
		*to = append(*to, rr)
	}
	s.answerWith(func(q dns.Question, _ bool, m *dns.Msg) {
		name, exists := q.Name, false
	chain:
		for range 20 {
			for _, rr := range records {
				if rr.Header().Name != name {
					continue
				}
				exists = true
				if c, ok := rr.(*dns.CNAME); ok {
					m.Answer = append(m.Answer, rr)
					name, exists = c.Target, false
					continue chain
				}
				if rr.Header().Rrtype == q.Qtype {
					m.Answer = append(m.Answer, rr)
				}
			}
			break
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		if soa != nil && (len(m.Answer) == 0 || !exists) {
			m.Ns = append(m.Ns, soa)
		}
		if len(m.Answer) > 0 {
			m.Extra = append(m.Extra, beside...)
		}
	})
}

// questions returns what was asked since the last call, sorted.
func (s *nameServer) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	slices.Sort(asked)
	return asked
}

// looking is a dnsDiscoverer whose looks a test lets go one by one, on a clock
// that moves by the waits it asks for.
type looking struct {
	*following
	d     *dnsDiscoverer
	waits chan time.Duration
	more  chan struct{}
	clock atomic.Int64
	begun bool
}

func startLooking(t *testing.T, c DiscoverConfig, change ...func(*dnsDiscoverer)) *looking {
	t.Helper()
	made, err := newDiscoverer(c)
	if err != nil {
		t.Fatal(err)
	}
	l := &looking{d: made.(*dnsDiscoverer), waits: make(chan time.Duration), more: make(chan struct{})}
	l.d.now = func() time.Time { return time.Unix(1e9, l.clock.Load()) }
	l.d.tryFor = discoverDeadline
	l.d.pause = func(ctx context.Context, d time.Duration) bool {
		select {
		case l.waits <- d:
		case <-ctx.Done():
			return false
		}
		select {
		case <-l.more:
			l.clock.Add(int64(d))
			return true
		case <-ctx.Done():
			return false
		}
	}
	for _, f := range change {
		f(l.d)
	}
	l.following = runDiscoverer(t, l.d)
	return l
}

// look lets the next look happen and returns how long the one after it would be
// waited for. All sets and notes of it have been told by then.
func (l *looking) look() time.Duration {
	l.t.Helper()
	if l.begun {
		l.more <- struct{}{}
	}
	l.begun = true
	select {
	case d := <-l.waits:
		return d
	case <-time.After(discoverDeadline):
		l.t.Fatal("expected the look to end")
		return 0
	}
}

// lookUntil looks until s is asked q, when what was known of it has run out.
func (l *looking) lookUntil(q string, s *nameServer) {
	l.t.Helper()
	s.questions()
	for range 100 {
		if l.look(); slices.Contains(s.questions(), q) {
			return
		}
	}
	l.t.Fatalf("expected the question %q again", q)
}

// quiet checks that nothing is left that was told and not read.
func (l *looking) quiet() {
	l.t.Helper()
	l.noSet()
	select {
	case err := <-l.notes:
		l.t.Fatalf("expected no note, got %v", err)
	default:
	}
}

func expectWait(t *testing.T, got, want time.Duration) {
	t.Helper()
	if got != want {
		t.Fatalf("expected the next look after %s, got %s", want, got)
	}
}

func dnsConfig(s *nameServer) DiscoverConfig {
	return discoverConfig(DiscoverConfig{DNS: "http://orders.test:9000", Servers: []string{s.address}})
}

func srvConfig(s *nameServer) DiscoverConfig {
	return discoverConfig(DiscoverConfig{SRV: "_http._tcp.orders.test", Servers: []string{s.address}})
}

func TestDNSEveryAddressIsATarget(t *testing.T) {
	s := startNameServer(t, "orders.test. 1 IN A 10.0.0.2", "orders.test. 1 IN A 10.0.0.1", "orders.test. 60 IN AAAA fd00::1")
	l := startLooking(t, dnsConfig(s))
	expectWait(t, l.look(), time.Second)
	l.set("http://orders.test:9000*1@10.0.0.1:9000", "http://orders.test:9000*1@10.0.0.2:9000", "http://orders.test:9000*1@[fd00::1]:9000")
	l.quiet()

	// The same in another order is no news; what has not run out is not asked for.
	s.questions()
	s.zone(t, "orders.test. 1 IN A 10.0.0.1", "orders.test. 1 IN A 10.0.0.2")
	l.look()
	l.quiet()
	if got := s.questions(); !slices.Equal(got, []string{"orders.test. A"}) {
		t.Fatalf("expected only A to be asked for again, got %q", got)
	}

	s.zone(t, "orders.test. 1 IN A 10.0.0.3")
	l.look()
	l.set("http://orders.test:9000*1@10.0.0.3:9000", "http://orders.test:9000*1@[fd00::1]:9000")
}

func TestDNSFamily(t *testing.T) {
	s := startNameServer(t, "orders.test. 60 IN A 10.0.0.1", "orders.test. 60 IN AAAA fd00::1")
	c := dnsConfig(s)
	c.Family = "ipv6"
	l := startLooking(t, c)
	l.look()
	l.set("http://orders.test:9000*1@[fd00::1]:9000")
	if got := s.questions(); !slices.Equal(got, []string{"orders.test. AAAA"}) {
		t.Fatalf("expected AAAA alone to be asked for, got %q", got)
	}
}

func TestDNSWaitsForTheLeastTTL(t *testing.T) {
	f := func(want time.Duration, zone ...string) {
		t.Helper()
		l := startLooking(t, dnsConfig(startNameServer(t, zone...)))
		expectWait(t, l.look(), want)
		l.end()
	}
	const soa = "test. 900 IN SOA ns.test. root.test. 1 1 1 1 30"
	f(7*time.Second, "orders.test. 20 IN A 10.0.0.1", "orders.test. 7 IN A 10.0.0.2", "orders.test. 20 IN AAAA fd00::1")
	f(time.Second, "orders.test. 0 IN A 10.0.0.1", soa)
	f(5*time.Minute, "orders.test. 86400 IN A 10.0.0.1", "orders.test. 86400 IN AAAA fd00::1")
	f(30*time.Second, "orders.test. 600 IN A 10.0.0.1", soa) // for there may come an AAAA
	f(3*time.Second, "orders.test. 60 IN CNAME a.test.", "a.test. 3 IN CNAME b.test.", "b.test. 60 IN A 10.0.0.1", "b.test. 60 IN AAAA fd00::1")
	f(30*time.Second, soa, "other.test. 1 IN A 10.0.0.1")                                       // NXDOMAIN
	f(30*time.Second, soa, "orders.test. 1 IN TXT x")                                           // no addresses
	f(10*time.Second, "test. 10 IN SOA ns.test. root.test. 1 1 1 1 30")                         // the SOA's own TTL
	f(time.Second, "test. 900 IN SOA ns.test. root.test. 1 1 1 1 0")                            // clamped
	f(5*time.Minute, "test. 9000 IN SOA ns.test. root.test. 1 1 1 1 9000")                      // clamped
	f(4*time.Second, "orders.test. 4 IN CNAME a.test.", "test. 10 IN SOA n. r. 1 1 1 1 30")     // a negative chain
	f(2*time.Second, "orders.test. 2 IN CNAME a.test.", soa, "a.test. 9 IN A 10.0.0.1")         // a half negative one
	f(time.Second, "orders.test. 0 IN CNAME a.test.", "a.test. 9 IN AAAA fd00::1", soa)         // clamped
	f(5*time.Minute, "orders.test. 86400 IN A 10.0.0.1", "test. 999 IN SOA n. r. 1 1 1 1 9999") // clamped
}

func TestDNSKeepsTheLastGoodSet(t *testing.T) {
	f := func(note string, broken func(q dns.Question, tcp bool, m *dns.Msg)) {
		t.Helper()
		s := startNameServer(t)
		s.answerWith(broken)
		l := startLooking(t, dnsConfig(s), func(d *dnsDiscoverer) { d.tryFor = 50 * time.Millisecond })
		if d := l.look(); d > time.Second {
			t.Fatalf("expected another look soon, got a wait of %s", d)
		}
		l.note(note)
		l.noSet()
		s.zone(t, "orders.test. 5 IN A 10.0.0.1", "orders.test. 5 IN AAAA fd00::1")
		expectWait(t, l.look(), 5*time.Second)
		l.set("http://orders.test:9000*1@10.0.0.1:9000", "http://orders.test:9000*1@[fd00::1]:9000")
		l.quiet()
		s.answerWith(broken)
		var longest time.Duration
		for range 4 {
			longest = max(longest, l.look())
			l.note(note)
			l.noSet()
		}
		if longest <= time.Second {
			t.Fatalf("expected the wait to grow with the failures, got %s at the most", longest)
		}
		s.zone(t, "orders.test. 5 IN A 10.0.0.2")
		l.look()
		l.set("http://orders.test:9000*1@10.0.0.2:9000")
		l.end()
	}
	f("orders.test.: NXDOMAIN", func(_ dns.Question, _ bool, m *dns.Msg) { m.Rcode = dns.RcodeNameError })
	f("orders.test.: no A records", func(dns.Question, bool, *dns.Msg) {})
	f("expected an answer, got SERVFAIL", func(_ dns.Question, _ bool, m *dns.Msg) { m.Rcode = dns.RcodeServerFailure })
	f("expected an answer, got REFUSED", func(_ dns.Question, _ bool, m *dns.Msg) { m.Rcode = dns.RcodeRefused })
	f("expected an answer within 50ms", func(_ dns.Question, _ bool, m *dns.Msg) { m.Rcode = -1 })
	f("expected an answer within 50ms", func(_ dns.Question, _ bool, m *dns.Msg) { m.Id++ })
	f("expected an answer within 50ms", func(_ dns.Question, _ bool, m *dns.Msg) { m.Question[0].Name = "other.test." })
	f("expected an answer within 50ms", func(_ dns.Question, _ bool, m *dns.Msg) { m.Response = false })
	f("got a referral", func(_ dns.Question, _ bool, m *dns.Msg) { m.RecursionAvailable = false })
	f("expected at most 8 aliases", func(q dns.Question, _ bool, m *dns.Msg) {
		m.Answer = []dns.RR{record("orders.test. 1 IN CNAME a.test."), record("a.test. 1 IN CNAME orders.test.")}
	})
	// A chain that goes on for ever, one alias an answer.
	f("expected at most 8 aliases", func(q dns.Question, _ bool, m *dns.Msg) {
		m.Answer = []dns.RR{record(q.Name + " 1 IN CNAME a." + q.Name)}
	})
	// Records that nobody asked for.
	f("orders.test.: no A records", func(_ dns.Question, _ bool, m *dns.Msg) {
		m.Answer = []dns.RR{record("other.test. 1 IN A 10.0.0.9"), record("other.test. 1 IN AAAA fd00::9")}
	})
	f("within 50ms", func(_ dns.Question, tcp bool, m *dns.Msg) {
		m.Truncated = true
		if tcp {
			m.Rcode = -1
		}
	})
	f("expected a whole answer over TCP", func(_ dns.Question, _ bool, m *dns.Msg) { m.Truncated = true })
	f("id of the question", func(_ dns.Question, tcp bool, m *dns.Msg) {
		if m.Truncated = true; tcp {
			m.Id++
		}
	})
}

func record(line string) dns.RR {
	rr, err := dns.NewRR(line)
	if err != nil {
		panic(err)
	}
	return rr
}

func TestDNSUnusableAddressesAreLeftOut(t *testing.T) {
	s := startNameServer(t, "orders.test. 9 IN A 0.0.0.0", "orders.test. 9 IN A 224.0.0.1", "orders.test. 9 IN A 10.0.0.1", "orders.test. 9 IN AAAA ::")
	l := startLooking(t, dnsConfig(s))
	l.look()
	l.set("http://orders.test:9000*1@10.0.0.1:9000")
	l.quiet()
	s.zone(t, "orders.test. 9 IN A 0.0.0.0", "orders.test. 9 IN AAAA ::")
	expectWait(t, l.look(), 9*time.Second)
	l.note("expected an address that a server can have, got 0.0.0.0")
	l.noSet()
}

func TestDNSOneFamilyFailsTheOtherStays(t *testing.T) {
	s := startNameServer(t, "orders.test. 5 IN A 10.0.0.1", "orders.test. 5 IN AAAA fd00::1")
	l := startLooking(t, dnsConfig(s))
	l.look()
	l.set("http://orders.test:9000*1@10.0.0.1:9000", "http://orders.test:9000*1@[fd00::1]:9000")
	s.answerWith(func(q dns.Question, _ bool, m *dns.Msg) {
		if q.Qtype == dns.TypeAAAA {
			m.Rcode = dns.RcodeServerFailure
			return
		}
		m.Answer = []dns.RR{record("orders.test. 5 IN A 10.0.0.2")}
	})
	l.look()
	l.set("http://orders.test:9000*1@10.0.0.2:9000", "http://orders.test:9000*1@[fd00::1]:9000")
	l.note("orders.test. AAAA: name server " + s.address + ": expected an answer, got SERVFAIL")
}

func TestDNSTruncatedAnswerComesOverTCP(t *testing.T) {
	s := startNameServer(t)
	var want []string
	s.answerWith(func(q dns.Question, tcp bool, m *dns.Msg) {
		if m.Truncated = !tcp; tcp && q.Qtype == dns.TypeA {
			for i := range 600 {
				m.Answer = append(m.Answer, record(fmt.Sprintf("orders.test. 9 IN A 10.1.%d.%d", i/200, i%200)))
			}
		}
	})
	for i := range 600 {
		want = append(want, fmt.Sprintf("http://orders.test:9000*1@10.1.%d.%d:9000", i/200, i%200))
	}
	slices.Sort(want)
	l := startLooking(t, dnsConfig(s))
	l.look()
	l.set(want...)
	if got := s.questions(); !slices.Contains(got, "tcp orders.test. A") || !slices.Contains(got, "orders.test. A") {
		t.Fatalf("expected the question over UDP and TCP, got %q", got)
	}
}

func TestDNSServerWithoutEDNS(t *testing.T) {
	s := startNameServer(t)
	s.answerWith(func(q dns.Question, _ bool, m *dns.Msg) {
		if m.IsEdns0() != nil {
			m.Extra, m.Question, m.Rcode = nil, nil, dns.RcodeFormatError
		} else if q.Qtype == dns.TypeA {
			m.Answer = []dns.RR{record("orders.test. 9 IN A 10.0.0.1")}
		}
	})
	l := startLooking(t, dnsConfig(s))
	l.look()
	l.set("http://orders.test:9000*1@10.0.0.1:9000")
}

func TestDNSNextServerWhenOneFails(t *testing.T) {
	good := startNameServer(t, "orders.test. 5 IN A 10.0.0.1", "orders.test. 5 IN AAAA fd00::1")
	bad := startNameServer(t)
	bad.answerWith(func(_ dns.Question, _ bool, m *dns.Msg) { m.Rcode = dns.RcodeServerFailure })
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	c := dnsConfig(good)
	c.Servers = []string{closed.LocalAddr().String(), bad.address, good.address}
	l := startLooking(t, c)
	l.look()
	l.set("http://orders.test:9000*1@10.0.0.1:9000", "http://orders.test:9000*1@[fd00::1]:9000")
	l.quiet()
	bad.questions()
	l.look()
	if got := bad.questions(); len(got) > 0 {
		t.Fatalf("expected the server that answered to be asked first, the other got %q", got)
	}
}

func TestDNSStrayAnswersArePassedOver(t *testing.T) {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// strays before the answer
	serve := func(strays int) {
		buffer := make([]byte, 1500)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			m := new(dns.Msg)
			if m.Unpack(buffer[:n]) != nil {
				continue
			}
			reply := new(dns.Msg)
			reply.SetReply(m)
			reply.RecursionAvailable = true
			reply.Answer = []dns.RR{record("orders.test. 5 IN A 10.0.0.66")}
			reply.Id++
			wrong, _ := reply.Pack()
			reply.Id--
			reply.Question[0].Name = "other.test."
			other, _ := reply.Pack()
			for i := range strays {
				_, _ = packets.WriteTo([][]byte{wrong, other, []byte("no DNS at all"), {1}}[i%4], from)
			}
			reply.SetReply(m)
			reply.Answer = []dns.RR{record("orders.test. 5 IN A 10.0.0.1")}
			right, _ := reply.Pack()
			_, _ = packets.WriteTo(right, from)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(8)
	}()
	t.Cleanup(func() {
		_ = packets.Close()
		<-done
	})
	c := discoverConfig(DiscoverConfig{DNS: "http://orders.test", Servers: []string{packets.LocalAddr().String()}})
	c.Family = "ipv4"
	l := startLooking(t, c)
	expectWait(t, l.look(), 5*time.Second)
	l.set("http://orders.test*1@10.0.0.1:80")
	l.quiet()
}

func TestSRVWithoutAddressesBeside(t *testing.T) {
	s := startNameServer(t,
		"_http._tcp.orders.test. 60 IN SRV 10 5 9001 a.test.",
		"_http._tcp.orders.test. 60 IN SRV 10 2 9002 B.test.",
		"a.test. 3 IN A 10.0.0.1", "a.test. 60 IN AAAA fd00::1", "b.test. 60 IN A 10.0.0.2", "b.test. 60 IN AAAA fd00::2",
		"B.test. 60 IN A 10.0.0.2", "B.test. 60 IN AAAA fd00::2")
	c := srvConfig(s)
	c.Scheme, c.Family = "https", "ipv4"
	l := startLooking(t, c)
	expectWait(t, l.look(), 3*time.Second)
	l.set("https://a.test:9001*5@10.0.0.1:9001", "https://b.test:9002*2@10.0.0.2:9002")
	s.questions()
	l.look()
	if got := s.questions(); !slices.Equal(got, []string{"a.test. A"}) {
		t.Fatalf("expected only what has run out to be asked for, got %q", got)
	}
	l.quiet()
}

func TestSRVWithAddressesBeside(t *testing.T) {
	s := startNameServer(t,
		"_http._tcp.orders.test. 60 IN SRV 10 5 80 a.test.", "_http._tcp.orders.test. 60 IN SRV 10 5 9002 b.test.",
		"b.test. 60 IN A 10.0.0.2",
		"; additional", "a.test. 4 IN A 10.0.0.1", "a.test. 4 IN AAAA fd00::1", "evil.test. 1 IN A 10.6.6.6")
	l := startLooking(t, srvConfig(s))
	expectWait(t, l.look(), time.Second) // the least TTL, clamped, of what came with it
	// The two addresses of a share its weight.
	l.set("http://a.test*500@10.0.0.1:80", "http://a.test*500@[fd00::1]:80", "http://b.test:9002*1000@10.0.0.2:9002")
	if got := s.questions(); !slices.Equal(got, []string{"_http._tcp.orders.test. SRV", "b.test. A", "b.test. AAAA"}) {
		t.Fatalf("expected no question for what came along, got %q", got)
	}
}

func TestSRVPrioritiesAndWeights(t *testing.T) {
	f := func(want []string, zone ...string) {
		t.Helper()
		c := srvConfig(startNameServer(t, append(zone, "a.test. 60 IN A 10.0.0.1", "b.test. 60 IN A 10.0.0.2", "c.test. 60 IN A 10.0.0.3")...))
		c.Family = "ipv4"
		l := startLooking(t, c)
		l.look()
		l.set(want...)
		l.end()
	}
	srv := func(rest string) string { return "_http._tcp.orders.test. 60 IN SRV " + rest }
	f([]string{"http://b.test:2*7@10.0.0.2:2"}, srv("20 1 1 a.test."), srv("10 7 2 b.test."), srv("30 1 3 c.test."))
	// The lowest group has nobody at home.
	f([]string{"http://a.test:1*1@10.0.0.1:1"}, srv("20 1 1 a.test."), srv("10 7 2 gone.test."))
	f([]string{"http://a.test:1*1@10.0.0.1:1", "http://b.test:2*1@10.0.0.2:2"}, srv("1 0 1 a.test."), srv("1 0 2 b.test."))
	f([]string{"http://a.test:1*1@10.0.0.1:1", "http://b.test:2*1000@10.0.0.2:2"}, srv("1 0 1 a.test."), srv("1 9 2 b.test."))
	f([]string{"http://a.test:1*1000@10.0.0.1:1", "http://b.test:2*500@10.0.0.2:2"}, srv("1 60000 1 a.test."), srv("1 30000 2 b.test."))
	// One name with two ports, one of them named twice.
	f([]string{"http://a.test:1*3@10.0.0.1:1", "http://a.test:2*1@10.0.0.1:2"}, srv("1 2 1 a.test."), srv("1 3 1 a.test."), srv("1 1 2 a.test."))
	// Targets that cannot be.
	f([]string{"http://a.test:1*1@10.0.0.1:1"}, srv("1 1 1 a.test."), srv("0 1 0 b.test."), srv(`0 1 5 c\032d.test.`), srv("0 1 5 10.0.0.1."))
}

func TestSRVNotAvailableIsAnEmptySet(t *testing.T) {
	s := startNameServer(t, "_http._tcp.orders.test. 5 IN SRV 0 0 0 .")
	l := startLooking(t, srvConfig(s))
	expectWait(t, l.look(), 5*time.Second)
	l.set()
	l.quiet()
	s.zone(t, "_http._tcp.orders.test. 5 IN SRV 0 0 1 a.test.", "a.test. 5 IN A 10.0.0.1")
	l.look()
	l.set("http://a.test:1*1@10.0.0.1:1")
	s.zone(t, "_http._tcp.orders.test. 5 IN SRV 0 0 0 .")
	l.look()
	l.set()
}

func TestSRVMemberWithoutAnswerKeepsItsAddresses(t *testing.T) {
	zone := []string{"_http._tcp.orders.test. 5 IN SRV 1 1 1 a.test.", "_http._tcp.orders.test. 5 IN SRV 1 1 2 b.test."}
	s := startNameServer(t, append(zone, "a.test. 5 IN A 10.0.0.1", "b.test. 5 IN A 10.0.0.2")...)
	c := srvConfig(s)
	c.Family = "ipv4"
	l := startLooking(t, c)
	l.look()
	l.set("http://a.test:1*1@10.0.0.1:1", "http://b.test:2*1@10.0.0.2:2")
	s.zone(t, append(zone, "a.test. 5 IN A 10.0.0.9")...)
	l.look()
	l.set("http://a.test:1*1@10.0.0.9:1", "http://b.test:2*1@10.0.0.2:2")
	l.note("b.test.: NXDOMAIN")
	s.zone(t, append(zone[:1:1], "a.test. 5 IN A 10.0.0.9")...)
	l.lookUntil("_http._tcp.orders.test. SRV", s)
	l.set("http://a.test:1*1@10.0.0.9:1")
	// The records themselves are gone: all stays.
	s.zone(t)
	l.lookUntil("_http._tcp.orders.test. SRV", s)
	l.note("_http._tcp.orders.test.: NXDOMAIN")
	l.noSet()
}

func TestSRVWithMoreNamesThanTheBoundIsRefused(t *testing.T) {
	s := startNameServer(t)
	s.answerWith(func(q dns.Question, tcp bool, m *dns.Msg) {
		if m.Truncated = !tcp; q.Qtype != dns.TypeSRV || !tcp {
			return
		}
		for i := range maxLookNames + 1 {
			m.Answer = append(m.Answer, record(fmt.Sprintf("_http._tcp.orders.test. 5 IN SRV 1 1 1 n%d.test.", i)))
		}
	})
	l := startLooking(t, srvConfig(s))
	l.look()
	l.note("expected at most 512 names")
	l.noSet()
	if got := s.questions(); len(got) != 2 {
		t.Fatalf("expected no question for the names, got %d", len(got))
	}
}

// systemConfig makes a Discoverer find names by the system's own ways, with
// resolv.conf being text and the hosts file being hosts.
func systemConfig(t *testing.T, text string, hosts map[string]string) func(*dnsDiscoverer) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(d *dnsDiscoverer) {
		d.resolv = file
		d.inHosts = func(_ context.Context, name string) ([]netip.Addr, error) {
			if a, ok := hosts[name]; ok {
				return []netip.Addr{netip.MustParseAddr(a)}, nil
			}
			return nil, os.ErrNotExist
		}
	}
}

func TestDNSSearchList(t *testing.T) {
	s := startNameServer(t, "orders.a.test. 5 IN A 10.0.0.1", "orders. 5 IN A 10.0.0.9", "x.orders.b.test. 5 IN A 10.0.0.3", "x.orders. 5 IN A 10.0.0.4")
	system := systemConfig(t, "nameserver "+s.address+"\nsearch z.test a.test b.test\noptions ndots:1\n", nil)
	f := func(name, want string, asked ...string) {
		t.Helper()
		s.questions()
		c := discoverConfig(DiscoverConfig{DNS: "http://" + name})
		c.Family = "ipv4"
		l := startLooking(t, c, system)
		l.look()
		l.set("http://" + strings.TrimSuffix(name, ".") + "*1@" + want + ":80")
		if got := s.questions(); !slices.Equal(got, asked) {
			t.Errorf("expected the questions %q, got %q", asked, got)
		}
		l.end()
	}
	f("orders", "10.0.0.1", "orders.a.test. A", "orders.z.test. A")
	f("orders.", "10.0.0.9", "orders. A")
	f("x.orders", "10.0.0.4", "x.orders. A")
}

func TestDNSGapInTheSearchListDoesNotTurnAName(t *testing.T) {
	s := startNameServer(t, "orders.a.test. 5 IN A 10.0.0.1", "orders.b.test. 5 IN A 10.6.6.6")
	c := discoverConfig(DiscoverConfig{DNS: "http://orders"})
	c.Family = "ipv4"
	l := startLooking(t, c, systemConfig(t, "nameserver "+s.address+"\nsearch z.test a.test b.test\n", nil))
	l.look()
	l.set("http://orders*1@10.0.0.1:80")
	s.answerWith(func(q dns.Question, _ bool, m *dns.Msg) {
		if q.Name == "orders.a.test." {
			m.Rcode = dns.RcodeServerFailure
		} else {
			m.Answer = []dns.RR{record(q.Name + " 5 IN A 10.6.6.6")}
		}
	})
	s.questions()
	l.look()
	l.note("SERVFAIL")
	l.noSet()
	for _, q := range s.questions() {
		if q != "orders.a.test. A" {
			t.Errorf("expected only the name that was found before to be asked for, got %q", q)
		}
	}
}

func TestDNSHostsFileComesFirst(t *testing.T) {
	s := startNameServer(t, "orders.test. 5 IN A 10.0.0.1")
	c := discoverConfig(DiscoverConfig{DNS: "http://orders.test"})
	l := startLooking(t, c, systemConfig(t, "nameserver "+s.address+"\n", map[string]string{"orders.test": "127.0.0.9"}))
	expectWait(t, l.look(), hostsTTL)
	l.set("http://orders.test*1@127.0.0.9:80")
	if got := s.questions(); len(got) > 0 {
		t.Errorf("expected no question, got %q", got)
	}
	l.end()
	// Servers of one's own leave the system's ways aside.
	c.Servers = []string{s.address}
	l = startLooking(t, c, systemConfig(t, "", map[string]string{"orders.test": "127.0.0.9"}))
	l.look()
	l.set("http://orders.test*1@10.0.0.1:80")
}

func TestLookInHostsAsksNoNameServer(t *testing.T) {
	if addrs, err := lookInHosts(t.Context(), "localhost"); err != nil || !addrs[0].IsLoopback() {
		t.Errorf("expected localhost to be found, got %v, %v", addrs, err)
	}
	if addrs, err := lookInHosts(t.Context(), "example.com"); err == nil {
		t.Errorf("expected nothing of a name that the file has not, got %v", addrs)
	}
}

func TestDNSWithoutResolvConf(t *testing.T) {
	d := newDNSDiscoverer(discoverConfig(DiscoverConfig{SRV: "orders"}))
	d.resolv = filepath.Join(t.TempDir(), "none")
	if sys, err := d.readSystem(); err != nil || !slices.Equal(sys.servers, []string{"127.0.0.1:53"}) || !slices.Equal(sys.names("Orders"), []string{"orders."}) {
		t.Errorf("expected the defaults of resolv.conf(5), got %+v, %v", sys, err)
	}
	d.resolv = t.TempDir()
	if _, err := d.readSystem(); err == nil {
		t.Error("expected an error of a resolv.conf that cannot be read")
	}
}

func TestDNSEndsInTheMiddleOfAQuestion(t *testing.T) {
	asked := make(chan struct{}, 100)
	s := startNameServer(t)
	s.answerWith(func(_ dns.Question, _ bool, m *dns.Msg) {
		asked <- struct{}{}
		m.Rcode = -1
	})
	l := startLooking(t, dnsConfig(s))
	select {
	case <-asked:
	case <-time.After(discoverDeadline):
		t.Fatal("expected a question")
	}
	l.end()
	l.quiet()
}

func TestDNSOnTheRealClock(t *testing.T) {
	s := startNameServer(t, "orders.test. 0 IN A 10.0.0.1")
	c := dnsConfig(s)
	c.MinTTL = setting.Duration(100 * time.Millisecond)
	d, err := newDiscoverer(c)
	if err != nil {
		t.Fatal(err)
	}
	f := runDiscoverer(t, d)
	f.set("http://orders.test:9000*1@10.0.0.1:9000")
	s.zone(t, "orders.test. 0 IN A 10.0.0.2")
	f.set("http://orders.test:9000*1@10.0.0.2:9000")
}
