package auth

import (
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/setting"
	"sluice/wire"
)

// patience bounds every wait. No test waits for it when all is well.
const patience = 20 * time.Second

// requestOf is a request as it comes off the wire, with these lines.
func requestOf(t testing.TB, target string, lines ...string) *Request {
	t.Helper()
	head := new(wire.Request)
	text := "GET " + target + " HTTP/1.1\r\nHost: h\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n"
	if _, err := head.Parse([]byte(text), wire.Limits{Bytes: 1 << 16, Fields: 100}); err != nil {
		t.Fatal(err)
	}
	return &Request{Head: head, Path: head.Path, Caller: netip.MustParseAddr("192.0.2.1"), Now: time.Now()}
}

// logLines is a log that a test can wait for.
type logLines chan string

func (l logLines) Write(p []byte) (int, error) {
	var line struct{ Message, Mistakes string }
	_ = json.Unmarshal(p, &line)
	l <- line.Message + ": " + line.Mistakes
	return len(p), nil
}

func (l logLines) wait(t *testing.T, want string) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case line := <-l:
			if strings.Contains(line, want) {
				return
			}
			t.Logf("log: %s", line)
		case <-late:
			t.Fatalf("the log does not say %q", want)
		}
	}
}

func started(t *testing.T, build func(Env) (Authenticator, error)) (Authenticator, logLines) {
	t.Helper()
	log := make(logLines, 1024)
	a, err := build(Env{Log: zerolog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	a.(Starter).Start()
	t.Cleanup(a.(Starter).Stop)
	return a, log
}

func newKeys(t testing.TB, c APIKeyConfig, text string) Authenticator {
	t.Helper()
	c.File = filepath.Join(t.TempDir(), "k")
	write(t, c.File, text)
	p := &setting.Problems{}
	if c.Validate(p); len(p.List()) > 0 {
		t.Fatal(p.List())
	}
	a, err := newAPIKey("partners", &c, Env{Log: zerolog.New(io.Discard)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func keyLines(name, key, more string) string {
	return "- { name: " + name + ", hash: \"" + keyHash([]byte(key)) + "\"" + more + " }\n"
}

func TestAPIKeyPlaces(t *testing.T) {
	good, other := newKey(), newKey()
	text := keyLines("acme", good, "")
	everywhere := APIKeyConfig{Header: "X-Key", Query: "key", Cookie: "key", Scheme: "ApiKey"}
	f := func(c APIKeyConfig, want Outcome, reason, target string, lines ...string) {
		t.Helper()
		a := newKeys(t, c, text)
		r := requestOf(t, target, lines...)
		res := a.Recall(r)
		if res.Outcome != want || !strings.Contains(res.Reason, reason) || (res.Identity != nil) != (want == Identified) {
			t.Errorf("%v: expected %d and %q, got %+v", lines, want, reason, res)
		}
		if again := a.Verify(r); !reflect.DeepEqual(again, res) {
			t.Errorf("Verify says %+v, Recall %+v", again, res)
		}
		if strings.Contains(res.Reason+res.Challenge, good) || strings.Contains(res.Reason+res.Challenge, other) {
			t.Errorf("the reason repeats the key: %+v", res)
		}
	}
	f(APIKeyConfig{}, Absent, "", "/")
	f(APIKeyConfig{}, Identified, "", "/", "x-api-key: "+good)
	f(APIKeyConfig{}, Absent, "", "/?key="+good, "Authorization: ApiKey "+good, "Cookie: key="+good)
	f(APIKeyConfig{}, Refused, "the key is unknown", "/", "X-API-Key: "+other)
	f(APIKeyConfig{}, Refused, "mistyped or cut", "/", "X-API-Key: "+good[:40])
	f(APIKeyConfig{}, Refused, "the key is unknown", "/", "X-API-Key: a key of another system")
	f(APIKeyConfig{}, Refused, "shorter than 16", "/", "X-API-Key: short")
	f(APIKeyConfig{}, Refused, "shorter than 16", "/", "X-API-Key:")
	f(APIKeyConfig{}, Refused, "longer than 512", "/", "X-API-Key: "+strings.Repeat("k", 513))
	f(APIKeyConfig{}, Refused, "more than one key", "/", "X-API-Key: "+good, "x-api-key: "+good)
	f(APIKeyConfig{Scheme: "Bearer"}, Absent, "", "/", "X-API-Key: "+good)
	f(APIKeyConfig{Scheme: "Bearer"}, Identified, "", "/", "Authorization: bEaReR  "+good)
	f(APIKeyConfig{Scheme: "Bearer"}, Absent, "", "/", "Authorization: Basic "+good)
	f(APIKeyConfig{Scheme: "Bearer"}, Absent, "", "/", "Authorization: Bearer")
	f(APIKeyConfig{Scheme: "Bearer"}, Refused, "more than one key", "/", "Authorization: Basic x", "Authorization: Bearer "+good)
	f(everywhere, Identified, "", "/?a=b&key="+good)
	f(everywhere, Identified, "", "/", "Cookie: a=b; key="+good)
	f(everywhere, Identified, "", "/", "X-Key: "+good)
	f(everywhere, Identified, "", "/", "Authorization: ApiKey "+good)
	f(everywhere, Absent, "", "/?Key="+good)
	f(everywhere, Refused, "more than one key", "/?key="+good, "X-Key: "+good)
	f(everywhere, Refused, "more than one key", "/?key="+good+"&key="+other)
	f(everywhere, Refused, "more than one key", "/", "Cookie: key="+good, "Cookie: key=")
	f(everywhere, Refused, "shorter than 16", "/?key")
}

func TestAPIKeyIdentity(t *testing.T) {
	key := newKey()
	a := newKeys(t, APIKeyConfig{}, keyLines("acme", key, ", scopes: [read, write], metadata: { plan: gold, seats: 5 }, limits: { per_key: 100/s }, expires: 2027-01-31"))
	r := requestOf(t, "/", "X-API-Key: "+key)
	r.Now = time.Date(2027, 1, 31, 23, 59, 59, 0, time.UTC)
	res := a.Recall(r)
	if res.Outcome != Identified {
		t.Fatalf("expected an identity, got %+v", res)
	}
	id := res.Identity
	for claim, want := range map[string]string{"sub": "acme", "plan": "gold", "seats": "5", "limits.per_key": "100/s", "scope": "read write"} {
		if got, _ := id.Claim(claim); got != want {
			t.Errorf("claim %s: expected %q, got %q", claim, want, got)
		}
	}
	if id.Authenticator != "partners" || id.Subject != "acme" || !id.HasScope("read") || !id.HasScope("write") || id.HasScope("admin") ||
		id.Expires != time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC).Unix() {
		t.Errorf("got %+v", id)
	}
	r.Now = r.Now.Add(time.Second)
	if res := a.Recall(r); res.Outcome != Refused || res.Reason != `key "acme" expired at 2027-02-01T00:00:00Z` {
		t.Errorf("after its last day: %+v", res)
	}
	if c := a.(Stater).Counts(); c["key_expired"] != 1 {
		t.Errorf("got %v", c)
	}
	if a.Guessable() || a.Name() != "partners" {
		t.Error("not as it should be")
	}
}

func TestAPIKeyChallenges(t *testing.T) {
	f := func(c APIKeyConfig, absent, refused string) {
		t.Helper()
		a := newKeys(t, c, "")
		h := "X-API-Key: unknown unknown unknown"
		if c.Scheme != "" {
			h = "Authorization: " + c.Scheme + " unknown-unknown-unknown"
		} else if c.Header != "" {
			h = c.Header + ": unknown unknown unknown"
		}
		if res := a.Recall(requestOf(t, "/", h)); a.Challenge() != absent || res.Challenge != refused {
			t.Errorf("got %s and %s", a.Challenge(), res.Challenge)
		}
	}
	f(APIKeyConfig{}, `ApiKey realm="partners", header="X-API-Key"`, `ApiKey realm="partners", header="X-API-Key"`)
	f(APIKeyConfig{Scheme: "Bearer"}, `Bearer realm="partners"`, `Bearer realm="partners", error="invalid_token"`)
	f(APIKeyConfig{Scheme: "ApiKey"}, `ApiKey realm="partners"`, `ApiKey realm="partners"`)
	if got := quoted("a\"b\\c\r\nd\x7fé"); got != `"a\"b\\c??d???"` {
		t.Errorf("got %s", got)
	}
}

func TestAPIKeyConfigMistakes(t *testing.T) {
	f := func(c APIKeyConfig, want string) {
		t.Helper()
		p := &setting.Problems{}
		c.Validate(p)
		list := p.List()
		if len(list) != 1 || !strings.HasPrefix(list[0].Path+": "+list[0].Expected, want) {
			t.Errorf("expected %q, got %v", want, list)
		}
	}
	f(APIKeyConfig{}, "file: expected a file with keys")
	f(APIKeyConfig{File: "k", Header: "a b"}, "header: expected the name of a header")
	f(APIKeyConfig{File: "k", Header: "authorization"}, "header: expected a header of the key's own, got \"authorization\"; for Authorization, set scheme")
	f(APIKeyConfig{File: "k", Header: "Cookie"}, "header: expected a header of the key's own, got \"Cookie\"; for a cookie, set cookie")
	f(APIKeyConfig{File: "k", Cookie: "a;"}, "cookie: expected the name of a cookie")
	f(APIKeyConfig{File: "k", Scheme: "a b"}, "scheme: expected a scheme of letters")
	f(APIKeyConfig{File: "k", Scheme: "basic"}, "scheme: expected another scheme than Basic")
	f(APIKeyConfig{File: "k", Query: "a&b"}, "query: expected the name of a parameter")

	file := func(text, want string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "k")
		if text != "" {
			write(t, path, text)
		}
		_, err := newAPIKey("n", &APIKeyConfig{File: path}, Env{})
		var at *FieldError
		if !errors.As(err, &at) || at.Key != "file" || !strings.Contains(err.Error(), want) {
			t.Errorf("expected %q, got %v", want, err)
		}
	}
	file("", "no such file or directory")
	file("- 1", "k:1:3: [0]: expected a mapping")
	if _, err := newAPIKey("n", &APIKeyConfig{File: "/dev/zero"}, Env{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
	if _, err := newAPIKey("n", &APIKeyConfig{File: t.TempDir()}, Env{}); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Error(err)
	}
}

// TestAPIKeyReload changes the file in all the ways that people and programs do.
func TestAPIKeyReload(t *testing.T) {
	one, two := newKey(), newKey()
	path := filepath.Join(t.TempDir(), "k")
	write(t, path, keyLines("one", one, ""))
	a, log := started(t, func(env Env) (Authenticator, error) { return newAPIKey("partners", &APIKeyConfig{File: path}, env) })
	f := func(key string, want Outcome) {
		t.Helper()
		if res := a.Recall(requestOf(t, "/", "X-API-Key: "+key)); res.Outcome != want {
			t.Errorf("expected %d, got %+v", want, res)
		}
	}
	const inUse, refused = "file in use", "file refused, what was read last stays"
	f(one, Identified)
	f(two, Refused)

	write(t, path, keyLines("one", one, "")+keyLines("two", two, ""))
	log.wait(t, inUse)
	f(two, Identified)

	// An editor that replaces the file; the key is gone.
	write(t, path+".new", keyLines("two", two, ""))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	log.wait(t, inUse)
	f(one, Refused)
	f(two, Identified)

	write(t, path, keyLines("two", two, ", disabled: maybe"))
	log.wait(t, refused+": "+path+":1:")
	f(two, Identified)
	if s := a.(Stater).State(); !strings.Contains(s.Detail["mistakes"], "expected true or false") {
		t.Errorf("got %+v", s)
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	log.wait(t, refused+": no such file or directory")
	f(two, Identified)

	if err := editKeys(path, true, func(e *keyEdit) error {
		k := keyEntry{name: "two"}
		k.hash, _ = parseHash(keyHash([]byte(two)))
		return e.add(k, keyHash([]byte(two)), "")
	}); err != nil {
		t.Fatal(err)
	}
	log.wait(t, inUse)
	f(two, Identified)
	if err := editKeys(path, false, func(e *keyEdit) error { return e.disable("two") }); err != nil {
		t.Fatal(err)
	}
	log.wait(t, inUse)
	f(two, Refused)
	if s := a.(Stater).State(); s.Detail["disabled"] != "1" || s.Detail["keys"] != "0" || s.Detail["mistakes"] != "" {
		t.Errorf("got %+v", s)
	}
	if c := a.(Stater).Counts(); c["file_reloaded"] != 4 || c["file_refused"] != 2 || c["key_disabled"] != 1 {
		t.Errorf("got %v", c)
	}
}

// TestAPIKeyReloadLink swaps the link of a folder, as Kubernetes does for a
// mounted secret.
func TestAPIKeyReloadLink(t *testing.T) {
	one, two := newKey(), newKey()
	dir := t.TempDir()
	for folder, text := range map[string]string{"1": keyLines("one", one, ""), "2": keyLines("two", two, "")} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, folder, "k"), text)
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("1", "..data")
	link("..data/k", "k")
	a, log := started(t, func(env Env) (Authenticator, error) {
		return newAPIKey("partners", &APIKeyConfig{File: filepath.Join(dir, "k")}, env)
	})
	link("2", "next")
	if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	log.wait(t, "file in use")
	if res := a.Recall(requestOf(t, "/", "X-API-Key: "+two)); res.Outcome != Identified {
		t.Errorf("got %+v", res)
	}
	if res := a.Recall(requestOf(t, "/", "X-API-Key: "+one)); res.Outcome != Refused {
		t.Errorf("got %+v", res)
	}
}

// A change between the first reading and Start is not missed.
func TestAPIKeyChangedBeforeStart(t *testing.T) {
	one, two := newKey(), newKey()
	path := filepath.Join(t.TempDir(), "k")
	write(t, path, keyLines("one", one, ""))
	a, log := started(t, func(env Env) (Authenticator, error) {
		a, err := newAPIKey("partners", &APIKeyConfig{File: path}, env)
		write(t, path, keyLines("two", two, ", metadata: { longer: yes }"))
		return a, err
	})
	log.wait(t, "file in use")
	if res := a.Recall(requestOf(t, "/", "X-API-Key: "+two)); res.Outcome != Identified {
		t.Errorf("got %+v", res)
	}
}

// TestBuildKeys takes a set with a keys file through its life: a mistake in the
// file has its place in the configuration, and a reload that changes nothing
// keeps what is there.
func TestBuildKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	write(t, path, "- name: a\n")
	configs := map[string]Config{"partners": {APIKey: &APIKeyConfig{File: path}}}
	p := &setting.Problems{}
	Build(configs, nil, Env{}, p)
	if list := p.List(); len(list) != 1 || list[0].Path != "partners.api_key.file" || list[0].Expected != path+":1:3: [0]: expected the key hash, got none" {
		t.Errorf("got %v", list)
	}
	key := newKey()
	write(t, path, keyLines("a", key, ""))
	p = &setting.Problems{}
	first := Build(configs, nil, Env{Log: zerolog.New(io.Discard)}, p)
	if len(p.List()) > 0 {
		t.Fatal(p.List())
	}
	first.Start(nil)
	next := Build(map[string]Config{"partners": {APIKey: &APIKeyConfig{File: path}}}, first, Env{}, p)
	next.Start(first)
	first.Retire(next)
	m := next.Member("partners")
	if m != first.Member("partners") || m.Kind() != "api_key" {
		t.Error("not carried over")
	}
	policy := (&Policy{Any: []Group{{m}}}).Ready()
	var proof Proof
	if res := policy.Recall(requestOf(t, "/", "X-API-Key: "+key), true, &proof); res.Outcome != Identified || proof.Identity().Subject != "a" {
		t.Errorf("got %+v", res)
	}
	next.Retire(nil)
}
