package auth

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestExpression(t *testing.T) {
	ann := provenBy(NewIdentity("customers", "ann", claimsOf(t, someClaims), 0))
	r := askedFor(t, "POST /users/7/orders?user=ann&tag=a&tag=b&pl%75s=x%2Fy+z HTTP/1.1\n"+
		"Host: API.example.com.:8443\nX-Tenant: blue\nX-Many: a\nx-many: b\nCookie: s=1; d=1\nCookie: d=2\nAuthorization: Bearer secret-value")
	f := func(source string, proof *Proof, reason string) {
		t.Helper()
		e, err := newExpression(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			return
		}
		for range 2 { // the second time on a machine that was used
			if ok, got := e.holds(r, proof); ok != (reason == "") || got != reason && got != "expression: "+reason {
				t.Errorf("%s: expected %q, got %v %q", source, reason, ok, got)
			}
		}
	}
	yes := func(source string) { t.Helper(); f(source, ann, "") }
	no := func(source string) { t.Helper(); f(source, ann, "false") }

	yes(`true`)
	no(`false`)
	yes(`claims.sub == "ann" and identity.subject == "ann" and identity.authenticator == "customers"`)
	yes(`claims.level == 3 and claims.level >= 3 and claims.level < 3.5 and claims.rate == 1.5 and claims.big == 9007199254740993`)
	yes(`claims.vip == true and not (claims.email_verified == true)`)
	yes(`"users:read" in identity.scopes and has(identity.scopes, "orders:read")`)
	no(`has(identity.scopes, "users")`)
	yes(`"admin" in claims.roles and has(claims.roles, "editor") and has(claims.realm_access.roles, "ops")`)
	yes(`has(claims.sub, "ann") and has(claims.numbers, 2) and not has(claims.none, 1) and not has(claims.roles, 1)`)
	yes(`claims.address.country in ["DE", "FR"]`)
	yes(`claims["https://example.com/plan"] == "gold"`)
	yes(`claims.none == nil and claims?.a?.b == nil and (claims.none ?? "x") == "x"`)
	no(`claims.none == true`)
	yes(`any(claims.orgs, .id == "o1" and .role == "owner")`)
	no(`any(claims.orgs, .id == "o2" and .role == "owner")`)
	yes(`all(claims.roles, len(#) > 3) and count(claims.numbers, # > 1) == 1 and none(claims.empty, true)`)
	yes(`len(filter(claims.orgs, .role == "owner")) == 1 and find(claims.orgs, .id == "o2").role == "guest"`)
	yes(`any(identities, .authenticator == "customers")`)
	yes(`request.method == "POST" and request.path == "/users/7/orders" and request.scheme == "https" and request.route == "orders"`)
	yes(`request.host == "api.example.com" and request.ip == "10.1.2.3"`)
	yes(`request.path startsWith "/users/" and request.path matches "^/users/[0-9]+/orders$" and request.path contains "7"`)
	no(`request.path matches "^/admin"`)
	yes(`request.header("x-tenant") == "blue" and request.header("X-TENANT") == "blue" and request.header("none") == ""`)
	yes(`request.header("X-Many") == "a, b"`)
	yes(`request.query("user") == claims.sub and request.query("none") == "" and request.query("plus") == "x/y z"`)
	yes(`request.cookie("s") == "1" and request.cookie("none") == ""`)
	yes(`let r = request; r.method == "POST" and r["path"] endsWith "orders"`)
	yes(`cidr(request.ip, "192.0.2.0/24", "10.0.0.0/8") and not cidr(request.ip, "10.1.2.4") and cidr("::ffff:10.9.9.9", "10.0.0.0/8")`)
	no(`cidr("fe80::1%eth0", "10.0.0.0/8")`)
	yes(`now().Hour() == 13 and now() < date("2026-03-03") and now() - date("2026-03-02") < duration("24h")`)
	yes(`let level = claims.level; level > 2 ? request.method != "GET" : false`)
	yes(`int(claims.level) == 3 and string(claims.level) == "3" and lower("A") == "a" and max(1, 2) == 2`)

	// What cannot be told refuses, and says nothing of the request.
	f(`claims.none > 3`, ann, "broke off at 1:13: values that do not go together")
	f(`claims.sub > 3`, ann, "broke off at 1:12: values that do not go together")
	f(`claims.sub.x == 1`, ann, "broke off at 1:12: values that do not go together")
	f(`claims.none.x == nil`, ann, "broke off at 1:13: no such member")
	f(`claims.roles[9] == "x"`, ann, "broke off at 1:13: no such entry")
	f(`not claims.none`, ann, "broke off at 1:1: a value of another type")
	f(`claims.none or claims.vip`, ann, "broke off at 1:13: a value of another type")
	f(`true and claims.level`, ann, "broke off at 1:1: values that do not go together")
	f(`has(claims.address, "x")`, ann, "broke off at 1:1: has: neither a list nor a value")
	f(`cidr(request.header("x-tenant"), "10.0.0.0/8")`, ann, "broke off at 1:1: cidr: no address")
	f(`cidr(claims.level, "10.0.0.0/8")`, ann, "broke off at 1:1: a value of another type")
	f(`any(claims.sub, true)`, ann, "broke off at 1:12: no list")
	f(`cidr(request.ip, "10.0.0.0/8", "::1") and any(claims.sub, true)`, ann, "broke off at 1:54: no list")
	f(`none(claims.none, # == "x")`, ann, "broke off at 1:13: no list")
	f(`len(claims.sub | filter(true)) > 0`, ann, "broke off at 1:12: no list")
	f(`"x" in claims.level`, ann, "broke off at 1:5: no list")
	f(`request.query("tag") == "a"`, ann, "broke off at 1:9: a cookie or query parameter that comes more than once")
	f(`request.cookie("d") == "1"`, ann, "broke off at 1:9: a cookie or query parameter that comes more than once")
	f(`int(request.header("Authorization")) == 1`, ann, "broke off at 1:1: values that do not go together")
	f(`claims.address[request.header("Authorization")].x == 1`, ann, "broke off at 1:49: no such member")
	f(`len(1..100000) == claims.level`, ann, "broke off at 1:6: too much to do")
	f(`any(claims.roles, len(1..10000) == claims.level)`, ann, "broke off at 1:24: too much to do")
	f(`claims.level % 0 == 1`, ann, "broke off at 1:14: a division by zero")

	// Nobody.
	f(`identity.subject == "" and len(identities) == 0 and claims.sub == nil and len(identity.scopes) == 0`, provenBy(), "")
	f(`claims.sub == "ann"`, provenBy(), "false")

	// One list beyond the bound stops loops, not the rest.
	large := make([]any, mostListed+1)
	large[0] = "a"
	big := provenBy(NewIdentity("a", "s", map[string]any{"x": map[string]any{"y": large}, "roles": []any{"r"}}, 0))
	f(`"r" in claims.roles and has(claims.x.y, "a")`, big, "")
	f(`any(claims.roles, # == "r")`, big, "a claim has more than 1024 entries")

	// A loop takes texts of the request only so long.
	fits := provenBy(NewIdentity("a", "s", map[string]any{"x": large[:mostListed]}, 0))
	long := strings.Repeat("l", mostScanned/mostListed+1)
	r = askedFor(t, "GET /"+long+"?q="+long+" HTTP/1.1\nHost: a\nX-Long: "+long+"\nCookie: c="+long+"\nX-Two: a\nX-Two: "+long)
	const tooLong = "too long a text for a loop"
	f(`any(claims.x, request.path endsWith #)`, fits, tooLong)
	f(`any(claims.x, # == "b") or request.path == ""`, fits, tooLong)
	for _, text := range []string{`header("x-long")`, `header("x-two")`, `query("q")`, `query("none")`, `cookie("c")`} {
		f(`any(claims.x, request.`+text+` == #)`, fits, "broke off at 1:23: "+tooLong)
		f(`request.`+text+` != "x"`, fits, "") // no loop
	}
	f(`any(claims.x, # == "a") and request.path == ""`, provenBy(NewIdentity("a", "s", map[string]any{"x": large[:2]}, 0)), "false")
}

