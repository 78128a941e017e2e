package listen

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"sluice/config"
	"sluice/setting"
)

// v2 makes a version 2 header.
func v2(t testing.TB, source, dest net.Addr) string {
	b, err := proxyproto.HeaderProxyFromAddrs(2, source, dest).Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func tcp(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

const sig = "\r\n\r\n\x00\r\nQUIT\n"

func TestProxyHeader(t *testing.T) {
	long := sig + "\x21\x11\x00\x20" + "\xc0\x00\x02\x05\xc0\x00\x02\x01\x11\x5c\x00\x50" + "\x04\x00\x11" + strings.Repeat("\x00", 17)
	for _, c := range []struct {
		name, in string
		want     string // the source, "local", "none" or "error"
	}{
		{"v1 TCP4", "PROXY TCP4 192.0.2.5 192.0.2.1 4444 80\r\n", "192.0.2.5:4444"},
		{"v1 TCP6", "PROXY TCP6 2001:db8::5 2001:db8::1 4444 80\r\n", "[2001:db8::5]:4444"},
		{"v1 mapped", "PROXY TCP6 ::ffff:192.0.2.5 ::1 4444 80\r\n", "192.0.2.5:4444"},
		{"v1 UNKNOWN", "PROXY UNKNOWN\r\n", "local"},
		{"v1 UNKNOWN with more", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "local"},
		{"v1 bare LF", "PROXY TCP4 192.0.2.5 192.0.2.1 4444 80\n", "error"},
		{"v1 endless", "PROXY UNKNOWN " + strings.Repeat("x", 200), "error"},
		{"v1 UDP", "PROXY UDP4 192.0.2.5 192.0.2.1 4444 80\r\n", "error"},
		{"v1 bad port", "PROXY TCP4 192.0.2.5 192.0.2.1 70000 80\r\n", "error"},
		{"v1 bad address", "PROXY TCP4 192.0.2.500 192.0.2.1 7000 80\r\n", "error"},
		{"v1 cut", "PROXY TCP4 192.0.2.5 192", "error"},
		{"v2 TCP4", v2(t, tcp("192.0.2.5:4444"), tcp("192.0.2.1:80")), "192.0.2.5:4444"},
		{"v2 TCP6", v2(t, tcp("[2001:db8::5]:4444"), tcp("[2001:db8::1]:80")), "[2001:db8::5]:4444"},
		{"v2 with TLV", long, "192.0.2.5:4444"},
		{"v2 UNIX", v2(t, &net.UnixAddr{Net: "unix", Name: "/a"}, &net.UnixAddr{Net: "unix", Name: "/b"}), "local"},
		{"v2 UDP", v2(t, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 5)}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1)}), "error"},
		{"v2 LOCAL", sig + "\x20\x00\x00\x00", "local"},
		{"v2 LOCAL with block", sig + "\x20\x11\x00\x0c123456789012", "local"},
		{"v2 UNSPEC", sig + "\x21\x00\x00\x00", "local"},
		{"v2 UNSPEC with block", sig + "\x21\x00\x00\x03abc", "local"},
		{"v2 UNSPEC too long", sig + "\x21\x00\xff\xff" + strings.Repeat("x", 0xffff), "error"},
		{"v2 TCP4 too short", sig + "\x21\x11\x00\x0412345678", "error"},
		{"v2 too long", sig + "\x21\x11\xff\xff" + strings.Repeat("x", 0xffff), "error"},
		{"v2 version 3", sig + "\x31\x11\x00\x0c123456789012", "error"},
		{"v2 cut", sig + "\x21\x11\x00\x0c1234", "error"},
		{"HTTP", "GET / HTTP/1.1\r\n", "none"},
		{"HTTP that begins alike", "PROPFIND / HTTP/1.1\r\n", "none"},
		{"CRLF before HTTP", "\r\n\r\nGET / HTTP/1.1\r\n", "none"},
		{"TLS", "\x16\x03\x01\x02\x00\x01", "none"},
		{"start of v1", "PRO", "none"},
		{"start of v2", sig[:7], "none"},
	} {
		const after = "GET"
		for chunk, r := range map[string]io.Reader{
			"at once":      strings.NewReader(c.in + after),
			"byte by byte": iotest.OneByteReader(strings.NewReader(c.in + after)),
		} {
			if strings.HasPrefix(c.name, "start") || strings.HasSuffix(c.name, "cut") {
				r = io.LimitReader(r, int64(len(c.in)))
			}
			br := bufio.NewReaderSize(r, maxV2)
			source, found, err := readProxyHeader(br)
			got := source.String()
			switch {
			case err != nil:
				got = "error"
			case !found:
				got = "none"
			case !source.IsValid():
				got = "local"
			}
			if got != c.want {
				t.Errorf("%s, %s: got %s (%v), want %s", c.name, chunk, got, err, c.want)
			}
			rest, _ := io.ReadAll(br)
			if found && string(rest) != after {
				t.Errorf("%s, %s: %q is left, want %q", c.name, chunk, rest, after)
			}
			if err == nil && !found && !strings.HasPrefix(c.in+after, string(rest)) {
				t.Errorf("%s, %s: %q is left, want all", c.name, chunk, rest)
			}
		}
	}
}

