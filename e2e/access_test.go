package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/e2e/rig"
)

// accessLine is a line of the access log as far as the tests look at it.
type accessLine struct {
	Time           time.Time `json:"time"`
	Status         int       `json:"status"`
	Duration       int64     `json:"duration_us"`
	BytesIn        int64     `json:"bytes_in"`
	BytesOut       int64     `json:"bytes_out"`
	UpstreamStatus *int      `json:"upstream_status"`
	Tries          int       `json:"tries"`
	RequestID      string    `json:"request_id"`
	Client         string    `json:"client"`
	Method         string    `json:"method"`
	Scheme         string    `json:"scheme"`
	Proto          string    `json:"proto"`
	Host           string    `json:"host"`
	URI            string    `json:"uri"`
	Route          string    `json:"route"`
	Upstream       string    `json:"upstream"`
	Target         string    `json:"target"`
	Flag           string    `json:"flag"`
	UserAgent      string    `json:"user_agent"`
}

// accessLines reads a log, every line of which must be one JSON object with
// known keys.
func accessLines(t *testing.T, file string) (list []accessLine) {
	t.Helper()
	text := given[[]byte](t)(os.ReadFile(file))
	for line := range strings.Lines(string(text)) {
		var l accessLine
		if err := json.Unmarshal([]byte(line), &l); err != nil || !strings.HasSuffix(line, "}\n") {
			t.Fatalf("%s: expected a line of JSON, got %q: %v", file, line, err)
		}
		list = append(list, l)
	}
	return list
}

