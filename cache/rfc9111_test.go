package cache

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func fallback(ttl time.Duration) func(*RouteConfig) {
	return func(c *RouteConfig) { c.TTL, c.Mode = durationOf(ttl), "fallback" }
}

func override(ttl time.Duration) func(*RouteConfig) {
	return func(c *RouteConfig) { c.TTL = durationOf(ttl) }
}

func heuristic(c *RouteConfig) { c.Heuristic = true }

func byIdentity(c *RouteConfig) { c.Share = "identity" }

func grace(c *RouteConfig) { c.SWR, c.SIE = durationOf(time.Minute), durationOf(time.Minute) }

// storing is RFC 9111 3: what may be kept.
var storing = []struct {
	name       string
	config     func(*RouteConfig)
	ask        string
	identified bool
	answer     string
	want       Reason
}{
	{"max-age", nil, "", false, "200 OK\nCache-Control: max-age=60", OK},
	{"method-not-understood", nil, "PROPFIND", false, "200 OK\nCache-Control: max-age=60", ByMethod},
	{"post", nil, "POST", false, "200 OK\nCache-Control: max-age=60", ByMethod},
	{"head-is-no-get", nil, "HEAD", false, "200 OK\nCache-Control: max-age=60", ByMethod},
	{"interim", nil, "", false, "103 Early Hints\nCache-Control: max-age=60", StatusNot},
	{"206", nil, "", false, "206 Partial Content\nCache-Control: max-age=60\nContent-Range: bytes 0-1/2", Partial},
	{"304", nil, "", false, "304 Not Modified\nCache-Control: max-age=60", Partial},
	{"status-unknown-explicit", nil, "", false, "299 Odd\nCache-Control: max-age=60", OK},
	{"status-unknown-must-understand", nil, "", false, "299 Odd\nCache-Control: max-age=60, must-understand", StatusNot},
	{"status-unknown-must-understand-no-store", nil, "", false, "299 Odd\nCache-Control: max-age=60, no-store, must-understand", StatusNot},
	{"must-understand-over-no-store", nil, "", false, "200 OK\nCache-Control: max-age=60, no-store, must-understand", OK},
	{"no-store", nil, "", false, "200 OK\nCache-Control: no-store, max-age=60", NoStore},
	{"no-store-case", nil, "", false, "200 OK\nCache-Control: No-StoRe, max-age=60", NoStore},
	{"no-store-second-line", nil, "", false, "200 OK\nCache-Control: max-age=60\nCache-Control: no-store", NoStore},
	{"no-store-with-argument", nil, "", false, "200 OK\nCache-Control: no-store=1, max-age=60", NoStore},
	{"no-store-in-quotes", nil, "", false, "200 OK\nCache-Control: a=\"no-store\", max-age=60", OK},
	{"no-store-asked", nil, "Cache-Control: no-store", false, "200 OK\nCache-Control: max-age=60", NoStoreAsked},
	{"private", nil, "", false, "200 OK\nCache-Control: private, max-age=60", Private},
	{"private-by-identity", byIdentity, "Authorization: Bearer x", true, "200 OK\nCache-Control: private, max-age=60", OK},
	{"private-by-identity-anonymous", byIdentity, "", false, "200 OK\nCache-Control: private, max-age=60", Private},
	{"private-fields", nil, "", false, "200 OK\nCache-Control: private=\"X-User\", max-age=60", OK},
	{"private-fields-unreadable", nil, "", false, "200 OK\nCache-Control: private=\"X User\", max-age=60", Private},
	{"authorization", nil, "Authorization: Bearer x", false, "200 OK\nCache-Control: max-age=60", Authorized},
	{"authorization-public", nil, "Authorization: Bearer x", false, "200 OK\nCache-Control: max-age=60, public", OK},
	{"authorization-s-maxage", nil, "Authorization: Bearer x", false, "200 OK\nCache-Control: s-maxage=60", OK},
	{"authorization-must-revalidate", nil, "Authorization: Bearer x", false, "200 OK\nCache-Control: max-age=60, must-revalidate", OK},
	{"authorization-proxy-revalidate", nil, "Authorization: Bearer x", false, "200 OK\nCache-Control: max-age=60, proxy-revalidate", Authorized},
	{"identity-without-authorization", nil, "", true, "200 OK\nCache-Control: max-age=60", Authorized},
	{"identity-route-ttl", override(time.Minute), "", true, "200 OK", Authorized},
	{"nothing-said", nil, "", false, "200 OK", NoLife},
	{"nothing-said-validator", nil, "", false, "200 OK\nETag: \"a\"", OK},
	{"nothing-said-not-heuristic", nil, "", false, "302 Found\nETag: \"a\"", StatusNot},
	{"nothing-said-public", nil, "", false, "302 Found\nETag: \"a\"\nCache-Control: public", OK},
	{"expires-explicit", nil, "", false, "302 Found\nExpires: {+60}", OK},
	{"no-cache-with-validator", nil, "", false, "200 OK\nCache-Control: no-cache\nETag: \"a\"", OK},
	{"no-cache-without-validator", nil, "", false, "200 OK\nCache-Control: no-cache, max-age=60", NoLife},
	{"vary-any", nil, "", false, "200 OK\nCache-Control: max-age=60\nVary: *", VaryStar},
	{"vary-any-in-list", nil, "", false, "200 OK\nCache-Control: max-age=60\nVary: Accept, *", VaryStar},
	{"malformed", nil, "", false, "200 OK\nCache-Control: max-age=60, a=\"b", Malformed},
	// What the RFC leaves to the cache.
	{"set-cookie", nil, "", false, "200 OK\nCache-Control: max-age=60\nSet-Cookie: a=b", SetsCookie},
	{"set-cookie-stripped", func(c *RouteConfig) { c.SetCookie = "strip" }, "", false, "200 OK\nCache-Control: max-age=60\nSet-Cookie: a=b", OK},
	{"cookie-explicit", nil, "Cookie: a=b", false, "200 OK\nCache-Control: max-age=60", OK},
	{"cookie-route-ttl", override(time.Minute), "Cookie: a=b", false, "200 OK", CookieSent},
	{"cookie-ignored", func(c *RouteConfig) { c.TTL = durationOf(time.Minute); c.Ignore = []string{"cookie"} }, "Cookie: a=b", false, "200 OK", OK},
	{"cookie-keyed", func(c *RouteConfig) { c.TTL = durationOf(time.Minute); c.Key.Cookies = []string{"a"} }, "Cookie: a=b", false, "200 OK", OK},
	{"status-that-tells", nil, "", false, "431 Large\nCache-Control: max-age=60", StatusNot},
	{"status-that-tells-400", override(time.Minute), "", false, "400 Bad Request\nCache-Control: max-age=60", StatusNot},
	{"status-listed", func(c *RouteConfig) { c.Statuses = []int{400} }, "", false, "400 Bad Request\nCache-Control: max-age=60", OK},
	{"status-not-listed", func(c *RouteConfig) { c.Statuses = []int{404} }, "", false, "200 OK\nCache-Control: max-age=60", StatusNot},
	{"too-large", nil, "", false, "200 OK\nCache-Control: max-age=60\nContent-Length: 1048577", TooLarge},
	{"fat-get", nil, "Content-Length: 5", false, "200 OK\nCache-Control: max-age=60", ByBody},
	{"chunked-get", nil, "Transfer-Encoding: chunked", false, "200 OK\nCache-Control: max-age=60", ByBody},
	{"method-override", nil, "X-HTTP-Method-Override: POST", false, "200 OK\nCache-Control: max-age=60", ByHeader},
	{"method-override-underscores", nil, "X_HTTP_Method_Override: POST", false, "200 OK\nCache-Control: max-age=60", ByHeader},
	{"url-override", nil, "X-Original-URL: /admin", false, "200 OK\nCache-Control: max-age=60", ByHeader},
	{"url-rewrite", nil, "X-Rewrite-URL: /admin", false, "200 OK\nCache-Control: max-age=60", ByHeader},
	{"forwarded-underscores", nil, "X_Forwarded_Host: evil", false, "200 OK\nCache-Control: max-age=60", ByHeader},
	{"url-override-keyed", func(c *RouteConfig) { c.Key.Headers = []string{"X-Original-URL"} }, "X-Original-URL: /x", false, "200 OK\nCache-Control: max-age=60", OK},
	{"host-case", nil, "Host: TEST", false, "200 OK\nCache-Control: max-age=60", ByHeader},
	{"host-port", nil, "Host: test:80", false, "200 OK\nCache-Control: max-age=60", ByHeader},
	{"upgrade", nil, "Connection: Upgrade\nUpgrade: websocket", false, "200 OK\nCache-Control: max-age=60", ByUpgrade},
	{"if-match", nil, "If-Match: \"a\"", false, "200 OK\nCache-Control: max-age=60", ByPrecondition},
	{"if-unmodified-since", nil, "If-Unmodified-Since: {+0}", false, "200 OK\nCache-Control: max-age=60", ByPrecondition},
	{"ignored-no-store", func(c *RouteConfig) { c.Ignore = []string{"no-store"} }, "", false, "200 OK\nCache-Control: no-store, max-age=60", OK},
	{"targeted-over-no-store", nil, "", false, "200 OK\nCache-Control: no-store\nCDN-Cache-Control: max-age=60", OK},
	{"targeted-no-store", nil, "", false, "200 OK\nCache-Control: max-age=60\nCDN-Cache-Control: no-store", NoStore},
	{"targeted-own-first", nil, "", false, "200 OK\nSluice-Cache-Control: no-store\nCDN-Cache-Control: max-age=60", NoStore},
	{"targeted-empty", nil, "", false, "200 OK\nCache-Control: no-store\nCDN-Cache-Control:", NoStore},
	{"targeted-unreadable", nil, "", false, "200 OK\nCache-Control: no-store\nCDN-Cache-Control: max-age=60, &", NoStore},
	{"targeted-other", nil, "", false, "200 OK\nCache-Control: no-store\nOther-Cache-Control: max-age=60", NoStore},
}

