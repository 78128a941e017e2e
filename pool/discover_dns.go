package pool

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// The bounds of one look at DNS. With them a look costs at the most
// maxLookNames names x 2 families x maxAliases+1 questions, each with
// maxQueryTries x maxDiscoverServers tries of at most two UDP messages and one
// over TCP; a name server that works needs one message a question.
const (
	maxLookNames   = 512  // names of SRV targets that must be asked for
	maxLookWidth   = 8    // questions asked at the same time
	maxSearchNames = 8    // full names that a name may stand for
	maxAliases     = 8    // CNAMEs one after the other
	maxQueryTries  = 3    // rounds over all name servers
	maxStrayAnswer = 16   // answers to something else, before a try is given up
	udpAnswerSize  = 1232 // RFC 9715: fits an IPv6 packet that is never fragmented
)

const (
	defaultQueryTimeout = 2 * time.Second
	maxQueryTimeout     = 5 * time.Second
	maxQuestionTime     = 15 * time.Second // all tries of one question together
	hostsTTL            = 30 * time.Second // of an address from /etc/hosts, within the clamp
)

// dnsDiscoverer follows the addresses of a name, or the SRV records of one. A
// look asks for what has run out, puts the set together and waits for the first
// record in it to run out. Each name that is part of the set keeps its last
// good addresses while there are no others, and so does the set as a whole.
//
// Without servers of its own, names are found as the system finds them:
// /etc/hosts first (through Go's resolver; read again every 30 s, within the
// clamp), then the name servers of /etc/resolv.conf with its search list and
// ndots. Other sources of nsswitch.conf, such as mDNS, are not asked.
type dnsDiscoverer struct {
	scheme, host, port string // of the URL in dns, or scheme and name of srv
	srv                bool
	families           []uint16
	minTTL, maxTTL     time.Duration
	servers            []string

	now       func() time.Time
	pause     func(context.Context, time.Duration) bool // between looks
	resolv    string                                    // path of resolv.conf
	inHosts   func(context.Context, string) ([]netip.Addr, error)
	tryFor    time.Duration // how long one try may take, 0 to go by resolv.conf
	preferred atomic.Int32  // index of the name server that answered last

	last   lastSet
	memory dnsMemory
}

// dnsMemory is what is kept from one look to the next.
type dnsMemory struct {
	mu    sync.Mutex              // guards what follows
	known map[question]answer     // what was answered and may still be good
	good  map[string][]netip.Addr // the last addresses of a name
	full  map[string]string       // the full name that a name was last found under
}

// question is a full name in lower case and a record type.
type question struct {
	name string
	kind uint16
}

func (q question) String() string { return q.name + " " + dns.TypeToString[q.kind] }

// answer is what a question was answered with. Without records it is the
// authority's word that there are none, and why says how.
type answer struct {
	records []dns.RR // of the question's type, aliases followed
	beside  []dns.RR // of SRV records: the addresses in the additional section
	why     string
	until   time.Time // zero: not to be kept
}

// nameSystem is what a look needs to know of the system.
type nameSystem struct {
	servers []string
	names   func(string) []string // the full names that a name may stand for
	tries   int
	timeout time.Duration
}

func newDNSDiscoverer(c DiscoverConfig) *dnsDiscoverer {
	d := &dnsDiscoverer{
		scheme: c.Scheme, host: c.SRV, srv: c.SRV != "",
		minTTL: c.MinTTL.Std(), maxTTL: c.MaxTTL.Std(), servers: c.Servers,
		now: time.Now, pause: pause, resolv: "/etc/resolv.conf", inHosts: lookInHosts,
		memory: dnsMemory{known: map[question]answer{}, good: map[string][]netip.Addr{}, full: map[string]string{}},
	}
	if !d.srv {
		u, _ := url.Parse(c.DNS) // Validate has parsed it
		d.scheme, d.host, d.port = u.Scheme, u.Hostname(), u.Port()
	}
	switch c.Family {
	case "ipv4":
		d.families = []uint16{dns.TypeA}
	case "ipv6":
		d.families = []uint16{dns.TypeAAAA}
	default:
		d.families = []uint16{dns.TypeA, dns.TypeAAAA}
	}
	return d
}