// FuzzProxyHeader: whatever comes, in whatever pieces, the verdict is the same,
// a header is taken whole, and what is not one is left untouched.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.5 192.0.2.1 4444 80\r\nGET / HTTP/1.1\r\n"))
	f.Add([]byte("PROXY TCP6 2001:db8::5 2001:db8::1 4444 80\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(v2(f, tcp("192.0.2.5:4444"), tcp("192.0.2.1:80")) + "GET"))
	f.Add([]byte(v2(f, tcp("[2001:db8::5]:4444"), tcp("[2001:db8::1]:80"))))
	f.Add([]byte(v2(f, &net.UnixAddr{Net: "unix", Name: "/a"}, &net.UnixAddr{Net: "unix", Name: "/b"})))
	f.Add([]byte(sig + "\x20\x00\x00\x00"))
	f.Add([]byte(sig + "\x21\x00\x00\x03abcd"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		type verdict struct {
			source netip.AddrPort
			found  bool
			failed bool
			rest   string
		}
		judge := func(r io.Reader) verdict {
			br := bufio.NewReaderSize(r, maxV2)
			source, found, err := readProxyHeader(br)
			v := verdict{source: source, found: found, failed: err != nil}
			if err == nil {
				rest, _ := io.ReadAll(br)
				v.rest = string(rest)
			}
			return v
		}
		v := judge(bytes.NewReader(in))
		if pieces := judge(iotest.OneByteReader(bytes.NewReader(in))); pieces != v {
			t.Fatalf("at once %+v, byte by byte %+v", v, pieces)
		}
		switch {
		case v.failed && (v.found || v.source.IsValid()):
			t.Fatalf("an error and a verdict: %+v", v)
		case v.failed:
		case !v.found && v.rest != string(in):
			t.Fatalf("no header, but %d of %d bytes left", len(v.rest), len(in))
		case v.found && (!strings.HasSuffix(string(in), v.rest) || len(v.rest) > len(in)-len("PROXY UNKNOWN\r\n")):
			t.Fatalf("a header, but %d of %d bytes left", len(v.rest), len(in))
		}
		if v.source.IsValid() && v.source.Addr().Is4In6() {
			t.Fatalf("IPv4 in disguise: %v", v.source)
		}
	})
}

func TestProxyDoor(t *testing.T) {
	timeout := setting.Duration(patience)
	door := func(required bool, trusted ...string) config.Listener {
		return config.Listener{Address: "127.0.0.1:0", ProxyProtocol: &config.ProxyProtocol{Trusted: trusted, Required: required, Timeout: timeout}}
	}
	d := opened(t, door(true, "127.0.0.1"), door(false, "::ffff:127.0.0.0/104"), door(true, "192.0.2.0/24"))
	required, optional, untrusted := d.Addrs()[0], d.Addrs()[1], d.Addrs()[2]

	c := dial(t, required)
	c.send("PROXY TCP4 192.0.2.5 192.0.2.1 4444 80\r\nfirst\n")
	line, err := c.r.ReadString('\n')
	must(t, err)
	f := strings.Fields(line)
	if f[0] != "192.0.2.5:4444" || f[1] != c.LocalAddr().String() || f[3] != "first" {
		t.Errorf("got %q", line)
	}
	c.mustServe()

	c = dial(t, required)
	c.send(v2(t, tcp("[2001:db8::5]:4444"), tcp("[2001:db8::1]:80")))
	if remote, _, _, _ := c.ask("x"); remote != "[2001:db8::5]:4444" {
		t.Errorf("remote %q", remote)
	}
	c = dial(t, required)
	c.send(sig + "\x20\x00\x00\x00")
	if remote, _, _, _ := c.ask("x"); remote != c.LocalAddr().String() {
		t.Errorf("LOCAL: remote %q", remote)
	}
	c = dial(t, optional)
	if remote, _, _, rest := c.ask("no header"); remote != c.LocalAddr().String() || rest != "no header" {
		t.Errorf("without a header: remote %q, line %q", remote, rest)
	}
	c = dial(t, untrusted)
	if remote, _, _, rest := c.ask("PROXY TCP4 192.0.2.5 192.0.2.1 4444 80\r"); remote != c.LocalAddr().String() || !strings.HasPrefix(rest, "PROXY ") {
		t.Errorf("an untrusted peer: remote %q, line %q", remote, rest)
	}

	for _, in := range []string{"GET / HTTP/1.1\r\n\r\n", "PROXY TCP4 x y 1 2\r\n"} {
		c = dial(t, required)
		c.send(in)
		if got := c.untilClosed(); got != "" {
			t.Errorf("%q: got %q", in, got)
		}
	}
	must(t, dial(t, required).Close()) // a probe: counts as nothing
	eventually(t, func() bool { return d.Stats().Doors[0].Open == 3 })
	if n := d.Stats().Doors[0].Refused[RefusedProxy]; n != 2 {
		t.Errorf("%d refused, expected 2", n)
	}
}

func TestProxyLate(t *testing.T) {
	d := opened(t, config.Listener{Address: "127.0.0.1:0", ProxyProtocol: &config.ProxyProtocol{
		Trusted: []string{"127.0.0.1"}, Timeout: setting.Duration(20 * time.Millisecond)}})
	for _, start := range []string{"", "PROXY TC", sig, sig + "\x21\x11\x00\x0c1234"} {
		c := dial(t, d.Addrs()[0])
		c.send(start)
		if got := c.untilClosed(); got != "" {
			t.Errorf("after %q: got %q", start, got)
		}
	}
	if n := d.Stats().Doors[0].Refused[RefusedProxy]; n != 4 {
		t.Errorf("%d refused, expected 4", n)
	}
}

func TestProxyUnix(t *testing.T) {
	d := opened(t, config.Listener{Address: "unix:" + t.TempDir() + "/a", ProxyProtocol: &config.ProxyProtocol{Required: true, Timeout: setting.Duration(patience)}})
	c := dial(t, d.Addrs()[0])
	c.send("PROXY TCP4 192.0.2.5 192.0.2.1 4444 80\r\n")
	if remote, peer, _, _ := c.ask("x"); remote != "192.0.2.5:4444" || peer != "-" {
		t.Errorf("remote %q, peer %q", remote, peer)
	}
}