func TestExpressionMistakes(t *testing.T) {
	f := func(source, want string) {
		t.Helper()
		if _, err := newExpression(source); err == nil || err.Error() != want {
			t.Errorf("%s: expected %q, got %q", source, want, fmt.Sprint(err))
		}
	}
	f(`claims.admin`, "1:1: expected bool, but got any value; compare it with something, such as claims.admin == true")
	f(`1 +`, "1:3: unexpected token EOF")
	f(``, "1:1: unexpected token EOF")
	f("true and\n  reqest.path == 1", "2:3: unknown name reqest, did you mean request?")
	f(`request.pth == "x"`, "1:9: request has no pth, did you mean path?")
	f(`identity.scope == []`, "1:10: identity has no scope, did you mean scopes?")
	f(`request[claims.x] == "a"`, "1:8: expected a part of the request by its name, such as request.path")
	f(`request.header(claims.x) == "b"`, `1:23: expected a name that is written out, in quotes, such as request.header("x")`)
	f(`request.header("a b") == "b"`, `1:16: expected the name of a header, got "a b"`)
	f(`cidr(request.ip)`, `1:1: expected an address and ranges, such as cidr(request.ip, "10.0.0.0/8")`)
	f(`cidr(request.ip, claims.net)`, `1:25: expected an address range that is written out, in quotes`)
	f(`cidr(request.ip, "10.0.0.1/8")`, `1:18: expected 10.0.0.0/8, the whole range, or 10.0.0.1, the address alone, got "10.0.0.1/8"`)
	f(`any(claims.x, any(claims.y, # == 1))`, "1:15: expected no any inside any: one loop at a time; for membership use in, or has(list, x)")
	f(`count(claims.x, len(filter(claims.y, # == 1)) > 0) == 1`, "1:21: expected no filter inside count: one loop at a time; for membership use in, or has(list, x)")
	f(`"a" matches "("`, "1:5: error parsing regexp: missing closing ): `(`")
	f(`request.path matches claims.x`, "1:29: expected a regular expression that is written out, in quotes")
	f(`now() < date(claims.x)`, "1:21: expected date of a text that is written out, in quotes")
	f(`$env.claims == nil`, "1:1: expected a name such as claims or request, got $env")
	f(`get($env, "claims") == nil`, "1:5: expected a name such as claims or request, got $env")
	f(`splt("a", ",") == []`, "1:1: unknown name splt")
	f(`request.method == 1`, "1:16: invalid operation: == (mismatched types string and int)")
	// Where cidr stands before them, types are known all the same.
	f(`cidr(request.ip, "::1") and request[claims.x] == "a"`, "1:36: expected a part of the request by its name, such as request.path")
	f(`cidr(request.ip, "::1") and request.header(claims.x) == "a"`, `1:51: expected a name that is written out, in quotes, such as request.header("x")`)
	f(`any(request.path, true)`, "1:13: builtin any takes only array (got string)")
	f(strings.Repeat("true and ", 500)+"true", "1:1: expected an expression of at most 4096 bytes")
	for _, gone := range []string{`split("a", ",")`, `map(claims.x, #)`, `reduce(claims.x, #, 0)`, `repeat("a", 9)`, `toJSON(claims)`, `fromJSON("{}")`, `sortBy(claims.x, #)`, `flatten([])`, `get(claims, "x")`, `replace("a", "a", "b")`, `join(claims.x)`, `groupBy(claims.x, #)`} {
		if _, err := newExpression(gone + " == nil"); err == nil || !strings.Contains(err.Error(), "unknown name") {
			t.Errorf("%s: expected it to be unknown, got %v", gone, err)
		}
	}
}

