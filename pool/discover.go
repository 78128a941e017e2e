package pool

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"sluice/setting"
)

// The bounds of what a source may name.
const (
	maxDiscovered      = 4096 // targets
	maxDiscoverServers = 8    // name servers
	maxWeight          = 1000 // as in TargetConfig
	maxDiscoverErrors  = 8    // errors told one by one in a note
)

// maxDiscoverBackoff bounds the wait after failures that follow each other.
const maxDiscoverBackoff = 30 * time.Second

// DiscoverConfig says where an upstream's targets come from when they are not
// written down. Exactly one of DNS, SRV and File is set.
type DiscoverConfig struct {
	DNS     string           `yaml:"dns" doc:"http://name:port or https://name:port: every address of the name is a target of its own. Host and SNI stay the name."`
	SRV     string           `yaml:"srv" doc:"A name with SRV records, such as _http._tcp.orders.internal: targets with their ports, weights and priorities."`
	Scheme  string           `yaml:"scheme" default:"http" enum:"http,https" doc:"The scheme of targets found by srv, and of lines of a file that have none."`
	File    string           `yaml:"file" doc:"A file of targets, read again when it changes: a YAML or JSON list as in targets, or one target a line."`
	Family  string           `yaml:"family" default:"any" enum:"any,ipv4,ipv6" doc:"Which addresses of a name are targets. A server with an address of each kind is two targets with any."`
	MinTTL  setting.Duration `yaml:"min_ttl" default:"1s" min:"100ms" max:"1h" doc:"A DNS answer is used for this long at the least, whatever its TTL says."`
	MaxTTL  setting.Duration `yaml:"max_ttl" default:"5m" min:"1s" max:"24h" doc:"A DNS answer is used for this long at the most, whatever its TTL says."`
	Servers []string         `yaml:"servers" doc:"Name servers, address:port, asked instead of those in /etc/resolv.conf. Its search list and /etc/hosts then play no part."`
}

// Discovered is one target that a source named.
type Discovered struct {
	URL     string // scheme://host[:port], whose host is the name for Host and SNI
	Weight  int    // from 1 to 1000, relative to the others of the set
	Address string // host:port to dial when it differs from the URL's, else empty
}

// Discoverer follows one source of targets.
//
// Run calls update with the whole set, sorted and without duplicates, as soon
// as it is known and whenever it changes, until ctx ends. The set is update's
// to keep. When the source fails, or what it says cannot be used, the last good
// set stays and note is told why, once for each failed look, and nil after one
// that went well. update gets an
// empty set only when the source says with authority that the service is not
// there (an SRV record with the target "."). Both functions are called from
// Run's own goroutine, so one that blocks delays the next look. Run is called
// once; it returns when ctx ends and leaves no goroutine behind.
//
// Another source is one more type with a Run. For etcd: read all keys under a
// prefix and remember the revision, call update, then watch from the revision
// after it; when the watch is compacted or lost, note the error, back off and
// begin again at the read. For Consul: a blocking query on
// /v1/health/service/NAME?passing, which answers when its index goes past the
// one sent; an index that goes back is sent as 0, and a wait that times out
// with the same index is no change. In both an empty answer is kept from update
// like any failure, for it is what a half-started registry gives too. The parts
// to build on are lastSet (is this set news?), lookBackoff and checkTargetURL.
type Discoverer interface {
	Run(ctx context.Context, update func([]Discovered), note func(error))
}

// newDiscoverer makes the Discoverer of c, which has its defaults filled in. It
// opens nothing: a source that is not there yet is Run's to wait for.
func newDiscoverer(c DiscoverConfig) (Discoverer, error) {
	problems := setting.NewProblems(nil)
	c.Validate(problems)
	for _, p := range problems.List() {
		return nil, fmt.Errorf("%s: %s", p.Path, p.Expected)
	}
	if c.File != "" {
		return newFileDiscoverer(c), nil
	}
	return newDNSDiscoverer(c), nil
}