// TestAccessLog looks at the lines of requests that went well and ill in each
// of their ways.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	b := backend(t, "b")
	nobody := given[string](t)(rig.FreeAddress())
	file := filepath.Join(t.TempDir(), "access.log")
	g, _ := serveFile(t, common+`
log: { access: { output: `+file+` } }
upstreams: { a: "`+b.URL+`", gone: "http://`+nobody+`" }
routes:
  - { name: all, match: /b/*, rewrite: { strip_prefix: /b }, upstream: a }
  - { name: gone, match: /gone, upstream: gone }
  - { name: get, match: { path: /get, methods: [GET] }, respond: hello }
`)
	raw := func(id, text string) (*bufio.Reader, func()) {
		t.Helper()
		c := dial(t, "tcp", g.Doors[0])
		_, err := fmt.Fprintf(c, strings.Replace(text, "\r\n", " HTTP/1.1\r\nHost: log.test\r\nUser-Agent: \"te\\st\"\r\nX-Request-Id: %s\r\n", 1), id)
		must(t, err)
		return bufio.NewReader(c), func() { _ = c.Close() }
	}
	ask := func(id, text string) {
		t.Helper()
		in, hangUp := raw(id, text)
		defer hangUp()
		res, err := http.ReadResponse(in, nil)
		must(t, err)
		// Until the answer's end, or until it breaks.
		_, _ = in.WriteTo(discard{})
		_ = res.Body.Close()
	}
	const end = "Connection: close\r\n\r\n"
	ask("ok", "POST /b/echo/tok?q=1\r\nContent-Length: 4\r\n"+end+"body")
	ask("missing", "GET /nowhere/to~go\r\n"+end)
	ask("absent", "GET /b/none\r\n"+end)
	ask("method", "DELETE /get\r\n"+end)
	ask("fixed", "GET /get\r\n"+end)
	ask("unreachable", "GET /gone\r\n"+end)
	ask("broken", "GET /b/break\r\n"+end)

	in, hangUp := raw("tunnel", "GET /b/switch\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	res, err := http.ReadResponse(in, nil)
	must(t, err)
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("expected an upgrade, got %s", res.Status)
	}
	hangUp()

	_, hangUp = raw("aborted", "GET /b/hold/x\r\n\r\n")
	if _, err := b.Held(bounded(t)); err != nil {
		t.Fatal(err)
	}
	hangUp()

	bad := dial(t, "tcp", g.Doors[0])
	_, err = fmt.Fprint(bad, "GET / HTTP/1.1\r\nHost : x\r\n\r\n")
	must(t, err)
	res, err = http.ReadResponse(bufio.NewReader(bad), nil)
	must(t, err)
	badID := res.Header.Get("X-Request-Id")

	lines := map[string]accessLine{}
	must(t, rig.Poll(bounded(t), "all lines are written", func() bool {
		clear(lines)
		for _, l := range accessLines(t, file) {
			lines[l.RequestID] = l
		}
		return len(lines) >= 10
	}))
	status := func(n int) *int { return &n }
	f := func(id string, want accessLine) {
		t.Helper()
		got, ok := lines[id]
		if !ok {
			t.Errorf("%s: no line", id)
			return
		}
		if age := time.Since(got.Time); age < 0 || age > 2*patience {
			t.Errorf("%s: expected the time of now, got %s", id, got.Time)
		}
		if got.Duration <= 0 || got.Duration > (2*patience).Microseconds() {
			t.Errorf("%s: expected a duration, got %d", id, got.Duration)
		}
		want.Time, want.Duration, want.RequestID, want.Client = got.Time, got.Duration, id, "127.0.0.1"
		want.Scheme, want.Proto = "http", "HTTP/1.1"
		if id != badID {
			want.Host, want.UserAgent = "log.test", `"te\st"`
		}
		if want.Upstream == "a" {
			want.Target = b.URL
		}
		same := (got.UpstreamStatus == nil) == (want.UpstreamStatus == nil)
		if same && got.UpstreamStatus != nil {
			same = *got.UpstreamStatus == *want.UpstreamStatus
		}
		got.UpstreamStatus, want.UpstreamStatus = nil, nil
		if !same || got != want {
			t.Errorf("%s: expected\n\t%+v\ngot\n\t%+v", id, want, got)
		}
	}
	f("ok", accessLine{Status: 200, UpstreamStatus: status(200), BytesIn: 4, BytesOut: 8, Tries: 1, Method: "POST", URI: "/b/echo/tok?q=1", Route: "all", Upstream: "a"})
	f("missing", accessLine{Status: 404, BytesOut: lines["missing"].BytesOut, Method: "GET", URI: "/nowhere/to~go", Flag: "not-found"})
	f("absent", accessLine{Status: 404, UpstreamStatus: status(404), BytesOut: 19, Tries: 1, Method: "GET", URI: "/b/none", Route: "all", Upstream: "a"})
	f("method", accessLine{Status: 405, BytesOut: lines["method"].BytesOut, Method: "DELETE", URI: "/get", Flag: "method-not-allowed"})
	f("fixed", accessLine{Status: 200, BytesOut: 5, Method: "GET", URI: "/get", Route: "get"})
	f("unreachable", accessLine{Status: 502, UpstreamStatus: status(0), BytesOut: lines["unreachable"].BytesOut, Tries: lines["unreachable"].Tries, Method: "GET", URI: "/gone", Route: "gone", Upstream: "gone", Target: "http://" + nobody, Flag: "connect-failed"})
	f("broken", accessLine{Status: 200, UpstreamStatus: status(200), BytesOut: 4, Tries: 1, Method: "GET", URI: "/b/break", Route: "all", Upstream: "a", Flag: "answer-cut"})
	f("tunnel", accessLine{Status: 101, UpstreamStatus: status(101), Tries: 1, Method: "GET", URI: "/b/switch", Route: "all", Upstream: "a"})
	f("aborted", accessLine{Status: 499, UpstreamStatus: status(0), Tries: 1, Method: "GET", URI: "/b/hold/x", Route: "all", Upstream: "a", Flag: "client-gone"})
	f(badID, accessLine{Status: 400, BytesOut: lines[badID].BytesOut, Flag: "bad-request"})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
