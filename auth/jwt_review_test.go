package auth

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Once a fetch has failed and there is no set, requests do not wait for the next
// try: this one would wait for a day.
func TestNobodyWaitsBetweenTries(t *testing.T) {
	s := &keySource{mistake: "down", landed: make(chan struct{}), stop: make(chan struct{})}
	if s.again(nil, 24*time.Hour) {
		t.Error("a set came from nowhere")
	}
}

// What is shown of a URL leaves out its query.
func TestQueryIsNotShown(t *testing.T) {
	i := startIssuer(t, "a")
	token := i.token("a", "x")
	i.down.Store(true)
	c := testJWT()
	c.JWKS = i.URL + "/keys?key=hidden"
	a := startJWT(t, c)
	a.expect(t, "the first try", token, Unavailable, jwtNoKeys)
	if shown := fmt.Sprint(a.State()); strings.Contains(shown, "hidden") || !strings.Contains(shown, "503") {
		t.Errorf("state: %s", shown)
	}
}

// A token with a key that is not there yet is asked about again.
func TestUnknownKeyIsNotRemembered(t *testing.T) {
	i := startIssuer(t, "a")
	c := testJWT()
	c.JWKS = i.URL + "/keys"
	a := startJWT(t, c)
	a.expect(t, "a", i.token("a", "x"), Identified, "")
	i.set("a", "b")
	token := i.token("b", "y")
	a.expect(t, "too early to fetch again", token, Refused, jwtKey)
	a.src.mu.Lock()
	a.src.last = a.src.last.Add(-c.Refetch.Std())
	a.src.mu.Unlock()
	a.expect(t, "time to fetch again", token, Identified, "")
}

// However many keys have no name, one that is named is tried.
func TestNamedKeysComeFirst(t *testing.T) {
	set := &keySet{}
	for range 2 * mostTried {
		set.keys = append(set.keys, &verifyKey{algs: []string{"ES256"}})
	}
	named := &verifyKey{kid: "k", algs: []string{"ES256"}}
	set.keys = append(set.keys, named)
	list := set.candidates(&compact{alg: "ES256", kid: "k", hasKid: true})
	if len(list) != mostTried || list[0] != named {
		t.Errorf("got %d keys, the named one is not the first", len(list))
	}
}

// A target must not read more in a header than the provider has said.
func TestTextsMeanOneThing(t *testing.T) {
	id := NewIdentity("x", "", map[string]any{
		"roles": []any{"user,admin"}, "groups": []string{"a,b"}, "scope": "read\u00a0admin write",
	}, 0)
	for _, path := range []string{"roles", "groups"} {
		if text, ok := id.Claim(path); ok {
			t.Errorf("%s is told as %q", path, text)
		}
	}
	if id.HasScope("admin") || !id.HasScope("write") {
		t.Errorf("scopes %q", id.Scopes)
	}
}
