package cache

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/setting"
	"sluice/wire"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// A client of a cluster that is closed within five seconds of a look at the nodes sleeps them out.
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"))
}

// start is when the tests' answers come.
const start = int64(1795579200) * second // 2026-11-25T04:00:00Z

var limits = wire.Limits{Bytes: 64 << 10, Fields: 200}

func testConfig() (*RouteConfig, *Config) {
	return &RouteConfig{Mode: "override", Share: "origin", SetCookie: "refuse", MaxGuess: 24 * 3600e9, Directives: true, Normalise: true, Status: true,
			Key: KeyConfig{Query: "all"}},
		&Config{Size: 256 << 20, MaxObject: 1 << 20, Name: "Sluice", Target: "Sluice", CDNCacheControl: true}
}

func testPolicy(changes ...func(*RouteConfig)) *Policy {
	route, shared := testConfig()
	for _, change := range changes {
		if change != nil {
			change(route)
		}
	}
	return NewPolicy(route, shared, Place{Route: "test"})
}

// datePlaceholder is {+60}: an HTTP-date so many seconds from start.
var datePlaceholder = regexp.MustCompile(`\{([+-]\d+)\}`)

func fill(s string) string {
	s = datePlaceholder.ReplaceAllStringFunc(s, func(m string) string {
		n, _ := strconv.Atoi(m[1 : len(m)-1])
		return string(appendDate(nil, start/second+int64(n)))
	})
	return strings.ReplaceAll(s, "\n", "\r\n")
}

// testRequest parses a head of the given lines: a method or a whole request
// line first, or nothing but fields for a GET of /.
func testRequest(t testing.TB, text string) *wire.Request {
	t.Helper()
	first, rest, _ := strings.Cut(text, "\n")
	switch {
	case first == "" || strings.Contains(first, ":") && !strings.Contains(first, " HTTP/"):
		first, rest = "GET / HTTP/1.1", text
	case !strings.Contains(first, " "):
		first += " / HTTP/1.1"
	}
	head := first + "\n"
	if !strings.Contains("\n"+rest, "\nHost:") {
		head += "Host: test\n"
	}
	if rest != "" {
		head += rest + "\n"
	}
	r := new(wire.Request)
	if _, err := r.Parse([]byte(fill(head+"\n")), limits); err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	return r
}

// testAnswer parses a head: a status and field lines.
func testAnswer(t testing.TB, text string) *wire.Response {
	t.Helper()
	r := new(wire.Response)
	if _, err := r.Parse([]byte(fill("HTTP/1.1 "+text+"\n\n")), limits, false); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return r
}

func testAsk(t testing.TB, p *Policy, text string) *Ask {
	t.Helper()
	a := new(Ask)
	p.Read(a, testRequest(t, text), false)
	return a
}

// testEntry is what p keeps of answer to a plain GET.
func testEntry(t testing.TB, p *Policy, answer string) *Entry {
	t.Helper()
	e, r := new(Entry), testAnswer(t, answer)
	if reason := p.Admit(e, testAsk(t, p, ""), r.Status, r.Fields, start, start); reason != OK {
		t.Fatalf("%q is not kept: %v", answer, reason)
	}
	e.Length = 1000
	return e
}

var useNames = map[Use]string{Miss: "miss", Fresh: "fresh", Stale: "stale", Allowed: "allowed", Validate: "validate", Refuse: "refuse"}

func durationOf(d time.Duration) setting.Duration { return setting.Duration(d) }

// tryAnswer is testAnswer for what may be no head.
func tryAnswer(text string) (*wire.Response, bool) {
	r := new(wire.Response)
	_, err := r.Parse([]byte("HTTP/1.1 "+strings.ReplaceAll(text, "\n", "\r\n")+"\r\n\r\n"), limits, false)
	return r, err == nil
}
