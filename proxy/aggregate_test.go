package proxy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// shop is a backend of several services.
func shop(w http.ResponseWriter, r *http.Request, _ int) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasPrefix(r.URL.Path, "/users/404"):
		w.WriteHeader(404)
		fmt.Fprint(w, `{"inner":"detail"}`)
	case strings.HasPrefix(r.URL.Path, "/users/"):
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Surrogate-Key", "user")
		fmt.Fprintf(w, `{"id":12345678901234567890,"name":"ann","email":"a@b","team":{"id":"t/1"},"path":%q}`, r.URL.Path)
	case strings.HasPrefix(r.URL.Path, "/orders"):
		w.Header().Set("Cache-Control", "max-age=30")
		fmt.Fprintf(w, `[{"user":%q,"total":1.10,"secret":1},{"user":"x","total":2e2,"secret":2}]`, r.URL.Query().Get("user"))
	case strings.HasPrefix(r.URL.Path, "/teams/"):
		fmt.Fprintf(w, `{"team":%q,"raw":%q}`, r.URL.Path, r.URL.RawPath)
	case r.URL.Path == "/down":
		w.WriteHeader(500)
		fmt.Fprint(w, "stack trace")
	case r.URL.Path == "/garbage":
		fmt.Fprint(w, `{"a":`)
	case r.URL.Path == "/hang":
		<-r.Context().Done()
	case r.URL.Path == "/xml":
		w.Header().Set("Content-Type", "application/xml")
		fmt.Fprint(w, `<item id="7"><name>x</name></item>`)
	case r.URL.Path == "/echo":
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"method":%q,"body":%s,"header":%q,"type":%q,"auth":%q}`, r.Method, b, r.Header.Get("X-From"), r.Header.Get("Content-Type"), r.Header.Get("Authorization"))
	case r.URL.Path == "/large":
		fmt.Fprintf(w, `{"a":%q}`, strings.Repeat("x", 2<<20))
	}
}

func sameJSON(t *testing.T, what, got, want string) {
	t.Helper()
	sorted := func(text string) string {
		var v any
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Errorf("%s: %v in %s", what, err, text)
		}
		b, _ := json.Marshal(v)
		return string(b)
	}
	if x, y := sorted(got), sorted(want); x != y {
		t.Errorf("%s: got\n%s\nwant\n%s", what, x, y)
	}
}

func TestAggregate(t *testing.T) {
	b := startBackend(t, shop)
	e := startEdge(t, `
upstreams: { app: "`+b.URL+`", dead: "http://127.0.0.1:1" }
routes:
  - name: dashboard
    match: { path: "/dashboard/{id}" }
    budget: 20s
    aggregate:
      user:   { upstream: app, path: "/users/{id}", pick: [id, name, team.id] }
      orders: { upstream: app, path: "/orders?user={user.name}", drop: ["[*].secret"], optional: true }
      team:   { upstream: app, path: "/teams/{user.team.id}", flat: true }
  - name: optional
    match: /optional
    aggregate:
      user: { upstream: app, path: /users/1, pick: name }
      news: { upstream: app, path: /down, optional: true, default: '{"items":[]}' }
      more: { upstream: dead, path: /x, optional: true }
      next: { upstream: app, path: "/teams/{more.id}", optional: true }
  - name: required
    match: /required
    aggregate: { user: { upstream: app, path: /users/404 }, other: { upstream: app, path: /users/1 } }
  - name: broken
    match: /broken
    aggregate: { a: { upstream: app, path: /garbage }, b: { upstream: app, path: /users/1 } }
  - name: late
    match: /late
    aggregate: { a: { upstream: app, path: /hang, timeout: 50ms }, b: { upstream: app, path: /users/1 } }
  - name: large
    match: /large
    aggregate: { a: { upstream: app, path: /large, max: 1MiB } }
  - name: mapped
    match: /mapped
    aggregate: { a: { upstream: app, path: /down, optional: true }, b: { upstream: app, path: /users/1, pick: name } }
    compose: { status: { incomplete: 203, "b:404": 410 }, errors: "", static: [ { when: incomplete, value: '{"note":"partial"}' }, { when: complete, value: '{"note":"whole"}' } ] }
  - name: formats
    match: /formats
    aggregate: { item: { upstream: app, path: /xml }, user: { upstream: app, path: /users/1, pick: name } }
    compose: { formats: [json, xml, yaml] }
  - name: post
    match: /post
    aggregate:
      echo: { upstream: app, method: POST, path: /echo, headers: { X-From: "{query.from}" }, body: '{"n":{body.n},"who":{header.X-Who}}' }
  - name: cached
    match: /cached
    aggregate: { user: { upstream: app, path: /users/7 }, orders: { upstream: app, path: /orders } }
    cache: on