// lookInHosts asks Go's resolver with the way to name servers cut off, which
// leaves the hosts file.
func lookInHosts(ctx context.Context, name string) ([]netip.Addr, error) {
	hosts := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("only the hosts file is asked")
	}}
	return hosts.LookupNetIP(ctx, "ip", name)
}

// Run is documented at Discoverer.
func (d *dnsDiscoverer) Run(ctx context.Context, update func([]Discovered), note func(error)) {
	for failures := 0; ; {
		l := &look{dnsDiscoverer: d, ctx: ctx, asked: map[question]bool{}}
		set, ok := l.once()
		if ctx.Err() != nil {
			return
		}
		if ok && d.last.differs(set) {
			update(set)
		}
		if err := l.failure(); err != nil {
			note(fmt.Errorf("discover %s: %w", d.host, err))
		} else {
			note(nil)
		}
		wait := d.maxTTL
		if !l.until.IsZero() {
			wait = max(d.minTTL, min(l.until.Sub(d.now()), d.maxTTL))
		}
		if l.again {
			wait = min(wait, lookBackoff(failures, d.minTTL))
			failures++
		} else {
			failures = 0
		}
		if !d.pause(ctx, wait) {
			return
		}
	}
}

// look is one look at the source. Its methods but once and failure are safe for
// many goroutines.
type look struct {
	*dnsDiscoverer
	ctx    context.Context
	system nameSystem

	mu    sync.Mutex // guards what follows; never held with that of the memory
	until time.Time  // when the first answer that was used runs out
	again bool       // something failed that is worth another try soon
	errs  []error
	lost  int // errors beyond those in errs
	asked map[question]bool
}

// once finds the set. ok is false when the source did not say, and the last
// good set stays.
func (l *look) once() (set []Discovered, ok bool) {
	var err error
	if l.system, err = l.readSystem(); err != nil {
		l.fail(err)
		return nil, false
	}
	defer func() { l.memory.keep(l.asked) }()
	if l.srv {
		return l.services()
	}
	addrs := l.addresses(l.host, l.system.names(l.host))
	for _, a := range addrs {
		set = append(set, discovered(l.scheme, l.host, l.port, 1, a))
	}
	return l.checked(set)
}

// checked puts set in order and holds it to its bound.
func (l *look) checked(set []Discovered) ([]Discovered, bool) {
	if len(set) > maxDiscovered {
		l.fail(fmt.Errorf("expected at most %d targets, got %d", maxDiscovered, len(set)))
		return nil, false
	}
	return inOrder(set), len(set) > 0
}

func discovered(scheme, host, port string, weight int, addr netip.Addr) Discovered {
	u, port := targetURL(scheme, host, port)
	return Discovered{URL: u, Weight: weight, Address: net.JoinHostPort(addr.String(), port)}
}

// services finds the targets of SRV records: of the lowest priority that has a
// member with an address.
func (l *look) services() ([]Discovered, bool) {
	records, beside := l.serviceRecords()
	if len(records) == 1 && records[0].Target == "." {
		// RFC 2782: decidedly not available at this domain.
		return []Discovered{}, true
	}
	records = slices.DeleteFunc(records, func(r *dns.SRV) bool {
		if isHostName(r.Target) && !isAddress(strings.TrimSuffix(r.Target, ".")) && r.Port > 0 {
			return false
		}
		l.fail(fmt.Errorf("SRV: expected a host name and a port, got %q port %d", r.Target, r.Port))
		return true
	})
	slices.SortFunc(records, func(a, b *dns.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Target, b.Target),
			cmp.Compare(a.Port, b.Port), cmp.Compare(b.Weight, a.Weight))
	})
	records = slices.CompactFunc(records, func(a, b *dns.SRV) bool {
		return a.Priority == b.Priority && a.Target == b.Target && a.Port == b.Port
	})
	for len(records) > 0 {
		n := slices.IndexFunc(records, func(r *dns.SRV) bool { return r.Priority != records[0].Priority })
		if n < 0 {
			n = len(records)
		}
		set, ok := l.group(records[:n], beside)
		if !ok || len(set) > 0 {
			return l.checked(set)
		}
		records = records[n:]
	}
	return nil, false
}