// Many requests share an expression; none sees another's values.
func TestExpressionShared(t *testing.T) {
	e, err := newExpression(`let u = request.query("u"); claims.sub == u and request.path == "/" + u and any(claims.roles, # == u)`)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for i := range 8 {
		name := fmt.Sprintf("u%d", i)
		r := askedFor(t, "GET /"+name+"?u="+name+" HTTP/1.1\nHost: a")
		id := provenBy(NewIdentity("a", name, map[string]any{"sub": name, "roles": []any{name}}, 0))
		wait.Go(func() {
			for range 500 {
				if ok, reason := e.holds(r, id); !ok {
					t.Error(name, reason)
					return
				}
			}
		})
	}
	wait.Wait()
}

// A machine that goes back to the pool keeps nothing of the request.
func TestExpressionKeepsNothing(t *testing.T) {
	e, err := newExpression(`let s = request.header("x-secret"); s == "a" and request.method == s`)
	if err != nil {
		t.Fatal(err)
	}
	s := newStage()
	e.stages.New = func() any { return s }
	e.holds(askedFor(t, "GET / HTTP/1.1\nHost: a\nX-Secret: a"), provenBy(NewIdentity("a", "b", nil, 0)))
	for _, v := range append(s.vm.Stack[:cap(s.vm.Stack)], s.vm.Variables...) {
		if v != nil {
			t.Errorf("expected nothing, got %v", v)
		}
	}
	if s.asked.Method != "" || s.request != nil || s.callers[0] != nil {
		t.Errorf("expected nothing, got %+v", s.asked)
	}
}

func TestHostName(t *testing.T) {
	for host, want := range map[string]string{
		"A.example.com": "a.example.com", "a.example.com.": "a.example.com", "a.example.com:80": "a.example.com", "a.example.com.:80": "a.example.com",
		"[::1]:80": "::1", "[::1]": "::1", "": "", ".": ".", ":80": "", "10.0.0.1:1": "10.0.0.1",
	} {
		if got := hostName([]byte(host)); got != want {
			t.Errorf("%q: expected %q, got %q", host, want, got)
		}
	}
}

// No text makes the compiler panic or an accepted one run for long.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{
		`claims.sub == "ann"`, `any(claims.orgs, .id == "o1")`, `cidr(request.ip, "10.0.0.0/8")`, `request.path matches "a+"`,
		`let x = claims; x.level > 3 ? true : false`, `1..3 == [1,2,3]`, `{"a": 1}.a in claims.numbers`, `not (claims?.a[1:2] == nil)`,
		`now() - date("2026-01-01") > duration("1h")`, `#`, `a;b`, "`", `"\u{1}"`, `if true { claims } else { 1 }`, `claims | keys() | first() == ""`,
	} {
		f.Add(s)
	}
	ann := provenBy(NewIdentity("customers", "ann", claimsOf(f, someClaims), 0))
	r := askedFor(f, "GET /a?u=1 HTTP/1.1\nHost: a")
	f.Fuzz(func(t *testing.T, source string) {
		e, err := newExpression(source)
		if err != nil {
			var line, column int
			if n, _ := fmt.Sscanf(err.Error(), "%d:%d: ", &line, &column); n != 2 || line < 1 || column < 1 {
				t.Errorf("%q: expected line:column, got %q", source, err)
			}
			return
		}
		if ok, reason := e.holds(r, ann); ok != (reason == "") {
			t.Errorf("%q: %v %q", source, ok, reason)
		}
	})
}