`)
	a := e.get("/dashboard/7")
	sameJSON(t, "dashboard", a.body, `{"user":{"id":12345678901234567890,"name":"ann","team":{"id":"t/1"}},"orders":[{"user":"ann","total":1.10},{"user":"x","total":2e2}],"team":"/teams/t/1","raw":"/teams/t%2F1"}`)
	if a.StatusCode != 200 || a.Header.Get("Sluice-Complete") != "true" || a.Header.Get("Content-Type") != "application/json" || a.Header.Get("ETag") == "" {
		t.Errorf("dashboard:\n%s", a.head)
	}
	if again := e.get("/dashboard/7", "If-None-Match: "+a.Header.Get("ETag")); again.StatusCode != 304 || again.body != "" {
		t.Errorf("conditional: %s", again.head)
	}
	if h := e.ask("HEAD", "/dashboard/7"); h.StatusCode != 200 || h.body != "" || h.ContentLength != a.ContentLength {
		t.Errorf("HEAD: %s", h.head)
	}
	o := e.get("/optional")
	sameJSON(t, "optional", o.body, `{"user":{"name":"ann"},"news":{"items":[]},"errors":[
		{"type":"urn:sluice:problem:branch-unreached","branch":"more"},
		{"type":"urn:sluice:problem:branch-status","branch":"news","status":500,"default":true},
		{"type":"urn:sluice:problem:branch-skipped","branch":"next"}]}`)
	if o.StatusCode != 200 || o.Header.Get("Sluice-Complete") != "false" || o.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("optional:\n%s", o.head)
	}
	for path, status := range map[string]int{"/required": 404, "/broken": 502, "/late": 504, "/large": 502} {
		a := e.get(path)
		if a.StatusCode != status || a.Header.Get("Content-Type") != "application/problem+json" || strings.Contains(a.body, "inner") || a.Header.Get("Sluice-Complete") != "false" {
			t.Errorf("%s: %s %s", path, a.head, a.body)
		}
		if !json.Valid([]byte(a.body)) {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	if m := e.get("/mapped"); m.StatusCode != 203 {
		t.Errorf("mapped: %s", m.head)
	} else {
		sameJSON(t, "mapped", m.body, `{"b":{"name":"ann"},"note":"partial"}`)
	}
	sameJSON(t, "formats", e.get("/formats").body, `{"item":{"item":{"-id":"7","name":"x"}},"user":{"name":"ann"}}`)
	if x := e.get("/formats", "Accept: application/xml, application/json;q=0.5"); !strings.Contains(x.Header.Get("Content-Type"), "xml") || !strings.Contains(x.body, "<name>ann</name>") || x.Header.Get("Vary") != "Accept" {
		t.Errorf("XML: %s%s", x.head, x.body)
	}
	if x := e.get("/formats", "Accept: image/png"); x.StatusCode != 406 {
		t.Errorf("406: %s", x.head)
	}
	w := e.dial()
	w.send("POST /post?from=here HTTP/1.1\nHost: test\nX-Who: bob\nAuthorization: Bearer x\nContent-Length: 12\n\n{\"n\":1e1000}")
	sameJSON(t, "post", w.response("POST").body, `{"echo":{"method":"POST","body":{"n":1e1000,"who":"bob"},"header":"here","type":"application/json","auth":"Bearer x"}}`)

	c := e.get("/cached")
	if c.Header.Get("Cache-Control") != "max-age=30" || !strings.Contains(c.Header.Get("Cache-Status"), "stored; ttl=30") {
		t.Errorf("cached:\n%s", c.head)
	}
	before := b.asked("/users/7")
	if again := e.get("/cached"); again.body != c.body || b.asked("/users/7") != before {
		t.Errorf("cached again:\n%s", again.head)
	}
	if err := e.gateway.Purge("tag", "user", false); err != nil {
		t.Fatal(err)
	}
	if e.get("/cached"); b.asked("/users/7") != before+1 {
		t.Errorf("the whole is not purged by the key of a part")
	}
}

// Branches that do not wait for each other are asked at the same time.
func TestAggregateIsParallel(t *testing.T) {
	var at, most atomic.Int32
	all := make(chan struct{})
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		now := at.Add(1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		if r.URL.Path != "/last" {
			if now == 4 {
				close(all)
			}
			select {
			case <-all:
			case <-time.After(limit):
			}
		}
		at.Add(-1)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"x":1}`)
	})
	e := startEdge(t, `
upstreams: { app: "`+b.URL+`" }
routes:
  - name: five
    match: /five
    aggregate:
      a: { upstream: app, path: /a }
      b: { upstream: app, path: /b }
      c: { upstream: app, path: /c }
      d: { upstream: app, path: /d }
      last: { upstream: app, path: "/last?x={a.x}" }
`)
	if a := e.get("/five"); a.StatusCode != 200 || most.Load() != 4 {
		t.Errorf("%d at one time, %s%s", most.Load(), a.head, a.body)
	}
}

