package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sluice/e2e/rig"
)

// page reads a page of the private door.
func page(t *testing.T, g *rig.Gateway, path string, want int) string {
	t.Helper()
	status, body, err := g.Ask(bounded(t), http.MethodGet, path)
	must(t, err)
	if status != want {
		t.Errorf("%s: expected %d, got %d: %.500s", path, want, status, body)
	}
	return body
}

// TestMetrics makes every series appear and holds the page against the table in
// docs/operations.md: what is documented is there, with those labels, and what
// is there is documented.
func TestMetrics(t *testing.T) {
	t.Parallel()
	b := backend(t, "b")
	cert, key := newCertificate(t, "edge")
	g, _ := serveFile(t, `
listen: ["127.0.0.1:0", { address: "127.0.0.1:0", tls: { cert: `+cert+`, key: `+key+` } }]
admin: { address: "127.0.0.1:0" }
log: { access: { output: `+filepath.Join(t.TempDir(), "access.log")+` } }
upstreams: { a: { targets: ["`+b.URL+`"], outlier: {}, breaker: {}, adaptive: {}, concurrency: {} } }
auth: { keys: { api_key: { file: ../examples/demo.keys } } }
redis: { away: "127.0.0.1:1" }
limits: { plenty: 1000000/s, shared: { rate: 1000000/s, shared: away } }
cache: { shared: { redis: away, second_tier: {} } }
routes: [{ name: all, upstream: a, mirror: a, limit: [plenty, shared] }, { name: cached, match: /echo/cached, upstream: a, cache: on }, { name: get, match: { path: /get, methods: [GET] }, respond: hello }]
`)
	url := "http://" + g.Doors[0]
	wantStatus(t, 200, url+"/echo/x")
	wantStatus(t, 200, url+"/echo/cached")
	wantStatus(t, 200, url+"/get")
	wantStatus(t, 404, url+"/none")
	malformed := dial(t, "tcp", g.Doors[0])
	_, err := fmt.Fprint(malformed, "BAD\r\n\r\n")
	must(t, err)
	if res, err := http.ReadResponse(bufio.NewReader(malformed), nil); err != nil || res.StatusCode != 400 {
		t.Errorf("expected 400, got %v, %v", res, err)
	}

	// A request is counted when its answer is out, and the client may be faster.
	wants := map[string]float64{
		`sluice_requests_total{code="200",route="all"}`:                                    1,
		`sluice_requests_total{code="404",route="all"}`:                                    1,
		`sluice_requests_total{code="200",route="get"}`:                                    1,
		`sluice_requests_total{code="400",route="-"}`:                                      1,
		`sluice_faults_total{kind="bad-request",route="-"}`:                                1,
		`sluice_request_duration_seconds_count{route="all"}`:                               2,
		`sluice_requests_in_flight{route="all"}`:                                           0,
		`sluice_config_generation`:                                                         1,
		`sluice_log_dropped_total`:                                                         0,
		`sluice_target_requests_in_flight{target="` + b.URL + `",upstream="a"}`:            0,
		`sluice_target_failures_total{reason="reset",target="` + b.URL + `",upstream="a"}`: 0,
	}
	var samples map[string]float64
	var wrong string
	err = rig.Poll(bounded(t), "all is counted", func() bool {
		samples, err = g.Scrape(bounded(t))
		must(t, err)
		wrong = ""
		for key, want := range wants {
			if got, ok := samples[key]; !ok || got != want {
				wrong += fmt.Sprintf("%s: expected %v, got %v (there: %v)\n", key, want, got, ok)
			}
		}
		return wrong == ""
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, wrong)
	}
	present := map[string][]string{} // by name: the names of its labels
	for sample := range samples {
		name, rest, _ := strings.Cut(sample, "{")
		if !strings.HasPrefix(name, "sluice_") {
			continue
		}
		name = strings.TrimSuffix(name, "_count")
		labels := []string{}
		for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(rest, -1) {
			labels = append(labels, l[1])
		}
		slices.Sort(labels)
		present[name] = labels
	}
	documented := map[string][]string{}
	text := given[[]byte](t)(os.ReadFile("../docs/operations.md"))
	row := regexp.MustCompile("(?m)^\\| `(sluice_\\w+)` \\| \\w+ \\| ([^|]*)\\|")
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		labels := strings.Fields(strings.ReplaceAll(m[2], "`", ""))
		slices.Sort(labels)
		documented[m[1]] = labels
	}
	for name, labels := range documented {
		if got, ok := present[name]; !ok {
			t.Errorf("%s is documented and not there", name)
		} else if !slices.Equal(got, labels) {
			t.Errorf("%s: documented with the labels %v, is there with %v", name, labels, got)
		}
	}
	for name := range present {
		if documented[name] == nil {
			t.Errorf("%s is there and not documented", name)
		}
	}
	if strings.Contains(g.Log(), "admin:") {
		t.Errorf("expected a scrape without complaints, got\n%s", g.Log())
	}
}