func TestStore(t *testing.T) {
	for _, c := range storing {
		t.Run(c.name, func(t *testing.T) {
			p := testPolicy(c.config)
			a, r := testAsk(t, p, c.ask), testAnswer(t, c.answer)
			a.Identified = c.identified
			var e Entry
			if got := p.Admit(&e, a, r.Status, r.Fields, start, start); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// using is RFC 9111 4 and 5: what a stored answer is used for.
var using = []struct {
	name   string
	config func(*RouteConfig)
	answer string
	ask    string
	after  time.Duration
	use    Use
	why    Reason
}{
	{"fresh", nil, "200 OK\nCache-Control: max-age=60", "", 59 * time.Second, Fresh, OK},
	{"stale", nil, "200 OK\nCache-Control: max-age=60", "", 60 * time.Second, Validate, Expired},
	{"s-maxage-first", nil, "200 OK\nCache-Control: max-age=1, s-maxage=60", "", 59 * time.Second, Fresh, OK},
	{"s-maxage-over-max-age", nil, "200 OK\nCache-Control: s-maxage=1, max-age=60", "", 2 * time.Second, Validate, Expired},
	{"s-maxage-over-expires", nil, "200 OK\nCache-Control: s-maxage=60\nExpires: {-60}", "", time.Second, Fresh, OK},
	{"max-age-over-expires", nil, "200 OK\nCache-Control: max-age=60\nExpires: {-60}", "", time.Second, Fresh, OK},
	{"max-age-over-future-expires", nil, "200 OK\nCache-Control: max-age=1\nExpires: {+60}", "", 2 * time.Second, Validate, Expired},
	{"expires", nil, "200 OK\nDate: {+0}\nExpires: {+60}", "", 59 * time.Second, Fresh, OK},
	{"expires-passed", nil, "200 OK\nDate: {+0}\nExpires: {+60}", "", 60 * time.Second, Validate, Expired},
	{"expires-by-date", nil, "200 OK\nDate: {+3600}\nExpires: {+3660}", "", 59 * time.Second, Fresh, OK},
	{"expires-by-date-passed", nil, "200 OK\nDate: {+3600}\nExpires: {+3660}", "", 61 * time.Second, Validate, Expired},
	{"expires-without-date", nil, "200 OK\nExpires: {+60}", "", 59 * time.Second, Fresh, OK},
	{"expires-zero", nil, "200 OK\nETag: \"a\"\nExpires: 0", "", 0, Validate, Expired},
	{"expires-unreadable", nil, "200 OK\nETag: \"a\"\nExpires: Thu, 18 Aug 2050 02:01:18 PST", "", 0, Validate, Expired},
	{"expires-unreadable-no-guess", heuristic, "200 OK\nLast-Modified: {-86400}\nExpires: 0", "", 0, Validate, Expired},
	{"expires-first-of-two", nil, "200 OK\nETag: \"a\"\nExpires: {-60}\nExpires: {+60}", "", 0, Validate, Expired},
	{"max-age-first-of-two", nil, "200 OK\nETag: \"a\"\nCache-Control: max-age=1\nCache-Control: max-age=60", "", 2 * time.Second, Validate, Expired},
	{"max-age-unreadable", nil, "200 OK\nETag: \"a\"\nCache-Control: max-age=1h\nExpires: {+60}", "", 0, Validate, Expired},
	{"max-age-quoted", nil, "200 OK\nCache-Control: max-age=\"60\"", "", 59 * time.Second, Fresh, OK},
	{"max-age-huge", nil, "200 OK\nCache-Control: max-age=99999999999999999999", "", 365 * 24 * time.Hour, Fresh, OK},
	{"conflict-no-cache", nil, "200 OK\nETag: \"a\"\nCache-Control: max-age=60, no-cache", "", 0, Validate, NoCacheStored},
	{"heuristic", heuristic, "200 OK\nDate: {+0}\nLast-Modified: {-1000}", "", 99 * time.Second, Fresh, OK},
	{"heuristic-passed", heuristic, "200 OK\nDate: {+0}\nLast-Modified: {-1000}", "", 101 * time.Second, Validate, Expired},
	{"heuristic-bounded", heuristic, "200 OK\nDate: {+0}\nLast-Modified: {-100000000}", "", 25 * time.Hour, Validate, Expired},
	{"heuristic-not-over-explicit", heuristic, "200 OK\nCache-Control: max-age=1\nLast-Modified: {-1000}", "", 2 * time.Second, Validate, Expired},
	{"heuristic-public", heuristic, "302 Found\nCache-Control: public\nLast-Modified: {-1000}", "", 50 * time.Second, Fresh, OK},
	{"heuristic-off", nil, "200 OK\nLast-Modified: {-1000}", "", 0, Validate, Expired},
	{"age-counts", nil, "200 OK\nCache-Control: max-age=60\nAge: 50", "", 11 * time.Second, Validate, Expired},
	{"age-first-member", nil, "200 OK\nCache-Control: max-age=60\nAge: 0, 3600", "", time.Second, Fresh, OK},
	{"age-unreadable", nil, "200 OK\nCache-Control: max-age=60\nAge: old", "", time.Second, Fresh, OK},
	{"age-negative", nil, "200 OK\nCache-Control: max-age=60\nAge: -5", "", time.Second, Fresh, OK},
	{"age-huge", nil, "200 OK\nETag: \"a\"\nCache-Control: max-age=60\nAge: 99999999999999999999", "", 0, Validate, Expired},
	{"age-by-date", nil, "200 OK\nETag: \"a\"\nCache-Control: max-age=60\nDate: {-61}", "", 0, Validate, Expired},
	{"date-ahead", nil, "200 OK\nCache-Control: max-age=60\nDate: {+3600}", "", 61 * time.Second, Validate, Expired},
	{"must-revalidate", grace, "200 OK\nCache-Control: max-age=1, must-revalidate, stale-while-revalidate=60", "Cache-Control: max-stale", 2 * time.Second, Validate, Expired},
	{"must-revalidate-fresh", grace, "200 OK\nCache-Control: max-age=60, must-revalidate", "", time.Second, Fresh, OK},
	{"proxy-revalidate", grace, "200 OK\nCache-Control: max-age=1, proxy-revalidate", "Cache-Control: max-stale", 2 * time.Second, Validate, Expired},
	{"s-maxage-no-stale", grace, "200 OK\nCache-Control: s-maxage=1", "Cache-Control: max-stale", 2 * time.Second, Validate, Expired},
	{"s-maxage-stale-by-name", nil, "200 OK\nCache-Control: s-maxage=1, stale-while-revalidate=60", "", 2 * time.Second, Stale, Expired},
	{"stale-while-revalidate", nil, "200 OK\nCache-Control: max-age=1, stale-while-revalidate=60", "", 60 * time.Second, Stale, Expired},
	{"stale-while-revalidate-over", nil, "200 OK\nCache-Control: max-age=1, stale-while-revalidate=60", "", 62 * time.Second, Validate, Expired},
	{"stale-while-revalidate-route", grace, "200 OK\nCache-Control: max-age=1", "", 60 * time.Second, Stale, Expired},
	{"stale-while-revalidate-origin-first", grace, "200 OK\nCache-Control: max-age=1, stale-while-revalidate=0", "", 2 * time.Second, Validate, Expired},
	{"ask-no-cache", nil, "200 OK\nCache-Control: max-age=60", "Cache-Control: no-cache", 0, Validate, NoCacheAsked},
	{"ask-pragma", nil, "200 OK\nCache-Control: max-age=60", "Pragma: no-cache", 0, Validate, NoCacheAsked},
	{"ask-pragma-beside-cache-control", nil, "200 OK\nCache-Control: max-age=60", "Pragma: no-cache\nCache-Control: max-stale=1", 0, Fresh, OK},
	{"answer-pragma", nil, "200 OK\nCache-Control: max-age=60\nPragma: no-cache", "", 0, Fresh, OK},
	{"ask-max-age", nil, "200 OK\nCache-Control: max-age=60", "Cache-Control: max-age=10", 11 * time.Second, Validate, TooOld},
	{"ask-max-age-young", nil, "200 OK\nCache-Control: max-age=60", "Cache-Control: max-age=10", 9 * time.Second, Fresh, OK},
	{"ask-max-age-zero", nil, "200 OK\nCache-Control: max-age=60", "Cache-Control: max-age=0", 0, Validate, TooOld},
	{"ask-max-age-wants-nothing-stale", grace, "200 OK\nCache-Control: max-age=1", "Cache-Control: max-age=60", 2 * time.Second, Validate, Expired},
	{"ask-max-age-with-max-stale", nil, "200 OK\nCache-Control: max-age=1\nETag: \"a\"", "Cache-Control: max-age=60, max-stale=60", 5 * time.Second, Allowed, Expired},
	{"ask-min-fresh", nil, "200 OK\nCache-Control: max-age=60", "Cache-Control: min-fresh=30", 31 * time.Second, Validate, NotFreshLong},
	{"ask-min-fresh-long", nil, "200 OK\nCache-Control: max-age=60", "Cache-Control: min-fresh=30", 29 * time.Second, Fresh, OK},
	{"ask-max-stale-any", nil, "200 OK\nCache-Control: max-age=1", "Cache-Control: max-stale", time.Hour, Allowed, Expired},
	{"ask-max-stale", nil, "200 OK\nCache-Control: max-age=1", "Cache-Control: max-stale=10", 10 * time.Second, Allowed, Expired},
	{"ask-max-stale-over", nil, "200 OK\nCache-Control: max-age=1", "Cache-Control: max-stale=10", 12 * time.Second, Validate, Expired},
	{"ask-only-if-cached-stale", nil, "200 OK\nCache-Control: max-age=1", "Cache-Control: only-if-cached", 2 * time.Second, Refuse, Expired},
	{"ask-only-if-cached-fresh", nil, "200 OK\nCache-Control: max-age=60", "Cache-Control: only-if-cached", time.Second, Fresh, OK},
	{"ask-unreadable", nil, "200 OK\nCache-Control: max-age=60", "Cache-Control: max-age=\"6", 0, Validate, NoCacheAsked},
	{"ask-not-heeded", func(c *RouteConfig) { c.Directives = false }, "200 OK\nCache-Control: max-age=60", "Cache-Control: no-cache, max-age=0", 0, Fresh, OK},
	{"immutable-max-age", nil, "200 OK\nCache-Control: max-age=60, immutable", "Cache-Control: max-age=0", 0, Fresh, OK},
	{"immutable-no-cache", nil, "200 OK\nCache-Control: max-age=60, immutable", "Cache-Control: no-cache", 0, Validate, NoCacheAsked},
	{"immutable-stale", nil, "200 OK\nCache-Control: max-age=60, immutable", "", 61 * time.Second, Validate, Expired},
	{"extension-ignored", nil, "200 OK\nCache-Control: max-age=60, community=\"UCI\", x", "", 0, Fresh, OK},
	{"no-cache-fields", nil, "200 OK\nCache-Control: max-age=60, no-cache=\"X-A\"", "", 0, Fresh, OK},
	{"targeted-max-age", nil, "200 OK\nCache-Control: max-age=1\nCDN-Cache-Control: max-age=60", "", 59 * time.Second, Fresh, OK},
	{"targeted-ignores-expires", nil, "200 OK\nETag: \"a\"\nExpires: {+60}\nCDN-Cache-Control: public", "", 0, Validate, Expired},
	{"targeted-parameters", nil, "200 OK\nCDN-Cache-Control: max-age=60;x=1", "", 59 * time.Second, Fresh, OK},
	{"targeted-wrong-type", nil, "200 OK\nETag: \"a\"\nCDN-Cache-Control: max-age=\"60\"", "", 0, Validate, Expired},
	{"targeted-last-counts", nil, "200 OK\nCDN-Cache-Control: max-age=1, max-age=60", "", 59 * time.Second, Fresh, OK},
	{"route-ttl", override(time.Minute), "200 OK\nCache-Control: max-age=1", "", 59 * time.Second, Fresh, OK},
	{"route-ttl-shortens", override(time.Second), "200 OK\nCache-Control: max-age=60", "", 2 * time.Second, Validate, Expired},
	{"route-ttl-from-arrival", override(time.Minute), "200 OK\nAge: 1000", "", 59 * time.Second, Fresh, OK},
	{"route-ttl-not-for-cookies", override(time.Minute), "200 OK", "Cookie: a=b", 0, Miss, CookieSent},
	{"route-ttl-not-for-credentials", override(time.Minute), "200 OK", "Authorization: Basic x", 0, Miss, CookieSent},
	{"route-fallback", fallback(time.Minute), "200 OK", "", 59 * time.Second, Fresh, OK},
	{"route-fallback-origin-first", fallback(time.Minute), "200 OK\nCache-Control: max-age=1", "", 2 * time.Second, Validate, Expired},
	{"route-negative", func(c *RouteConfig) { c.Negative = durationOf(time.Minute) }, "404 Not Found", "", 59 * time.Second, Fresh, OK},
}

func TestUse(t *testing.T) {
	for _, c := range using {
		t.Run(c.name, func(t *testing.T) {
			p := testPolicy(c.config)
			e := testEntry(t, p, c.answer)
			v := Decide(testAsk(t, p, c.ask), e, start+int64(c.after))
			if v.Use != c.use || v.Why != c.why {
				t.Errorf("got %s (%v), want %s (%v)", useNames[v.Use], v.Why, useNames[c.use], c.why)
			}
		})
	}
}

func TestDecideWithoutEntry(t *testing.T) {
	p := testPolicy()
	if v := Decide(testAsk(t, p, ""), nil, start); v.Use != Miss || v.Why != Absent {
		t.Errorf("got %+v", v)
	}
	if v := Decide(testAsk(t, p, "Cache-Control: only-if-cached"), nil, start); v.Use != Refuse {
		t.Errorf("only-if-cached: got %+v", v)
	}
}

// Age is current_age of RFC 9111 4.2.3, in whole seconds, and never runs back.
func TestAge(t *testing.T) {
	f := func(answer string, delay, after time.Duration, want int64) {
		t.Helper()
		p, r := testPolicy(), testAnswer(t, answer)
		var e Entry
		if reason := p.Admit(&e, testAsk(t, p, ""), r.Status, r.Fields, start-int64(delay), start); reason != OK {
			t.Fatal(reason)
		}
		v := Decide(testAsk(t, p, ""), &e, start+int64(after))
		if v.Age != want {
			t.Errorf("%q after %v and %v: age %d, want %d", answer, delay, after, v.Age, want)
		}
		if got, want := string(AppendAge(nil, v)), "Age: "+string(appendInt(nil, want))+"\r\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	const long = "200 OK\nCache-Control: max-age=10000"
	f(long, 0, 0, 0)
	f(long, 0, 1500*time.Millisecond, 1)
	f(long, 3*time.Second, 0, 3)
	f(long+"\nAge: 7", 3*time.Second, 2*time.Second, 12)
	f(long+"\nDate: {-20}", 3*time.Second, 2*time.Second, 22)
	f(long+"\nDate: {-5}\nAge: 7", 3*time.Second, 2*time.Second, 12)
	f(long+"\nDate: {+20}", 0, time.Second, 1)
	f(long, 0, -time.Hour, 0)
	f(long+"\nAge: 5", 0, -time.Hour, 5)
	// A clock finer than Date does not age what is made now.
	p, r := testPolicy(), testAnswer(t, long+"\nDate: {+0}")
	var e Entry
	p.Admit(&e, testAsk(t, p, ""), r.Status, r.Fields, start+second*9/10, start+second*9/10)
	if e.Age != 0 {
		t.Errorf("age %d within the second of Date", e.Age)
	}
}

// What is stored is every field but those of RFC 9111 3.1.
func TestHead(t *testing.T) {
	f := func(answer, want string) {
		t.Helper()
		if got := string(testEntry(t, testPolicy(func(c *RouteConfig) { c.SetCookie = "strip" }), answer).Head); got != fill(want) {
			t.Errorf("got  %q\nwant %q", got, fill(want))
		}
	}
	f("200 OK\nDate: {+0}\nCache-Control: max-age=60\nX-Unknown: 1\nX-Unknown: 2\nContent-Type: a/b",
		"Date: {+0}\nCache-Control: max-age=60\nX-Unknown: 1\nX-Unknown: 2\nContent-Type: a/b\n")
	f("200 OK\nDate: {+0}\nCache-Control: max-age=60\nConnection: close, X-Hop\nX-Hop: 1\nKeep-Alive: timeout=5\nUpgrade: x\nContent-Length: 3\nAge: 1",
		"Date: {+0}\nCache-Control: max-age=60\n")
	f("200 OK\nDate: {+0}\nCache-Control: max-age=60\nProxy-Authenticate: Basic\nProxy-Authentication-Info: x\nProxy-Authorization: y",
		"Date: {+0}\nCache-Control: max-age=60\n")
	f("200 OK\nDate: {+0}\nCache-Control: max-age=60, private=\"X-User, x-more\", no-cache=Set-Token\nX-User: me\nX-More: me\nSet-Token: t\nX-Kept: 1",
		"Date: {+0}\nCache-Control: max-age=60, private=\"X-User, x-more\", no-cache=Set-Token\nX-Kept: 1\n")
	f("200 OK\nDate: {+0}\nCache-Control: max-age=60\nSet-Cookie: a=b", "Date: {+0}\nCache-Control: max-age=60\n")
	f("200 OK\nCache-Control: max-age=60", "Cache-Control: max-age=60\nDate: {+0}\n")
	f("200 OK\nCache-Control: max-age=60\nDate: yesterday", "Cache-Control: max-age=60\nDate: {+0}\n")
	f("200 OK\nDate: {+0}\nSluice-Cache-Control: max-age=60\nCDN-Cache-Control: max-age=5\nCache-Status: Origin; hit",
		"Date: {+0}\nCDN-Cache-Control: max-age=5\nCache-Status: Origin; hit\n")
}

func TestStaleOnError(t *testing.T) {
	f := func(change func(*RouteConfig), answer, ask string, after time.Duration, status int, want bool) {
		t.Helper()
		p := testPolicy(change)
		if got := StaleOnError(testAsk(t, p, ask), testEntry(t, p, answer), start+int64(after), status); got != want {
			t.Errorf("%q, asked %q after %v, %d: got %v", answer, ask, after, status, got)
		}
	}
	const sie = "200 OK\nCache-Control: max-age=1, stale-if-error=60"
	for _, status := range []int{0, 500, 502, 503, 504} {
		f(nil, sie, "", 60*time.Second, status, true)
		f(nil, sie, "", 62*time.Second, status, false)
	}
	f(nil, sie, "", 2*time.Second, 404, false)
	f(nil, sie, "", 2*time.Second, 501, false)
	f(nil, sie, "", 2*time.Second, 200, false)
	f(nil, "200 OK\nCache-Control: max-age=1", "", 2*time.Second, 0, false)
	f(grace, "200 OK\nCache-Control: max-age=1", "", 2*time.Second, 0, true)
	f(grace, "200 OK\nCache-Control: max-age=1, must-revalidate", "", 2*time.Second, 0, false)
	f(grace, "200 OK\nCache-Control: max-age=1, must-revalidate, stale-if-error=60", "", 2*time.Second, 0, false)
	f(grace, "200 OK\nCache-Control: max-age=1, proxy-revalidate", "", 2*time.Second, 0, false)
	f(grace, "200 OK\nCache-Control: s-maxage=1", "", 2*time.Second, 0, false)
	f(nil, "200 OK\nCache-Control: s-maxage=1, stale-if-error=60", "", 2*time.Second, 0, true)
	f(grace, "200 OK\nCache-Control: no-cache, max-age=60\nETag: \"a\"", "", 2*time.Second, 0, false)
	f(nil, "200 OK\nCache-Control: max-age=1", "Cache-Control: stale-if-error=60", 2*time.Second, 503, true)
	f(nil, "200 OK\nCache-Control: max-age=1, must-revalidate", "Cache-Control: stale-if-error=60", 2*time.Second, 503, false)
	f(nil, sie, "Cache-Control: no-cache", 2*time.Second, 503, false)
	f(nil, "200 OK\nCache-Control: max-age=60", "Cache-Control: max-age=0", 2*time.Second, 503, true)
}

// A soft purge allows what is allowed for stale answers; an unsafe request does not.
func TestPurgeAndInvalidate(t *testing.T) {
	p := testPolicy(grace)
	a := testAsk(t, p, "")
	e := testEntry(t, p, "200 OK\nCache-Control: max-age=60")
	e.Purge(start + 10*second)
	if v := Decide(a, e, start+20*second); v.Use != Stale || v.Why != SoftPurged {
		t.Errorf("purged: %+v", v)
	}
	if v := Decide(a, e, start+71*second); v.Use != Validate || v.Why != SoftPurged {
		t.Errorf("purged, later: %+v", v)
	}
	e = testEntry(t, p, "200 OK\nCache-Control: max-age=60")
	e.Invalidate()
	if v := Decide(testAsk(t, p, "Cache-Control: max-stale"), e, start); v.Use != Validate {
		t.Errorf("invalidated: %+v", v)
	}
	if StaleOnError(a, e, start, 503) {
		t.Error("invalidated, and sent on an error")
	}
}

func TestInvalidates(t *testing.T) {
	for method, unsafe := range map[string]bool{
		"GET": false, "HEAD": false, "OPTIONS": false, "TRACE": false, "QUERY": false,
		"POST": true, "PUT": true, "DELETE": true, "PATCH": true, "M-SEARCH": true, "get": true,
	} {
		for status, good := range map[int]bool{200: true, 204: true, 303: true, 404: false, 500: false, 100: false} {
			if got := Invalidates(MethodOf([]byte(method)), status); got != (unsafe && good) {
				t.Errorf("%s %d: %v", method, status, got)
			}
		}
	}
}

func TestTargets(t *testing.T) {
	f := func(fields string, want ...string) {
		t.Helper()
		var got []string
		for _, target := range Targets(nil, "https", []byte("Example.com"), []byte("/a/b%2Fc"), []byte("q"), testAnswer(t, "201 Created\n"+fields).Fields) {
			s := target.Path
			if target.Has {
				s += "?" + target.Query
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%q: got %q, want %q", fields, got, want)
		}
	}
	f("Location: /x?y#z", "/x?y")
	f("Content-Location: d", "/a/d")
	f("Location: https://example.com/x\nContent-Location: //EXAMPLE.com:443/y", "/x", "/y")
	f("Location: https://example.com", "/")
	f("Location: https://example.org/x")
	f("Location: http://example.com/x")
	f("Location: https://example.com:444/x")
	f("Location: //evil/x")
	f("Location: mailto:x")
	f("Location: %zz")
	f("Location: ../e%2Ff", "/e%2Ff")
	f("Location: " + strings.Repeat("x", mostLocation+1))
}

// TestEveryRequirementIsTested: docs/rfc9111.md names tests that exist.
func TestEveryRequirementIsTested(t *testing.T) {
	doc, err := os.ReadFile("../docs/rfc9111.md")
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob("*_test.go")
	more, _ := filepath.Glob("../proxy/cache*_test.go")
	files = append(files, more...)
	var code []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		code = append(code, b...)
	}
	rows := 0
	for _, line := range strings.Split(string(doc), "\n") {
		if !regexp.MustCompile(`^\| \d`).MatchString(line) {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "|"), "|")
		names := regexp.MustCompile("`(Test[^`]+)`").FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(names) == 0 && !strings.Contains(cells[len(cells)-1], "not done") {
			t.Errorf("no test: %s", line)
		}
		for _, m := range names {
			function, sub, has := strings.Cut(m[1], "/")
			if !bytes.Contains(code, []byte("func "+function+"(")) {
				t.Errorf("there is no %s: %s", function, line)
			}
			if has && !bytes.Contains(code, []byte(`"`+sub+`"`)) {
				t.Errorf("%s has no case %s: %s", function, sub, line)
			}
		}
	}
	if rows < 50 {
		t.Errorf("%d rows", rows)
	}
}
