package auth

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/setting"
	"sluice/wire"
)

// askedFor parses a request head, as it comes over the wire, for checks of
// requirements and of origins.
func askedFor(t testing.TB, head string) *Request {
	t.Helper()
	req := &wire.Request{Fields: make([]wire.Field, 0, 16)}
	head = strings.ReplaceAll(head, "\n", "\r\n")
	if _, err := req.Parse([]byte(head+"\r\n\r\n"), wire.Limits{Bytes: 1 << 20, Fields: 256}); err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	return &Request{
		Head: req, Path: req.Path, Scheme: "https", Route: "orders", Caller: netip.MustParseAddr("::ffff:10.1.2.3"),
		Now: time.Date(2026, 3, 2, 14, 30, 0, 0, time.FixedZone("", 3600)),
	}
}

// claimsOf decodes claims as a token's are decoded: numbers stay texts.
func claimsOf(t testing.TB, text string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var claims map[string]any
	if err := d.Decode(&claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func provenBy(ids ...*Identity) *Proof {
	p := &Proof{N: len(ids)}
	copy(p.By[:], ids)
	return p
}

const someClaims = `{
	"sub": "ann", "scope": "users:read orders:read", "level": 3, "vip": true, "rate": 1.5, "big": 9007199254740993,
	"roles": ["editor", "admin"], "realm_access": {"roles": ["ops"]}, "resource_access": {"api": {"roles": ["writer"]}},
	"https://example.com/plan": "gold", "groups": ["root"], "numbers": [1, 2], "mixed": ["a", null, {"b": 1}, 7], "empty": [],
	"address": {"country": "DE"}, "email_verified": false, "tenant": "a,b", "orgs": [{"id": "o1", "role": "owner"}, {"id": "o2", "role": "guest"}]
}`

func TestRequirement(t *testing.T) {
	ann := provenBy(NewIdentity("customers", "ann", claimsOf(t, someClaims), 0))
	r := askedFor(t, "GET / HTTP/1.1\nHost: a")
	f := func(c RequireConfig, reason, scope string) {
		t.Helper()
		q, err := NewRequirement(&c)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			return
		}
		ok, gotReason, gotScope := q.Check(r, ann)
		if ok != (reason == "") || gotReason != reason || gotScope != scope {
			t.Errorf("%+v: expected %q %q, got %v %q %q", c, reason, scope, ok, gotReason, gotScope)
		}
	}
	scope := func(s ...string) RequireConfig { return RequireConfig{Scope: s} }
	f(scope("users:read"), "", "")
	f(scope("users:read", "orders:read"), "", "")
	f(scope("users:read orders:read"), "", "")
	f(scope("users:write"), "scope missing: users:write", "users:write")
	f(scope("users:read users:write", "x"), "scope missing: users:write", "users:read users:write x")
	f(scope("users:write|users:read"), "", "")
	f(scope("a|b", "users:read"), "scope missing: a|b", "a users:read")
	f(scope("users"), "scope missing: users", "users")
	f(scope("USERS:READ"), "scope missing: USERS:READ", "USERS:READ")

	role := func(claim string, s ...string) RequireConfig {
		c := RequireConfig{Roles: s}
		if claim != "" {
			c.RolesClaim = []string{claim}
		}
		return c
	}
	f(role("", "admin"), "", "")
	f(role("", "nobody", "editor"), "", "")
	f(role("", "ops"), "", "")
	f(role("", "root"), "role missing: root", "") // a group
	f(role("groups", "root"), "", "")
	f(role("", "writer", "reader"), "role missing: writer|reader", "")
	f(role("resource_access.api.roles", "writer"), "", "")
	f(role("resource_access.api", "writer"), "role missing: writer", "")
	f(role("realm_access.roles", "admin"), "role missing: admin", "")
	f(role("tenant", "a"), "role missing: a", "") // one text, not a list
	f(role("tenant", "a,b"), "", "")
	f(role("", "adm"), "role missing: adm", "")

	claim := func(path, value string) RequireConfig { return RequireConfig{Claims: map[string]string{path: value}} }
	f(claim("sub", "ann"), "", "")
	f(claim("sub", "bob"), "claim missing or different: sub", "")
	f(claim("sub", "bob|ann"), "", "")
	f(claim("level", "3"), "", "")
	f(claim("big", "9007199254740993"), "", "")
	f(claim("vip", "true"), "", "")
	f(claim("email_verified", "true"), "claim missing or different: email_verified", "")
	f(claim("address.country", "DE|FR"), "", "")
	f(claim("address", "*"), "claim missing or different: address", "")
	f(claim("https://example.com/plan", "gold"), "", "")
	f(claim("groups", "*"), "", "")
	f(claim("empty", "*"), "claim missing or different: empty", "")
	f(claim("none", "*"), "claim missing or different: none", "")
	f(claim("numbers", "2"), "", "")
	f(claim("mixed", "7"), "", "")
	f(claim("mixed", "a"), "", "")

	f(RequireConfig{Scope: []string{"users:read"}, Roles: []string{"admin"}, Claims: map[string]string{"sub": "ann"}, Expr: `claims.level >= 3`}, "", "")
	f(RequireConfig{Scope: []string{"users:read"}, Roles: []string{"admin"}, Claims: map[string]string{"sub": "ann"}, Expr: `claims.level > 3`}, "expression: false", "")
}

// Any identity of the group may meet a condition; nobody meets none.
func TestRequirementOfGroups(t *testing.T) {
	r := askedFor(t, "GET / HTTP/1.1\nHost: a")
	machine := NewIdentity("mesh", "spiffe://x/billing", nil, 0)
	person := NewIdentity("customers", "ann", claimsOf(t, someClaims), 0)
	q, err := NewRequirement(&RequireConfig{
		Scope: []string{"users:read"}, Roles: []string{"admin"}, Claims: map[string]string{"sub": "spiffe://x/billing"},
		Expr: `identity.authenticator == "mesh" and any(identities, .subject == "ann")`,
	})
	if err != nil {
		t.Fatal(err)
	}
	f := func(proof *Proof, want string) {
		t.Helper()
		if ok, reason, _ := q.Check(r, proof); reason != want || ok != (want == "") {
			t.Errorf("expected %q, got %v %q", want, ok, reason)
		}
	}
	f(provenBy(machine, person), "")
	f(provenBy(person, machine), "expression: false")
	f(provenBy(machine), "scope missing: users:read")
	f(provenBy(person), "claim missing or different: sub")
	f(provenBy(), "scope missing: users:read")
	// One that NewIdentity did not make is seen to hold no claims.
	f(provenBy(&Identity{Claims: claimsOf(t, someClaims), Scopes: []string{"users:read"}}), "role missing: admin")

	var none *Requirement
	if ok, _, _ := none.Check(r, provenBy()); !ok {
		t.Error("expected no requirement to let pass")
	}
}

// A path that two claims lay claim to is nobody's, whichever came first.
func TestRequirementAmbiguousPath(t *testing.T) {
	r := askedFor(t, "GET / HTTP/1.1\nHost: a")
	for _, claims := range []string{
		`{"realm_access": {"roles": ["user"]}, "realm_access.roles": ["admin"]}`,
		`{"realm_access": {"roles": ["admin"]}, "realm_access.roles": "admin"}`,
		`{"a": {"b": {"c": "x"}, "b.c": "x"}, "a.b.c": "admin", "realm_access.roles": ["x"], "realm_access": {"roles": "admin"}}`,
	} {
		id := NewIdentity("a", "s", claimsOf(t, claims), 0)
		q, err := NewRequirement(&RequireConfig{Roles: []string{"admin"}})
		if err != nil {
			t.Fatal(err)
		}
		if ok, _, _ := q.Check(r, provenBy(id)); ok {
			t.Errorf("%s: expected a refusal", claims)
		}
		if id.held["a.b.c"] != nil {
			t.Errorf("expected a.b.c to be nobody's, got %q", id.held["a.b.c"])
		}
	}
}

// What is beyond the bounds is not held.
func TestRequirementBounds(t *testing.T) {
	many := make([]any, 2*mostValues)
	for i := range many {
		many[i] = "x"
	}
	many[len(many)-1] = "last"
	claims := map[string]any{"a": many, "b": "y", "roles": "admin", "long": strings.Repeat("x", mostText+1), "ctl": "a\nb"}
	for i := range 2 * mostPaths {
		claims["c"+string(rune('a'+i%26))+strings.Repeat("d", i/26)] = "v"
	}
	id := NewIdentity("a", "s", claims, 0)
	if len(id.held) > mostPaths+1 {
		t.Errorf("expected at most %d paths, got %d", mostPaths+1, len(id.held))
	}
	for path, value := range map[string]string{"a": "last", "b": "y", "long": claims["long"].(string), "ctl": "a\nb"} {
		if id.held.has(path, value) {
			t.Errorf("%s: expected it to be left out", path)
		}
	}
	var deep any = "x"
	path := ""
	for range 100 {
		deep = map[string]any{"d": deep}
		path += "d."
	}
	id = NewIdentity("a", "s", deep.(map[string]any), 0)
	if len(id.held) != 1 { // sub
		t.Errorf("expected no more than sub, got %v", id.held)
	}
}

func TestRequireMistakes(t *testing.T) {
	f := func(c RequireConfig, want ...string) {
		t.Helper()
		var p setting.Problems
		c.Validate(&p)
		var got []string
		for _, problem := range p.List() {
			got = append(got, problem.Path+": "+problem.Expected)
		}
		if len(got) != len(want) {
			t.Errorf("%+v: expected %q, got %q", c, want, got)
			return
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("expected %q, got %q", want[i], got[i])
			}
		}
		if _, err := NewRequirement(&c); (err != nil) != (len(want) > 0) {
			t.Errorf("%+v: got the error %v", c, err)
		}
	}
	f(RequireConfig{}, ": expected at least one of scope, roles, claims, expr")
	f(RequireConfig{Scope: []string{"a", " "}}, "scope[1]: expected a scope, got nothing")
	f(RequireConfig{Scope: []string{`a"b`, "a||b", "*|a"}}, "scope[0]: expected scopes of printable", "scope[1]: expected a value, or several", "scope[2]: expected * alone")
	f(RequireConfig{Roles: []string{"", "a\x00"}}, "roles[0]: expected a role: it is empty", "roles[1]: expected a role: it holds control")
	f(RequireConfig{Scope: []string{"a"}, RolesClaim: []string{"x"}}, "roles_claim: expected roles beside it")
	f(RequireConfig{Claims: map[string]string{"a b": "", "x": "*|a", "": "x"}}, "claims.\"\": expected the path", `claims."a b": expected a value`, "claims.x: expected * alone")
	f(RequireConfig{Expr: "claims.a == "}, "expr: 1:12: ")
	f(RequireConfig{Expr: "claims.a ==\n reqest.path"}, "expr: 2:2: unknown name reqest, did you mean request?")
	f(RequireConfig{Scope: make([]string, 65)}, "scope: expected at most 64 entries, got 65")
}
