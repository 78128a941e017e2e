package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// gullible is a backend with every weakness that caches have been poisoned
// through: what it answers hangs on headers, bodies and spellings that no key
// holds. It says that all of it may be cached. What it makes of a Cookie is its own
// business to say (Vary: Cookie, private): see docs/cache.md.
func gullible(w http.ResponseWriter, r *http.Request, _ int) {
	w.Header().Set("Cache-Control", "max-age=60")
	var seen []string
	for name, values := range r.Header {
		switch name {
		case "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id", "Traceparent", "Via", "User-Agent", "Accept-Encoding", "X-Forwarded-Host":
		default:
			seen = append(seen, name+"="+strings.Join(values, ","))
		}
	}
	if h := r.Header.Get("X-Forwarded-Host"); h != r.Host {
		seen = append(seen, "X-Forwarded-Host="+h)
	}
	if p := r.Header.Get("X-Forwarded-Proto"); p != "http" {
		seen = append(seen, "X-Forwarded-Proto="+p)
	}
	body, _ := io.ReadAll(r.Body)
	if len(r.Header.Get("X-Long")) > 100 {
		w.WriteHeader(400)
	}
	// A framework that takes ; for a separator, and the last of two values.
	query, _ := url.ParseQuery(strings.ReplaceAll(r.URL.RawQuery, ";", "&"))
	value := ""
	if v := query["q"]; len(v) > 0 {
		value = v[len(v)-1]
	}
	fmt.Fprintf(w, "host=%s path=%s q=%s body=%s %s", r.Host, r.URL.Path, value, body, strings.Join(seen, " "))
}

// TestCachePoisoning sends an attack and then a plain request for what it aims at,
// which must get what it would have got without the attack.
func TestCachePoisoning(t *testing.T) {
	const page, query = "/page", "/page?q=good"
	for name, c := range map[string]struct {
		method, path string
		fields       []string
		body         string
		victim       string // what is asked for afterwards
		config       string
	}{
		"X-Forwarded-Host":                  {fields: []string{"X-Forwarded-Host: evil"}},
		"X-Forwarded-Proto":                 {fields: []string{"X-Forwarded-Proto: https"}},
		"X-Forwarded-Scheme":                {fields: []string{"X-Forwarded-Scheme: http"}},
		"X-Forwarded-Prefix":                {fields: []string{"X-Forwarded-Prefix: /evil"}},
		"X-Forwarded-Server":                {fields: []string{"X-Forwarded-Server: evil"}},
		"X_Forwarded_Host":                  {fields: []string{"X_Forwarded_Host: evil"}},
		"X_Forwarded_Host let through":      {fields: []string{"X_Forwarded_Host: evil"}, config: "forwarded: { underscores: true }"},
		"Forwarded":                         {fields: []string{"Forwarded: host=evil"}},
		"X-Host":                            {fields: []string{"X-Host: evil"}},
		"X-Original-URL":                    {fields: []string{"X-Original-URL: /admin"}},
		"X-Rewrite-URL":                     {fields: []string{"X-Rewrite-URL: /admin"}},
		"X-HTTP-Method-Override":            {fields: []string{"X-HTTP-Method-Override: POST"}},
		"X-HTTP-Method":                     {fields: []string{"X-HTTP-Method: DELETE"}},
		"X-Method-Override":                 {fields: []string{"X-Method-Override: PUT"}},
		"named by Connection":               {fields: []string{"Connection: X-Forwarded-Host, close", "X-Forwarded-Host: evil"}},
		"fat GET":                           {path: query, fields: []string{"Content-Length: 6"}, body: "q=evil", victim: query},
		"fat GET in chunks":                 {path: query, fields: []string{"Transfer-Encoding: chunked"}, body: "6\n\nq=evil0\n\n", victim: query},
		"semicolon":                         {path: "/page?q=good;q=evil", victim: query},
		"semicolon behind what is left out": {path: "/page?q=good&utm_x=1;q=evil", victim: query, config: except},
		"parameter twice":                   {path: "/page?q=good&q=evil", victim: query},
		"parameter twice, sorted":           {path: "/page?q=good&q=evil", victim: query, config: strings.Replace(except, "except, parameters: [\"utm_*\"]", "sorted", 1)},
		"encoded name":                      {path: "/page?q=good&%75tm_x=1&%71=evil", victim: query, config: except},
		"left out":                          {path: "/page?q=good&utm_source=evil", victim: query, config: except},
		"encoded separator":                 {path: "/page?q=good%26q=evil", victim: query},
		"fragment-like":                     {path: "/page?q=good%23&q=evil", victim: query},
		"dot segments":                      {path: "/x/../page/", victim: page},
		"encoded slash":                     {path: "/page%2f..%2fadmin", victim: page},
		"double slash":                      {path: "//page//x", victim: page},
		"path parameter":                    {path: "/page;q=evil", victim: page},
		"backslash":                         {path: "/page%5cadmin", victim: page},
		"oversized header":                  {fields: []string{"X-Long: " + strings.Repeat("a", 2000)}},
		"other host":                        {fields: []string{"Host: evil"}},
		"other host in absolute form":       {path: "http://evil/page", fields: []string{"Host: test"}},
		"port":                              {fields: []string{"Host: test:1234"}},
		"case of the host":                  {fields: []string{"Host: TEST"}},
		"HEAD":                              {method: "HEAD"},
		"Range":                             {fields: []string{"Range: bytes=0-1"}},
		"Accept-Encoding":                   {fields: []string{"Accept-Encoding: evil"}},
		"conditional":                       {fields: []string{`If-None-Match: *`, "If-Modified-Since: " + "Fri, 01 Jan 2100 00:00:00 GMT"}},
		"Authorization":                     {fields: []string{"Authorization: evil"}},
		"Upgrade":                           {fields: []string{"Connection: upgrade", "Upgrade: evil"}},
		"Expect":                            {fields: []string{"Expect: evil"}},
		"request id":                        {fields: []string{"X-Request-Id: evil"}},
		"traceparent":                       {fields: []string{"traceparent: 00-11111111111111111111111111111111-1111111111111111-01"}},
	} {
		t.Run(name, func(t *testing.T) {
			victim := func(attacked bool) string {
				b := startBackend(t, gullible)
				text := cachingTo(b, "on", c.config)
				if strings.Contains(c.config, "routes") {
					text = strings.Replace(c.config, "APP", b.URL, 1)
				}
				e := startEdge(t, text)
				target := c.victim
				if target == "" {
					target = page
				}
				if attacked {
					method, path := c.method, c.path
					if method == "" {
						method = "GET"
					}
					if path == "" {
						path = page
					}
					w := e.dial()
					host := "Host: test\n"
					for _, f := range c.fields {
						if strings.HasPrefix(f, "Host:") {
							host = ""
						}
					}
					w.send(method + " " + path + " HTTP/1.1\n" + host + join(c.fields) + "\n" + c.body)
					_, _ = w.tryResponse(method)
					_ = w.Close()
				}
				a := e.get(target)
				return fmt.Sprint(a.StatusCode, " ", a.body)
			}
			if clean, got := victim(false), victim(true); got != clean {
				t.Errorf("a plain request got\n%s\nwithout the attack\n%s", got, clean)
			}
		})
	}
}

// except is a configuration whose key leaves parameters of campaigns out.
const except = `
upstreams: { app: "APP" }
routes:
  - { name: app, upstream: app, cache: { key: { query: except, parameters: ["utm_*"] } } }
`