// serviceRecords asks for the SRV records under each full name in turn.
func (l *look) serviceRecords() (records []*dns.SRV, beside []dns.RR) {
	var troubles []trouble
	for _, full := range l.memory.candidates(l.host, l.system.names(l.host)) {
		a, err := l.ask(question{full, dns.TypeSRV})
		if len(a.records) > 0 {
			if err != nil {
				l.fail(err)
			}
			l.memory.stick(l.host, full)
			for _, r := range a.records {
				// A copy, whose name can be put in lower case.
				s := *r.(*dns.SRV)
				s.Target = dns.CanonicalName(s.Target)
				records = append(records, &s)
			}
			return records, a.beside
		}
		troubles = append(troubles, troubleOf(full, a, err))
		if err != nil && l.memory.sticks(l.host, full) {
			break
		}
	}
	l.record(troubles...)
	return nil, nil
}

// group finds the targets of records, which have one priority.
func (l *look) group(records []*dns.SRV, beside []dns.RR) (set []Discovered, ok bool) {
	addrs := l.besides(records, beside)
	var names []string
	for _, r := range records {
		if _, ok := addrs[r.Target]; !ok {
			addrs[r.Target] = nil
			names = append(names, r.Target)
		}
	}
	if len(names) > maxLookNames {
		l.fail(fmt.Errorf("SRV: expected at most %d names without an address in the additional section, got %d", maxLookNames, len(names)))
		return nil, false
	}
	found := make([][]netip.Addr, len(names))
	var done sync.WaitGroup
	slots := make(chan struct{}, maxLookWidth)
	for i, name := range names {
		slots <- struct{}{}
		done.Go(func() {
			defer func() { <-slots }()
			found[i] = l.addresses(name, []string{name})
		})
	}
	done.Wait()
	for i, name := range names {
		addrs[name] = found[i]
	}
	var shares []float64
	all := true
	for _, r := range records {
		all = all && r.Weight == 0
	}
	for _, r := range records {
		// The addresses of a name share its weight.
		share := float64(r.Weight) / float64(len(addrs[r.Target]))
		if all {
			share = 1 / float64(len(addrs[r.Target]))
		}
		if len(set)+len(addrs[r.Target]) > maxDiscovered {
			l.fail(fmt.Errorf("SRV: expected at most %d targets, got more", maxDiscovered))
			return nil, false
		}
		for _, a := range addrs[r.Target] {
			set = append(set, discovered(l.scheme, r.Target, strconv.Itoa(int(r.Port)), 0, a))
			shares = append(shares, share)
		}
	}
	for i, w := range wholeWeights(shares) {
		set[i].Weight = w
	}
	return set, true
}

// besides reads the addresses that came with SRV records. A name that has any
// has all: servers that add addresses leave none of a name out, short of
// truncation, after which the answer was fetched again.
func (l *look) besides(records []*dns.SRV, beside []dns.RR) map[string][]netip.Addr {
	named := make(map[string]bool, len(records))
	for _, r := range records {
		named[r.Target] = true
	}
	addrs := map[string][]netip.Addr{}
	for _, rr := range beside {
		owner := dns.CanonicalName(rr.Header().Name)
		if a, ok := addressOf(rr); ok && named[owner] {
			addrs[owner] = append(addrs[owner], a)
		}
	}
	for name, list := range addrs {
		l.memory.remember(name, list)
	}
	return addrs
}