// A client that leaves ends the requests of the branches.
func TestAggregateEndsWithItsClient(t *testing.T) {
	arrived, ended := make(chan struct{}, 4), make(chan struct{}, 4)
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		arrived <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	})
	e := startEdge(t, `
upstreams: { app: "`+b.URL+`" }
routes: [ { name: two, match: /two, aggregate: { a: { upstream: app, path: /a }, b: { upstream: app, path: /b } } } ]
`)
	w := e.dial()
	w.send("GET /two HTTP/1.1\nHost: test\n\n")
	within(t, "the first request", arrived)
	within(t, "the second request", arrived)
	_ = w.Close()
	within(t, "the end of the first", ended)
	within(t, "the end of the second", ended)
}

// What branches refer to is part of the key of the whole, and a branch may be
// cached where the whole is not.
func TestAggregateCacheIsKeyedByWhatBranchesUse(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"uri":%q,"x":%q,"n":%d}`, r.URL.RequestURI(), r.Header.Get("X-Kind"), n)
	})
	e := startEdge(t, `
upstreams: { app: "`+b.URL+`" }
routes:
  - name: whole
    match: /whole
    cache: { ttl: 60s, key: { query: only, parameters: [page] }, ignore: [cookie] }
    aggregate:
      a: { upstream: app, path: "/a?c={cookie.who}&p={query.page}", optional: true }
      c: { upstream: app, path: /c, headers: { X-Kind: "{header.X-Mine}" }, optional: true }
  - name: unkeyed
    match: /unkeyed
    cache: { ttl: 60s, key: { query: none } }
    aggregate: { b: { upstream: app, path: "/b?q={query.q}", optional: true } }
  - name: branch
    match: /branch
    aggregate: { a: { upstream: app, path: /cached, headers: { X-Kind: "{header.X-Mine}" }, cache: 60s } }
`)
	ann := e.get("/whole?page=1", "Cookie: who=ann", "X-Mine: 1").body
	if !strings.Contains(ann, "c=ann") {
		t.Fatalf("ann: %s", ann)
	}
	for name, fields := range map[string][]string{
		"another cookie": {"Cookie: who=bob", "X-Mine: 1"},
		"another header": {"Cookie: who=ann", "X-Mine: 2"},
		"no cookie":      {"X-Mine: 1"},
	} {
		if got := e.get("/whole?page=1", fields...); got.body == ann {
			t.Errorf("%s got the same: %s", name, got.body)
		}
	}
	if again := e.get("/whole?page=1&utm=x", "Cookie: who=ann", "X-Mine: 1").body; again != ann {
		t.Errorf("the whole is not stored: %s", again)
	}
	// A parameter that is not keyed is not used either.
	if got := e.get("/unkeyed?q=evil").body; strings.Contains(got, "evil") {
		t.Errorf("an unkeyed parameter changed the whole: %s", got)
	}
	one := e.get("/branch", "X-Mine: 1").body
	if again := e.get("/branch", "X-Mine: 1").body; again != one {
		t.Errorf("the branch is not cached: %s, %s", one, again)
	}
	if other := e.get("/branch", "X-Mine: 2").body; !strings.Contains(other, `"x":"2"`) {
		t.Errorf("another header of the branch: %s", other)
	}
}

// The caller's credential ends at the gateway; one that a branch brings of its own
// does not. What a client says it is, is told to nobody.
func TestAggregateCredentials(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"auth":%q,"user":%q,"said":%q,"cookie":%q,"token":"of-its-own"}`,
			r.Header.Get("Authorization"), r.Header.Get("X-User"), r.Header.Get("X-Said"), r.Header.Get("Cookie"))
	})
	e := startEdge(t, `
auth: { tokens: { jwt: { secret: "`+sharedSecret+`" }, headers: { X-User: sub } } }
upstreams: { app: "`+b.URL+`" }
routes:
  - name: two
    match: /two
    auth: tokens
    aggregate:
      a: { upstream: app, path: /a }
      b: { upstream: app, path: /b, headers: { Authorization: "Bearer {a.token}" } }
      c: { upstream: app, path: /c, headers: { X-Said: "{header.X-User}" }, optional: true }
    compose: { errors: "" }
`)
	a := e.get("/two", "Authorization: Bearer "+signed(t, "ann", nil), "X-User: root", "Cookie: k=v")
	sameJSON(t, "two", a.body, `{
		"a":{"auth":"","user":"ann","said":"","cookie":"k=v","token":"of-its-own"},
		"b":{"auth":"Bearer of-its-own","user":"ann","said":"","cookie":"k=v","token":"of-its-own"}}`)
}
