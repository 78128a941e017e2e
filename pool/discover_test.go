package pool

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/setting"
)

// discoverDeadline bounds every wait of the discovery tests; none is meant to
// come near it.
const discoverDeadline = 20 * time.Second

// following is a Discoverer that runs, and what it has told.
type following struct {
	t     *testing.T
	sets  chan []Discovered
	notes chan error
	end   func()
}

// runDiscoverer runs d until the test ends, and then looks for goroutines that
// it left behind.
func runDiscoverer(t *testing.T, d Discoverer) *following {
	t.Helper()
	before := goleak.IgnoreCurrent()
	f := &following{t: t, sets: make(chan []Discovered, 1000), notes: make(chan error, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Run(ctx, func(s []Discovered) { f.sets <- s }, func(err error) {
			if err != nil {
				f.notes <- err
			}
		})
	}()
	f.end = func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(discoverDeadline):
			t.Error("expected Run to return when its context ends")
		}
	}
	t.Cleanup(func() {
		f.end()
		goleak.VerifyNone(t, before)
	})
	return f
}

// set waits for the next set and holds it against want, written by showSet.
func (f *following) set(want ...string) {
	f.t.Helper()
	select {
	case got := <-f.sets:
		expectSet(f.t, got, want...)
	case <-time.After(discoverDeadline):
		f.t.Fatalf("expected the set %q, got none", want)
	}
}

// note waits for the next note that holds the text.
func (f *following) note(text string) {
	f.t.Helper()
	deadline := time.After(discoverDeadline)
	for {
		select {
		case err := <-f.notes:
			if strings.Contains(err.Error(), text) {
				return
			}
			f.t.Logf("noted meanwhile: %v", err)
		case <-deadline:
			f.t.Fatalf("expected a note with %q", text)
		}
	}
}

func (f *following) noSet() {
	f.t.Helper()
	select {
	case got := <-f.sets:
		f.t.Fatalf("expected the last good set to stay, got %q", showSet(got))
	default:
	}
}

// showSet writes targets as URL*weight@address.
func showSet(set []Discovered) []string {
	list := make([]string, 0, len(set))
	for _, d := range set {
		s := fmt.Sprintf("%s*%d", d.URL, d.Weight)
		if d.Address != "" {
			s += "@" + d.Address
		}
		list = append(list, s)
	}
	return list
}

func expectSet(t *testing.T, got []Discovered, want ...string) {
	t.Helper()
	if show := showSet(got); !slices.Equal(show, want) {
		t.Fatalf("expected the set %q, got %q", want, show)
	}
}

// discoverConfig is a configuration with the defaults that the tags name.
func discoverConfig(c DiscoverConfig) DiscoverConfig {
	c.Scheme, c.Family = "http", "any"
	c.MinTTL, c.MaxTTL = setting.Duration(time.Second), setting.Duration(5*time.Minute)
	return c
}