// addresses finds the addresses of name, which stands for one of fulls. When
// there are none it returns the last good ones, after saying why.
func (l *look) addresses(name string, fulls []string) []netip.Addr {
	if addrs := l.inHostsFile(name); len(addrs) > 0 {
		return addrs
	}
	var troubles []trouble
	for _, full := range l.memory.candidates(name, fulls) {
		addrs, failed, denied := l.bothFamilies(full)
		if len(addrs) > 0 {
			// That a name has no address of the other family is no trouble.
			l.record(failed...)
			l.memory.stick(name, full)
			l.memory.remember(name, addrs)
			return addrs
		}
		troubles = append(append(troubles, failed...), denied...)
		if len(failed) > 0 && l.memory.sticks(name, full) {
			break
		}
	}
	l.record(troubles...)
	return l.memory.addresses(name)
}

// bothFamilies asks for the addresses of one full name.
func (l *look) bothFamilies(full string) (addrs []netip.Addr, failed, denied []trouble) {
	answers, errs := make([]answer, len(l.families)), make([]error, len(l.families))
	var done sync.WaitGroup
	for i, kind := range l.families {
		done.Go(func() { answers[i], errs[i] = l.ask(question{full, kind}) })
	}
	done.Wait()
	for i, a := range answers {
		switch {
		case errs[i] != nil:
			failed = append(failed, troubleOf(full, a, errs[i]))
		case len(a.records) == 0:
			denied = append(denied, troubleOf(full, a, nil))
		}
		usable := len(addrs)
		for _, rr := range a.records {
			if addr, ok := addressOf(rr); ok {
				addrs = append(addrs, addr)
			}
		}
		if len(a.records) > 0 && len(addrs) == usable {
			denied = append(denied, trouble{fmt.Errorf("%s: expected an address that a server can have, got %s",
				full, strings.Fields(a.records[0].String())[4]), false})
		}
	}
	return addrs, failed, denied
}

// inHostsFile looks into /etc/hosts when the system's ways are to be gone.
func (l *look) inHostsFile(name string) []netip.Addr {
	if len(l.servers) > 0 {
		return nil
	}
	addrs, err := l.inHosts(l.ctx, strings.TrimSuffix(name, "."))
	if err != nil {
		return nil
	}
	kept := addrs[:0]
	for _, a := range addrs {
		kind := dns.TypeAAAA
		if a = a.Unmap(); a.Is4() {
			kind = dns.TypeA
		}
		if slices.Contains(l.families, kind) {
			kept = append(kept, a)
		}
	}
	if len(kept) > 0 {
		l.use(l.now().Add(l.clamp(hostsTTL)))
		l.memory.remember(name, kept)
	}
	return kept
}

// addressOf reads an A or AAAA record. Addresses that no server can have, which
// filtering name servers answer with, are left out.
func addressOf(rr dns.RR) (netip.Addr, bool) {
	var ip net.IP
	switch rr := rr.(type) {
	case *dns.A:
		ip = rr.A
	case *dns.AAAA:
		ip = rr.AAAA
	}
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	return a, ok && !a.IsUnspecified() && !a.IsMulticast()
}

// ask returns the answer to q: the one it knows, or a new one. With an error
// comes the last good answer, if there was one.
func (l *look) ask(q question) (answer, error) {
	q.name = dns.CanonicalName(q.name)
	l.mu.Lock()
	l.asked[q] = true
	l.mu.Unlock()
	before := l.memory.answer(q)
	if before.until.After(l.now()) {
		l.use(before.until)
		return before, nil
	}
	ctx, cancel := context.WithTimeout(l.ctx, maxQuestionTime)
	defer cancel()
	a, err := l.resolve(ctx, q)
	if err != nil {
		return before, fmt.Errorf("%s: %w", q, err)
	}
	l.memory.learn(q, a)
	if !a.until.IsZero() {
		l.use(a.until)
	}
	return a, nil
}