// TestConfigHidesSecrets holds that no page and no log shows what came from a
// variable or a file.
func TestConfigHidesSecrets(t *testing.T) {
	t.Parallel()
	const fromEnv, fromFile = "hunter2-from-env", "hunter2-from-file"
	b := backend(t, "b")
	secret := written(t, "secret", fromFile+"\n")
	file := written(t, "sluice.yaml", silent+`
reload: { watch: false }
upstreams: { a: "`+b.URL+`" }
routes:
  - name: all
    match: { path: /*, headers: { X-Key: "${E2E_SECRET}" } }
    upstream: a
    request: { headers: { set: { X-Token: "${E2E_SECRET}", X-File: "${file:`+secret+`}" } } }
  - { name: away, match: /away, redirect: "https://h/${E2E_SECRET}" }
`)
	env := []string{"E2E_SECRET=" + fromEnv}
	g := serveWith(t, rig.Command{Args: []string{"-c", file}, Env: env})
	res, body := exchange(t, http.MethodGet, "http://"+g.Doors[0]+"/headers", "X-Key", fromEnv)
	if res.StatusCode != 200 || !strings.Contains(body, fromEnv) || !strings.Contains(body, fromFile) {
		t.Fatalf("expected the target to get the secrets, got %d: %s", res.StatusCode, body)
	}
	config := page(t, g, "/config", 200)
	for _, want := range []string{"${E2E_SECRET}", "${file:" + secret + "}", "name: all", "max_header: 32KiB"} {
		if !strings.Contains(config, want) {
			t.Errorf("/config: expected %q in\n%s", want, config)
		}
	}
	must(t, os.WriteFile(file, append(given[[]byte](t)(os.ReadFile(file)), "  - { name: all }\n"...), 0o600))
	_, refused, err := g.Ask(bounded(t), http.MethodPost, "/reload")
	must(t, err)
	shown := map[string]string{
		"/config": config, "/routes": page(t, g, "/routes", 200), "/upstreams": page(t, g, "/upstreams", 200), "/": page(t, g, "/", 200),
		"/metrics": page(t, g, "/metrics", 200), "/reload": refused, "the log": g.Log(),
	}
	check := command(t, env, "check", "-c", file)
	shown["sluice check"] = check.out + check.errors
	for where, text := range shown {
		for _, s := range []string{fromEnv, fromFile} {
			if strings.Contains(text, s) {
				t.Errorf("%s shows %q", where, s)
			}
		}
	}
}

// TestExplainHidesSecrets holds the same of sluice explain, whose output ends
// up in tickets.
func TestExplainHidesSecrets(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-from-env"
	file := written(t, "sluice.yaml", `
upstreams: { a: "http://127.0.0.1:1" }
routes:
  - name: all
    upstream: a
    rewrite: { path: "/${E2E_SECRET}" }
    request: { headers: { set: { X-Token: "Bearer ${E2E_SECRET} {client_ip}" } } }
    response: { headers: { set: { X-Also: "${E2E_SECRET}" }, add: { X-More: "${E2E_SECRET}" } } }
  - { name: away, match: /away, redirect: "https://h/${E2E_SECRET}" }
`)
	for url, want := range map[string]string{"http://h/": "X-Token: ", "http://h/away": "redirect 308 to "} {
		o := command(t, []string{"E2E_SECRET=" + secret}, "explain", "-c", file, "GET", url)
		if o.code != 0 || !strings.Contains(o.out, want) || strings.Contains(o.out, secret) {
			t.Errorf("%s: expected an explanation with %q and without the secret, got code %d:\n%s%s", url, want, o.code, o.out, o.errors)
		}
	}
}