func TestDiscoverConfigSaysWhatIsWrong(t *testing.T) {
	f := func(change func(*DiscoverConfig), want string) {
		t.Helper()
		c := discoverConfig(DiscoverConfig{})
		change(&c)
		p := setting.NewProblems(nil)
		c.Validate(p)
		var got []string
		for _, problem := range p.List() {
			got = append(got, problem.Path+": "+problem.Expected)
		}
		if want == "" && len(got) > 0 || want != "" && !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("expected %q, got %q", want, got)
		}
		if d, err := newDiscoverer(c); (err == nil) != (want == "") || (d == nil) != (want != "") {
			t.Errorf("expected a Discoverer only of a good configuration, got %v, %v", d, err)
		}
	}
	f(func(c *DiscoverConfig) { c.DNS = "http://orders.internal:9000" }, "")
	f(func(c *DiscoverConfig) { c.DNS = "https://orders.internal." }, "")
	f(func(c *DiscoverConfig) { c.SRV = "_http._tcp.orders.internal" }, "")
	f(func(c *DiscoverConfig) { c.File = "targets" }, "")
	f(func(c *DiscoverConfig) { c.SRV = "orders"; c.Servers = []string{"10.0.0.53:53", "[::1]:5353"} }, "")
	f(func(*DiscoverConfig) {}, ": expected exactly one of dns, srv and file, got none")
	f(func(c *DiscoverConfig) { c.SRV, c.File = "orders", "targets" }, "got srv and file")
	f(func(c *DiscoverConfig) { c.DNS = "orders.internal:9000" }, "dns: expected http://host:port or https://host:port")
	f(func(c *DiscoverConfig) { c.DNS = "http://10.0.0.1:9000" }, "dns: expected a URL with a host name")
	f(func(c *DiscoverConfig) { c.DNS = "http://[::1]:9000" }, "dns: expected a URL with a host name")
	f(func(c *DiscoverConfig) { c.DNS = "http://a..b" }, "dns: expected a URL with a host name")
	f(func(c *DiscoverConfig) { c.DNS = "http://a/path" }, "without a path")
	f(func(c *DiscoverConfig) { c.SRV = "_http._tcp. orders" }, "srv: expected a DNS name")
	f(func(c *DiscoverConfig) { c.SRV = strings.Repeat("a", 64) }, "srv: expected a DNS name")
	f(func(c *DiscoverConfig) { c.SRV, c.Scheme = "orders", "ftp" }, "scheme: expected http or https")
	f(func(c *DiscoverConfig) { c.SRV, c.MaxTTL = "orders", c.MinTTL-1 }, "max_ttl: expected at least min_ttl")
	f(func(c *DiscoverConfig) { c.SRV, c.Servers = "orders", []string{"10.0.0.53:53", "ns"} }, "servers[1]: expected address:port")
	f(func(c *DiscoverConfig) { c.SRV, c.Servers = "orders", make([]string, 9) }, "servers: expected at most 8")
}

func TestDiscoveredSetIsInOrderAndWithoutDuplicates(t *testing.T) {
	expectSet(t, inOrder([]Discovered{
		{"http://b", 1, ""}, {"http://a", 1, "10.0.0.2:80"}, {"http://a", 1, "10.0.0.1:80"}, {"http://b", 3, ""}, {"http://b", 2, ""},
	}), "http://a*1@10.0.0.1:80", "http://a*1@10.0.0.2:80", "http://b*3")
}

func TestWholeWeights(t *testing.T) {
	f := func(shares []float64, want ...int) {
		t.Helper()
		if got := wholeWeights(shares); !slices.Equal(got, want) {
			t.Errorf("expected %v of %v, got %v", want, shares, got)
		}
	}
	f(nil)
	f([]float64{1, 2, 1000}, 1, 2, 1000)
	f([]float64{0, 0}, 1, 1)
	f([]float64{10, 0, 5}, 1000, 1, 500)
	f([]float64{0.5, 0.5, 1}, 500, 500, 1000)
	f([]float64{65535, 1}, 1000, 1)
}

func TestTargetURLHasOneForm(t *testing.T) {
	f := func(scheme, host, port, want, wantPort string) {
		t.Helper()
		if got, gotPort := targetURL(scheme, host, port); got != want || gotPort != wantPort {
			t.Errorf("expected %s and %s, got %s and %s", want, wantPort, got, gotPort)
		}
	}
	f("http", "A.Example.", "", "http://a.example", "80")
	f("http", "a", "80", "http://a", "80")
	f("https", "a", "80", "https://a:80", "80")
	f("https", "a", "443", "https://a", "443")
	f("http", "::1", "", "http://[::1]", "80")
	f("http", "::1", "9000", "http://[::1]:9000", "9000")
}

func TestLookBackoffStaysInBounds(t *testing.T) {
	for _, least := range []time.Duration{100 * time.Millisecond, time.Second, time.Hour} {
		for failures := range 100 {
			full := least
			for range min(failures, 30) {
				full = min(full*2, max(least, maxDiscoverBackoff))
			}
			if d := lookBackoff(failures, least); d < full/2 || d > full {
				t.Fatalf("expected from %s to %s after %d failures, got %s", full/2, full, failures, d)
			}
		}
	}
}
