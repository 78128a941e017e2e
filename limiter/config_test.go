package limiter

import (
	"reflect"
	"strings"
	"testing"

	"sluice/setting"
)

func testConfig(rate string, burst int) Config {
	return Config{Rate: rate, Burst: burst, Key: "ip", Cost: 1, Keys: 1024, OnFull: "open", Headers: true, IPv6Prefix: 64}
}

func TestValidate(t *testing.T) {
	f := func(change func(*Config), want ...string) {
		t.Helper()
		c := testConfig("100/s", 50)
		change(&c)
		p := setting.NewProblems(nil)
		c.Validate(p)
		var got []string
		for _, m := range p.List() {
			got = append(got, m.Path+": "+m.Expected)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v:\n got %q\nwant %q", c, got, want)
		}
	}
	const badRate = "rate: expected a rate such as 100/s, 5000/m, 10/h or 1000/d, at most 1000000 a second, got "
	f(func(*Config) {})
	f(func(c *Config) { c.Shorthand("10/h") })
	f(func(c *Config) { c.Rate = "" }, badRate+`""`)
	f(func(c *Config) { c.Rate = "100" }, badRate+`"100"`)
	f(func(c *Config) { c.Key = "ip+"; c.Rate = "1" },
		"key: expected "+keyWant+`, got "ip+"`, badRate+`"1"`)
	f(func(c *Config) { c.Cost = 51 }, "cost: expected a cost of at most the burst, 50: a request of more would never pass; got 51")
	f(func(c *Config) { c.Burst, c.Cost = 0, 100 })
	f(func(c *Config) { c.Burst, c.Cost = 0, 101 }, "cost: expected a cost of at most the burst, 100: a request of more would never pass; got 101")
	f(func(c *Config) { c.Rate, c.Burst = "1/d", 366 })
	f(func(c *Config) { c.Rate, c.Burst = "1/d", 367 }, "burst: expected at most 366, what 1/d gives in 366 days, got 367")
	f(func(c *Config) { c.Rate, c.Burst = "1000000/s", 1000000 })
}

func TestParseKey(t *testing.T) {
	f := func(in string, want ...Part) {
		t.Helper()
		got, err := ParseKey(in)
		if (err == nil) != (want != nil) || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseKey(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	f("ip", Part{Source: IP, Name: ""})
	f("route", Part{Source: Route, Name: ""})
	f("header:X-Tenant", Part{Source: Header, Name: "X-Tenant"})
	f("cookie:session", Part{Source: Cookie, Name: "session"})
	f("ip+header:X-Tenant+route", Part{Source: IP, Name: ""}, Part{Source: Header, Name: "X-Tenant"}, Part{Source: Route, Name: ""})
	f("cookie:a+cookie:A", Part{Source: Cookie, Name: "a"}, Part{Source: Cookie, Name: "A"})
	f("header:A+cookie:A", Part{Source: Header, Name: "A"}, Part{Source: Cookie, Name: "A"})
	f("identity", Part{Source: Identity})
	f("claim:sub", Part{Source: Claim, Name: "sub"})
	f("claim:https://example.com/plan", Part{Source: Claim, Name: "https://example.com/plan"})
	f("claim:a+claim:A", Part{Source: Claim, Name: "a"}, Part{Source: Claim, Name: "A"})
	f("claim:tenant.id|identity|ip+route",
		Part{Source: Claim, Name: "tenant.id"}, Part{Source: Identity, Or: true}, Part{Source: IP, Or: true}, Part{Source: Route})
	for _, bad := range []string{
		"", "+", "ip+", "+ip", "ip+ip", "IP", "ip:", "ip:x", "header", "header:", "header:a b", "header:a\r\n", "header:a:b",
		"header:X+header:x", "claim", "claim:", "claim:.a", "claim:a.", "claim:a b", "claim:a\x00", "claim:é", "claim:a+claim:a", "identity:x", "ip|", "|ip", "ip|ip", "ip||route", "header:a|b", "cookie:a|", "ip header:X", "ip++route", "header:\x80", "header:" + strings.Repeat("x", 129),
		strings.Repeat("ip+", 1<<16), "header:1+header:2+header:3+header:4+header:5+header:6+header:7+header:8+ip",
	} {
		f(bad)
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"ip", "ip+header:X-Tenant", "cookie:a+route", "claim:a.b|identity+ip", "", "+", "|", "header:a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parts, err := ParseKey(s)
		if err != nil {
			return
		}
		var again string
		for i, p := range parts {
			word := sources[p.Source].word
			if p.Name != "" {
				word += ":" + p.Name
			}
			switch {
			case p.Or:
				again += "|"
			case i > 0:
				again += "+"
			}
			again += word
		}
		if again != s || len(parts) > mostParts {
			t.Fatalf("%q is read as %q", s, again)
		}
	})
}