// TestState looks at what the private door says of routes and targets while
// one works and another is down.
func TestState(t *testing.T) {
	t.Parallel()
	b := backend(t, "b")
	nobody := given[string](t)(rig.FreeAddress())
	g, _ := serveFile(t, silent+`
upstreams:
  alive: { targets: ["`+b.URL+`"], balance: peak_ewma }
  dead: { targets: ["http://`+nobody+`"], fail_timeout: 50s }
routes:
  - { name: alive, match: { host: [a.test, "*.b.test"], path: "/hold/{id}", methods: [POST], query: { q: "~x+" } }, upstream: alive }
  - { name: dead, match: /dead, upstream: dead }
  - { name: away, match: /away, redirect: /there }
  - { name: fixed, match: /fixed, respond: { status: 418, body: tea } }
  - { name: both, match: /both, split: { to: [{ upstream: alive, weight: 9 }, { upstream: dead }] } }
`)
	held := dial(t, "tcp", g.Doors[0])
	_, err := fmt.Fprint(held, "POST /hold/1?q=xx HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n")
	must(t, err)
	_, err = b.Held(bounded(t))
	must(t, err)
	wantStatus(t, 502, "http://"+g.Doors[0]+"/dead")

	var routes []struct {
		Name, Path, Answer string
		Host, Methods      []string
		Query              map[string]string
	}
	must(t, json.Unmarshal([]byte(page(t, g, "/routes", 200)), &routes))
	var answers []string
	for _, r := range routes {
		answers = append(answers, r.Name+": "+r.Answer)
	}
	want := []string{"alive: upstream alive", "dead: upstream dead", "away: redirect 308 to /there", "fixed: respond 418", "both: split alive=9 dead=1"}
	if !slices.Equal(answers, want) {
		t.Errorf("/routes: expected %q, got %q", want, answers)
	}
	if r := routes[0]; r.Path != "/hold/{id}" || !slices.Equal(r.Host, []string{"a.test", "*.b.test"}) || !slices.Equal(r.Methods, []string{"POST"}) || r.Query["q"] != "~x+" {
		t.Errorf("/routes: expected the predicates of the route, got %+v", r)
	}

	type target struct {
		URL       string
		Weight    int
		Down      bool
		LastError string `json:"last_error"`
		Requests  int
		Active    int `json:"active_requests"`
		Open      int `json:"open_connections"`
		Idle      int `json:"idle_connections"`
	}
	upstreams := func() map[string]target {
		var list []struct {
			Name    string
			Targets []target
		}
		must(t, json.Unmarshal([]byte(page(t, g, "/upstreams", 200)), &list))
		found := map[string]target{}
		for _, u := range list {
			found[u.Name] = u.Targets[0]
		}
		return found
	}
	now := upstreams()
	if got := now["alive"]; got.URL != b.URL || got.Down || got.Requests != 1 || got.Active != 1 || got.Open != 1 || got.Idle != 0 {
		t.Errorf("/upstreams: expected one request at work, got %+v", got)
	}
	if got := now["dead"]; !got.Down || got.Open != 0 || got.LastError == "" {
		t.Errorf("/upstreams: expected a target that is down and why, got %+v", got)
	}
	b.Release()
	if res, err := http.ReadResponse(bufio.NewReader(held), nil); err != nil || res.StatusCode != 200 {
		t.Errorf("expected the held answer, got %v, %v", res, err)
	}
	must(t, rig.Poll(bounded(t), "the connection is idle", func() bool { return upstreams()["alive"].Idle == 1 }))
}

// TestPrivateDoor looks at the pages that have no test of their own.
func TestPrivateDoor(t *testing.T) {
	t.Parallel()
	f := func(pprof string, want int) {
		t.Helper()
		g := serve(t, "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--admin-pprof="+pprof)
		page(t, g, "/healthz", 200)
		page(t, g, "/readyz", 200)
		page(t, g, "/none", 404)
		if text := page(t, g, "/", 200); !strings.Contains(text, "/metrics") || strings.Contains(text, "/debug/pprof") != (want == 200) {
			t.Errorf("/: expected the list of pages, got %s", text)
		}
		if text := page(t, g, "/debug/pprof/goroutine?debug=1", want); want == 200 && !strings.Contains(text, "goroutine profile: total") {
			t.Errorf("/debug/pprof/goroutine: expected a profile, got %.200s", text)
		}
		page(t, g, "/debug/pprof/heap", want)
		if status, _, err := g.Ask(bounded(t), http.MethodGet, "/reload"); err != nil || status != http.StatusMethodNotAllowed {
			t.Errorf("GET /reload: expected 405, got %d, %v", status, err)
		}
	}
	f("true", 200)
	f("false", 404)
}