// use says that the look lasts until t at the most.
func (l *look) use(t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until.IsZero() || t.Before(l.until) {
		l.until = t
	}
}

// trouble is why a name has given nothing.
type trouble struct {
	err   error
	again bool // another try may have more luck, before anything runs out
}

// troubleOf is err, or without one what a, which has no records, says.
func troubleOf(full string, a answer, err error) trouble {
	if err != nil {
		return trouble{err, true}
	}
	return trouble{fmt.Errorf("%s: %s", full, a.why), a.until.IsZero()}
}

// fail records an error that another try may not have.
func (l *look) fail(err error) { l.record(trouble{err, true}) }

func (l *look) record(troubles ...trouble) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range troubles {
		l.again = l.again || t.again
		if len(l.errs) < maxDiscoverErrors {
			l.errs = append(l.errs, t.err)
		} else {
			l.lost++
		}
	}
}

// failure returns all that failed as one error.
func (l *look) failure() error {
	if l.lost > 0 {
		l.errs = append(l.errs, fmt.Errorf("and %d more", l.lost))
	}
	if len(l.errs) == 0 {
		return nil
	}
	text := make([]string, 0, len(l.errs))
	for _, err := range l.errs {
		text = append(text, err.Error())
	}
	slices.Sort(text)
	return errors.New(strings.Join(slices.Compact(text), "; "))
}

// candidates returns fulls with the name that was found before first: were it
// not asked first, a gap in the search list could turn a name into another.
func (m *dnsMemory) candidates(name string, fulls []string) []string {
	m.mu.Lock()
	before := m.full[name]
	m.mu.Unlock()
	if i := slices.Index(fulls, before); i > 0 {
		fulls = slices.Concat([]string{before}, fulls[:i], fulls[i+1:])
	}
	return fulls
}

func (m *dnsMemory) stick(name, full string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full[name] = full
}

func (m *dnsMemory) sticks(name, full string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.full[name] == full
}

func (m *dnsMemory) remember(name string, addrs []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.good[name] = addrs
}

func (m *dnsMemory) addresses(name string) []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.good[name]
}

func (m *dnsMemory) learn(q question, a answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[q] = a
}

func (m *dnsMemory) answer(q question) answer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known[q]
}

// keep drops what has not been asked for, or names that are long gone would
// stay for ever. Last good addresses outlive a look that did not need them.
func (m *dnsMemory) keep(asked map[question]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for q := range m.known {
		if !asked[q] {
			delete(m.known, q)
		}
	}
	if len(m.good) > 2*maxDiscovered {
		clear(m.good)
	}
	if len(m.full) > 2*maxDiscovered {
		clear(m.full)
	}
}

func (d *dnsDiscoverer) clamp(ttl time.Duration) time.Duration {
	return max(d.minTTL, min(ttl, d.maxTTL))
}

// resolve asks for q and follows its aliases.
func (l *look) resolve(ctx context.Context, q question) (answer, error) {
	ttl := uint32(math.MaxUint32)
	for hops, name := 0, q.name; ; {
		reply, err := l.query(ctx, question{name, q.kind})
		if err != nil {
			return answer{}, err
		}
		before := name
		name, hops, ttl = followAliases(reply, name, hops, ttl)
		if hops > maxAliases {
			return answer{}, fmt.Errorf("expected at most %d aliases (CNAME), got more at %s", maxAliases, name)
		}
		var found []dns.RR
		for _, rr := range reply.Answer {
			if h := rr.Header(); h.Rrtype == q.kind && h.Class == dns.ClassINET && dns.CanonicalName(h.Name) == name {
				found = append(found, rr)
				ttl = min(ttl, h.Ttl)
			}
		}
		if len(found) > 0 {
			var beside []dns.RR
			if q.kind == dns.TypeSRV {
				beside = slices.DeleteFunc(reply.Extra, func(rr dns.RR) bool { return !slices.Contains(l.families, rr.Header().Rrtype) })
			}
			for _, rr := range beside {
				ttl = min(ttl, rr.Header().Ttl)
			}
			return answer{records: found, beside: beside, until: l.now().Add(l.clamp(seconds(ttl)))}, nil
		}
		soa := startOfAuthority(reply)
		if reply.Rcode == dns.RcodeNameError || soa != nil || name == before {
			a := answer{why: "NXDOMAIN, no such name"}
			if reply.Rcode != dns.RcodeNameError {
				a.why = "no " + dns.TypeToString[q.kind] + " records"
			}
			if soa != nil {
				// RFC 2308 section 5.
				a.until = l.now().Add(l.clamp(seconds(min(ttl, soa.Hdr.Ttl, soa.Minttl))))
			}
			return a, nil
		}
	}
}

