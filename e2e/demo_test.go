package e2e

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"

	"sluice/e2e/rig"
	"sluice/examples"
)

// kept is what a process has written, for a test to read.
type kept struct {
	mu sync.Mutex
	b  strings.Builder
}

func (k *kept) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.b.Write(p)
}

func (k *kept) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.b.String()
}

var (
	curlLine    = regexp.MustCompile(`(?m)^  curl +((?:-\S+ +(?:POST +)?)*)localhost:(\d+)(\S*)( \| grep \S+)?`)
	explainLine = regexp.MustCompile(`(?m)^  bin/sluice (explain -c \S+ .+)$`)
)

// TestDemo runs every line that the demonstration tells a newcomer to try. The
// ports are others, for those it names may be taken.
func TestDemo(t *testing.T) {
	t.Parallel()
	var out kept
	g := serveWith(t, rig.Command{Args: []string{"demo", "--listen", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"}, Stdout: &out})
	help := out.String()
	served := map[string]bool{}
	answers := map[string]func(res *http.Response, body string) bool{
		"/": func(res *http.Response, body string) bool {
			return res.StatusCode == 200 && strings.Contains(body, "Sluice is running")
		},
		"/users/7": func(res *http.Response, body string) bool {
			return res.StatusCode == 200 && strings.Contains(body, `"path":"/v2/users/7"`) && res.Header.Get("X-Served-By") == "user"
		},
		"/catalogue": func(res *http.Response, body string) bool {
			return res.StatusCode == 200 && res.Header.Get("Cache-Status") != ""
		},
		"POST /cache/purge?all": func(res *http.Response, body string) bool { return res.StatusCode == 200 },
		"/orders": func(res *http.Response, body string) bool {
			served[body] = true
			return res.StatusCode == 200 && strings.Contains(body, `"served_by"`)
		},
		"/u/7": func(res *http.Response, body string) bool {
			return res.StatusCode == 301 && res.Header.Get("Location") == "/users/7"
		},
		"POST /users/7": func(res *http.Response, body string) bool {
			return res.StatusCode == 405 && res.Header.Get("Allow") == "GET, HEAD"
		},
		"/account": func(res *http.Response, body string) bool {
			if res.Request.Header.Get("X-API-Key") == "" {
				return res.StatusCode == 401 && res.Header.Get("WWW-Authenticate") != ""
			}
			return res.StatusCode == 200 && strings.Contains(body, `"partner":"acme"`) && res.Header.Get("RateLimit") != ""
		},
		"/auth": func(res *http.Response, body string) bool {
			return res.StatusCode == 200 && strings.Contains(body, `"partners"`)
		},
		"/upstreams": func(res *http.Response, body string) bool {
			return res.StatusCode == 200 && strings.Contains(body, `"orders"`)
		},
		"/metrics": func(res *http.Response, body string) bool {
			return res.StatusCode == 200 && strings.Contains(body, "\nsluice_requests")
		},
	}
	lines := curlLine.FindAllStringSubmatch(help, -1)
	if want := strings.Count(help, "  curl "); len(lines) != want || want < 7 {
		t.Fatalf("expected to understand %d lines with curl, understood %d:\n%s", want, len(lines), help)
	}
	for _, line := range lines {
		method, path := http.MethodGet, line[3]
		name := path
		if strings.Contains(line[1], "-X POST") {
			method, name = http.MethodPost, "POST "+path
		}
		address := map[string]string{"8080": g.Doors[0], "9901": g.Admin}[line[2]]
		if path == "/events" {
			wantEvents(t, "http://"+address+path)
			continue
		}
		good := answers[name]
		if good == nil {
			t.Errorf("a line that this test does not know: %s", line[0])
			continue
		}
		ask := func() {
			var header []string
			if _, rest, ok := strings.Cut(line[1], "-H"); ok {
				header = strings.SplitN(strings.TrimSpace(rest), ":", 2)
			}
			if res, body := exchange(t, method, "http://"+address+path, header...); !good(res, body) {
				t.Fatalf("%s: got %d %v\n%s", strings.TrimSpace(line[0]), res.StatusCode, res.Header, body)
			}
		}
		if ask(); path == "/orders" { // "repeat it"
			must(t, rig.Poll(bounded(t), "both targets of /orders have answered", func() bool {
				ask()
				return len(served) == 2
			}))
		}
	}
}

// TestDemoConfiguration explains a request by the configuration of the
// demonstration as it lies in the repository, in the words of its help.
func TestDemoConfiguration(t *testing.T) {
	t.Parallel()
	d := given[*examples.Demo](t)(examples.StartDemo())
	defer d.Close()
	line := explainLine.FindStringSubmatch(d.Help)
	if line == nil {
		t.Fatalf("expected a line with sluice explain in\n%s", d.Help)
	}
	c := exec.Command(binary, strings.Fields(line[1])...)
	c.Dir = ".." // it names a file of the repository
	c.Env = []string{"TMPDIR=" + os.TempDir()}
	if text, err := c.CombinedOutput(); err != nil || !strings.Contains(string(text), `route "user"`) {
		t.Errorf("sluice %s: %v\n%s", line[1], err, text)
	}
}

// wantEvents reads two events of a stream that has not ended.
func wantEvents(t *testing.T, url string) {
	t.Helper()
	req := given[*http.Request](t)(http.NewRequestWithContext(bounded(t), http.MethodGet, url, nil))
	req.Close = true
	res, err := http.DefaultTransport.RoundTrip(req)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	events := bufio.NewScanner(res.Body)
	for _, want := range []string{"data: event 0", "", "data: event 1"} {
		if !events.Scan() || events.Text() != want {
			t.Fatalf("%s: expected %q, got %q (%v)", url, want, events.Text(), events.Err())
		}
	}
}