// Validate reports what the tags cannot say.
func (c *DiscoverConfig) Validate(p *setting.Problems) {
	var set []string
	for _, source := range []struct{ key, value string }{{"dns", c.DNS}, {"srv", c.SRV}, {"file", c.File}} {
		if source.value != "" {
			set = append(set, source.key)
		}
	}
	if len(set) != 1 {
		p.Add("", "expected exactly one of dns, srv and file, got %s", cmp.Or(strings.Join(set, " and "), "none"))
	}
	if c.DNS != "" {
		if why := checkTargetURL(c.DNS); why != "" {
			p.Add("dns", why+", got %q", c.DNS)
		} else if u, _ := url.Parse(c.DNS); !isHostName(u.Hostname()) || isAddress(u.Hostname()) {
			p.Add("dns", "expected a URL with a host name, which DNS can be asked for, got %q", c.DNS)
		}
	}
	if c.SRV != "" && !isHostName(c.SRV) {
		p.Add("srv", "expected a DNS name such as _http._tcp.orders.internal, got %q", c.SRV)
	}
	if c.Scheme != "http" && c.Scheme != "https" {
		p.Add("scheme", "expected http or https, got %q", c.Scheme)
	}
	if c.MinTTL <= 0 || c.MaxTTL < c.MinTTL {
		p.Add("max_ttl", "expected at least min_ttl, which is %s, got %s", c.MinTTL, c.MaxTTL)
	}
	if len(c.Servers) > maxDiscoverServers {
		p.Add("servers", "expected at most %d name servers, got %d", maxDiscoverServers, len(c.Servers))
	}
	for i, s := range c.Servers {
		if a, err := netip.ParseAddrPort(s); err != nil || a.Port() == 0 {
			p.Add(indexed("servers", i, ""), "expected address:port such as 10.0.0.53:53, got %q", s)
		}
	}
}

// isHostName tells whether s can stand in a URL, in Host and in a DNS question:
// letters, digits, - and _ in labels of at most 63 bytes, 253 bytes in all. A
// final dot, which keeps the search list away, is allowed.
func isHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			switch c := label[i]; {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			default:
				return false
			}
		}
	}
	return true
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// targetURL writes a target's URL in the one form that tells it from others:
// lower case, no final dot, and no port where it is the scheme's own. It
// returns the port too, always.
func targetURL(scheme, host, port string) (canonical, dialPort string) {
	own := map[string]string{"http": "80", "https": "443"}[scheme]
	port = cmp.Or(port, own)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	switch {
	case port != own:
		host = net.JoinHostPort(host, port)
	case strings.Contains(host, ":"):
		host = "[" + host + "]"
	}
	return scheme + "://" + host, port
}

// inOrder sorts targets and takes out those that are there twice; of two that
// differ in weight alone the heavier stays, so that the source's order decides
// nothing. It works in place.
func inOrder(targets []Discovered) []Discovered {
	slices.SortFunc(targets, func(a, b Discovered) int {
		return cmp.Or(cmp.Compare(a.URL, b.URL), cmp.Compare(a.Address, b.Address), cmp.Compare(b.Weight, a.Weight))
	})
	return slices.CompactFunc(targets, func(a, b Discovered) bool {
		return a.URL == b.URL && a.Address == b.Address
	})
}

// wholeWeights turns shares, none negative, into weights from 1 to 1000. Shares
// that are such numbers stay as they are. Otherwise the largest becomes 1000,
// so that one of 0 is left with next to nothing, as RFC 2782 wants it beside
// others; when all are 0 all are equal.
func wholeWeights(shares []float64) []int {
	weights := make([]int, len(shares))
	fit, most := true, 0.0
	for i, s := range shares {
		weights[i] = int(s)
		fit = fit && s >= 1 && s <= maxWeight && s == math.Trunc(s)
		most = max(most, s)
	}
	if fit {
		return weights
	}
	for i, s := range shares {
		weights[i] = 1
		if most > 0 {
			weights[i] = max(1, int(math.Round(s/most*maxWeight)))
		}
	}
	return weights
}

// lastSet tells whether a set is news after the one before it, and may be told.
type lastSet struct {
	set   []Discovered
	known bool
}

func (c *lastSet) differs(set []Discovered) bool {
	if c.known && slices.Equal(c.set, set) {
		return false
	}
	// A copy, for update may do with its set what it likes.
	c.set, c.known = slices.Clone(set), true
	return true
}

// lookBackoff is how long to wait after so many failures in a row, the first being
// 0: it doubles from least to 30 s, half of it at random, so that a fleet of
// gateways does not come back all at once.
func lookBackoff(failures int, least time.Duration) time.Duration {
	d := max(least, min(least<<min(failures, 16), maxDiscoverBackoff))
	return d/2 + rand.N(d/2+1)
}

// pause waits for d, or until ctx ends, and tells whether it waited to the end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