func seconds(ttl uint32) time.Duration { return time.Duration(ttl) * time.Second }

// followAliases goes from name along the CNAMEs in reply, counting hops on and
// keeping the least TTL. It stops one above maxAliases.
func followAliases(reply *dns.Msg, name string, hops int, ttl uint32) (string, int, uint32) {
	aliases := map[string]*dns.CNAME{}
	for _, rr := range reply.Answer {
		if c, ok := rr.(*dns.CNAME); ok && c.Hdr.Class == dns.ClassINET {
			aliases[dns.CanonicalName(c.Hdr.Name)] = c
		}
	}
	for hops <= maxAliases {
		c := aliases[name]
		if c == nil {
			break
		}
		name, ttl = dns.CanonicalName(c.Target), min(ttl, c.Hdr.Ttl)
		hops++
	}
	return name, hops, ttl
}

func startOfAuthority(reply *dns.Msg) *dns.SOA {
	for _, rr := range reply.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa
		}
	}
	return nil
}

// readSystem reads how names are found. It is read for each look, for machines
// change their networks.
func (d *dnsDiscoverer) readSystem() (nameSystem, error) {
	sys := nameSystem{
		servers: d.servers, tries: 2, timeout: cmp.Or(d.tryFor, defaultQueryTimeout),
		names: func(name string) []string { return []string{dns.CanonicalName(name)} },
	}
	if len(d.servers) > 0 {
		return sys, nil
	}
	text, err := os.ReadFile(d.resolv)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return sys, err
	}
	if conf, err := dns.ClientConfigFromReader(bytes.NewReader(text)); err == nil {
		sys.tries = min(conf.Attempts, maxQueryTries)
		sys.timeout = cmp.Or(d.tryFor, min(time.Duration(conf.Timeout)*time.Second, maxQueryTimeout))
		for _, s := range conf.Servers[:min(len(conf.Servers), maxDiscoverServers)] {
			if _, _, err := net.SplitHostPort(s); err != nil {
				s = net.JoinHostPort(s, conf.Port)
			}
			sys.servers = append(sys.servers, s)
		}
		sys.names = func(name string) (names []string) {
			for _, full := range conf.NameList(name) {
				if isHostName(full) {
					names = append(names, dns.CanonicalName(full))
				}
			}
			return names[:min(len(names), maxSearchNames)]
		}
	}
	if len(sys.servers) == 0 {
		sys.servers = []string{"127.0.0.1:53"} // as resolv.conf(5) has it
	}
	return sys, nil
}

// query asks the name servers in turn, from the one that answered last, until
// one answers. The answer may be that there is no such name.
func (l *look) query(ctx context.Context, q question) (*dns.Msg, error) {
	var last error
	servers := l.system.servers
	for try := range l.system.tries {
		if try > 0 && !pause(ctx, lookBackoff(try, 20*time.Millisecond)) {
			break
		}
		first := int(l.preferred.Load())
		for i := range servers {
			n := (first + i) % len(servers)
			reply, err := l.queryServer(ctx, servers[n], q)
			if err == nil {
				l.preferred.Store(int32(n))
				return reply, nil
			}
			last = fmt.Errorf("name server %s: %w", servers[n], err)
			if ctx.Err() != nil {
				return nil, last
			}
		}
	}
	return nil, cmp.Or(last, ctx.Err())
}

// queryServer asks one name server: by UDP, again without EDNS0 when that is
// not understood, and by TCP when the answer was cut off.
func (l *look) queryServer(ctx context.Context, server string, q question) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(q.name, q.kind)
	m.SetEdns0(udpAnswerSize, false)
	reply, err := l.exchange(ctx, "udp", server, m)
	if err == nil && (reply.Rcode == dns.RcodeFormatError || reply.Rcode == dns.RcodeNotImplemented || reply.Rcode == dns.RcodeBadVers) {
		m.Extra, m.Id = nil, dns.Id() // RFC 6891 section 6.2.2
		reply, err = l.exchange(ctx, "udp", server, m)
	}
	if err == nil && reply.Truncated {
		m.Id = dns.Id()
		reply, err = l.exchange(ctx, "tcp", server, m)
		if err == nil && reply.Truncated {
			err = errors.New("expected a whole answer over TCP, got a truncated one")
		}
	}
	switch {
	case err != nil:
		return nil, err
	case reply.Rcode != dns.RcodeSuccess && reply.Rcode != dns.RcodeNameError:
		return nil, fmt.Errorf("expected an answer, got %s", cmp.Or(dns.RcodeToString[reply.Rcode], "code "+strconv.Itoa(reply.Rcode)))
	case reply.Rcode == dns.RcodeSuccess && len(reply.Answer) == 0 && startOfAuthority(reply) == nil &&
		!reply.Authoritative && !reply.RecursionAvailable:
		// A server that is not responsible: its nothing means nothing.
		return nil, errors.New("expected an answer, got a referral")
	}
	return reply, nil
}

// exchange sends m from a socket of its own, whose random port is half of the
// defence against forged answers, and waits for the answer to it. Over UDP what
// is not the answer is passed over; over TCP it is an error.
func (l *look) exchange(ctx context.Context, network, server string, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, l.system.timeout)
	defer cancel()
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer func() { _ = socket.Close() }()
	// A deadline alone would not end the wait when Run is to end.
	defer context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })()
	// Room for the answers of servers that send more than they were asked to.
	conn := &dns.Conn{Conn: socket, UDPSize: 4096}
	if err := conn.WriteMsg(m); err != nil {
		return nil, err
	}
	for range maxStrayAnswer {
		reply, err := conn.ReadMsg()
		var network net.Error
		if errors.As(err, &network) {
			if ctx.Err() != nil {
				err = fmt.Errorf("expected an answer within %s, got none", l.system.timeout)
			}
			return nil, err
		}
		if err == nil {
			err = answers(reply, m)
		}
		if err == nil {
			return reply, nil
		}
		if socket.RemoteAddr().Network() == "tcp" {
			return nil, err
		}
	}
	return nil, fmt.Errorf("expected an answer, got %d that are not to this question", maxStrayAnswer)
}

// answers tells whether reply belongs to m.
func answers(reply, m *dns.Msg) error {
	if !reply.Response || reply.Id != m.Id || reply.Opcode != dns.OpcodeQuery {
		return errors.New("expected an answer with the id of the question")
	}
	// Some servers leave the question out when they could not read it.
	if len(reply.Question) == 0 && reply.Rcode != dns.RcodeSuccess && reply.Rcode != dns.RcodeNameError {
		return nil
	}
	if len(reply.Question) != 1 {
		return fmt.Errorf("expected an answer with one question, got %d", len(reply.Question))
	}
	got, asked := reply.Question[0], m.Question[0]
	if got.Qtype != asked.Qtype || got.Qclass != asked.Qclass || dns.CanonicalName(got.Name) != dns.CanonicalName(asked.Name) {
		return fmt.Errorf("expected an answer to the question for %s", asked.Name)
	}
	return nil
}
