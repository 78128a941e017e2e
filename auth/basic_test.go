package auth

import (
	"encoding/base64"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/crypto/bcrypt"

	"sluice/setting"
)

// cheap is a hash that costs next to nothing.
func cheap(t testing.TB, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

func credential(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func newUsers(t testing.TB, text string, remember int) *basic {
	t.Helper()
	path := filepath.Join(t.TempDir(), "h")
	write(t, path, text)
	a, err := newBasic("staff", &BasicConfig{File: path, Remember: remember}, Env{Log: zerolog.New(io.Discard)})
	if err != nil {
		t.Fatal(err)
	}
	return a.(*basic)
}

func TestBasic(t *testing.T) {
	b := newUsers(t, "alice:"+cheap(t, "wonder:land")+"\nJürgen:"+cheap(t, "straße 1")+"\nbob:"+argonPassword+"\n", 64)
	f := func(want Outcome, reason string, lines ...string) {
		t.Helper()
		r := requestOf(t, "/", lines...)
		first := b.Recall(r)
		if first.Outcome == Identified {
			t.Errorf("%v: recalled before it was proven", lines)
		}
		res := b.Verify(r)
		if res.Outcome != want || res.Reason != reason || (res.Identity != nil) != (want == Identified) {
			t.Errorf("%v: expected %d and %q, got %+v", lines, want, reason, res)
		}
		if first.Outcome != Unknown && !reflect.DeepEqual(first, res) {
			t.Errorf("%v: Recall says %+v, Verify %+v", lines, first, res)
		}
		if again := b.Recall(r); (again.Outcome == Identified) != (want == Identified) {
			t.Errorf("%v: recalled as %+v", lines, again)
		}
		if challenged := res.Challenge == `Basic realm="staff", charset="UTF-8"`; challenged != (want == Refused) {
			t.Errorf("%v: the challenge is %s", lines, res.Challenge)
		}
	}
	raw := func(s string) string { return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	f(Identified, "", credential("alice", "wonder:land"))
	f(Identified, "", credential("Jürgen", "straße 1"))
	f(Identified, "", credential("bob", "password"))
	f(Identified, "", strings.Replace(credential("bob", "password"), "Basic", "bAsIc ", 1))
	f(Absent, "")
	f(Absent, "", "Authorization: Bearer x")
	f(Absent, "", "Authorization: Basically x")
	f(Refused, "the password is wrong", credential("alice", "wonder:lane"))
	f(Refused, "the password is wrong", credential("alice", ""))
	f(Refused, "the user is unknown", credential("Alice", "wonder:land"))
	f(Refused, "the user is unknown", credential("eve", "password"))
	f(Refused, "the credential is empty or too long", "Authorization: Basic")
	f(Refused, "the credential is empty or too long", "Authorization: Basic "+strings.Repeat("A", 3000))
	f(Refused, "more than one Authorization", credential("alice", "wonder:land"), "Authorization: Bearer x")
	f(Refused, "the credential is not base64", "Authorization: Basic !!!!")
	f(Refused, "the credential is not base64", strings.TrimRight(credential("bob", "password1"), "="))
	f(Refused, "the credential is not base64", credential("alice", "wonder:land")+", x")
	f(Refused, "the credential has no colon", raw("alice"))
	f(Refused, "the user is empty or too long", raw(":password"))
	f(Refused, "the user is empty or too long", raw(strings.Repeat("a", 257)+":password"))
	f(Refused, "the password is too long", raw("a:"+strings.Repeat("a", 1025)))
	for _, c := range []string{"\x00", "\r", "\n", "\x1f", "\x7f", "\u0085", "\xff"} {
		f(Refused, "the credential is not UTF-8 or holds control characters", credential("alice"+c, "x"))
		f(Refused, "the credential is not UTF-8 or holds control characters", credential("alice", "wonder:land"+c))
	}
	if c := b.Counts(); c["password_wrong"] != 2 || c["user_unknown"] != 2 || c["credential_malformed"] == 0 {
		t.Errorf("got %v", c)
	}
	if s := b.State(); s.Remembered != 4 || s.Detail["users"] != "3" || !b.Guessable() || b.Places().Schemes[0] != "basic" {
		t.Errorf("got %+v", s)
	}
	id := b.Verify(requestOf(t, "/", credential("Jürgen", "straße 1"))).Identity
	if sub, _ := id.Claim("sub"); sub != "Jürgen" || id.Subject != "Jürgen" || id.Authenticator != "staff" {
		t.Errorf("got %+v", id)
	}
}

func TestBasicWithoutMemory(t *testing.T) {
	b := newUsers(t, "alice:"+cheap(t, "wonderland"), 0)
	r := requestOf(t, "/", credential("alice", "wonderland"))
	for range 2 {
		if first, res := b.Recall(r), b.Verify(r); first.Outcome != Unknown || res.Outcome != Identified {
			t.Errorf("got %+v, %+v", first, res)
		}
	}
	empty := newUsers(t, "", 8)
	if res := empty.Verify(r); res.Outcome != Refused || res.Reason != "the user is unknown" {
		t.Errorf("got %+v", res)
	}
}

// A user that nobody is called costs what some user costs, always the same one.
func TestBasicUnknownUserCosts(t *testing.T) {
	var file strings.Builder
	for i := range 50 {
		fmt.Fprintf(&file, "user%d:%s\n", i, bcryptUU)
	}
	b := newUsers(t, file.String(), 8)
	// With all turns taken, whoever must wait for one is unavailable, and
	// whoever needs none is answered: so it shows who would have been hashed.
	held := hashers
	hashers = newHasherSlots(1)
	defer func() { hashers = held }()
	hashers.take(0)
	for _, user := range []string{"user1", "nobody", "user99"} {
		r := requestOf(t, "/", credential(user, "x"))
		r.Until = r.Now
		if res := b.Verify(r); res.Outcome != Unavailable || res.Challenge != "" {
			t.Errorf("%s: expected to wait for a turn, got %+v", user, res)
		}
	}
	if c := b.Counts(); c["password_queue_full"] != 3 {
		t.Errorf("got %v", c)
	}
}

func TestBasicReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	alice, bob := "alice:"+cheap(t, "wonderland")+"\n", "bob:"+cheap(t, "the builder")+"\n"
	write(t, path, alice+bob)
	a, log := started(t, func(env Env) (Authenticator, error) {
		return newBasic("staff", &BasicConfig{File: path, Remember: 16}, env)
	})
	asAlice, asBob := requestOf(t, "/", credential("alice", "wonderland")), requestOf(t, "/", credential("bob", "the builder"))
	f := func(r *Request, recall, verify Outcome) {
		t.Helper()
		if res := a.Recall(r); res.Outcome != recall {
			t.Errorf("Recall: expected %d, got %+v", recall, res)
		}
		if res := a.Verify(r); res.Outcome != verify {
			t.Errorf("Verify: expected %d, got %+v", verify, res)
		}
	}
	const inUse = "file in use"
	f(asAlice, Unknown, Identified)
	f(asBob, Unknown, Identified)
	f(asAlice, Identified, Identified)

	write(t, path, "# a comment\n"+alice+bob)
	log.wait(t, inUse)
	f(asAlice, Identified, Identified)

	write(t, path, "alice:"+cheap(t, "another one")+"\n"+bob)
	log.wait(t, inUse)
	f(asAlice, Unknown, Refused)
	f(asBob, Identified, Identified)

	write(t, path, alice+"bob:plain\n")
	log.wait(t, "file refused")
	f(asAlice, Unknown, Refused)
	f(asBob, Identified, Identified)

	write(t, path, alice)
	log.wait(t, inUse)
	f(asAlice, Unknown, Identified)
	f(asBob, Unknown, Refused)
}

// Many at once, with reloads between: nobody is taken for another, and the race
// detector has something to look at.
func TestBasicAtOnce(t *testing.T) {
	one, two := "alice:"+cheap(t, "password1")+"\n", "alice:"+cheap(t, "password2")+"\n"
	b := newUsers(t, one, 16)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 20 {
				r := requestOf(t, "/", credential("alice", []string{"password1", "password2", "password3"}[i%3]))
				res := b.Recall(r)
				if res.Outcome == Unknown {
					res = b.Verify(r)
				}
				if i%3 == 2 && res.Outcome == Identified || res.Outcome == Identified && res.Identity.Subject != "alice" {
					t.Errorf("got %+v", res)
				}
			}
		})
	}
	for i := range 50 {
		if err := b.use([]byte([]string{one, two}[i%2])); err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
}

func TestBasicConfigMistakes(t *testing.T) {
	f := func(c BasicConfig, want string) {
		t.Helper()
		p := &setting.Problems{}
		c.Validate(p)
		if list := p.List(); len(list) != 1 || !strings.HasPrefix(list[0].Path+": "+list[0].Expected, want) {
			t.Errorf("expected %q, got %v", want, list)
		}
	}
	f(BasicConfig{}, "file: expected a file with lines USER:HASH")
	f(BasicConfig{File: "h", Realm: "a\nb"}, "realm: expected printable ASCII")
	f(BasicConfig{File: "h", Realm: strings.Repeat("a", 257)}, "realm: expected at most 256 bytes")
	path := filepath.Join(t.TempDir(), "h")
	write(t, path, "alice:secret\n")
	if _, err := newBasic("n", &BasicConfig{File: path}, Env{}); err == nil || !strings.HasPrefix(err.Error(), "file: "+path+":1:7: expected a bcrypt hash") {
		t.Error(err)
	}
	a, err := newBasic("n", &BasicConfig{File: filepath.Join(t.TempDir(), "none"), Realm: `the "realm"`}, Env{})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(a, err)
	}
}

func FuzzBasic(f *testing.F) {
	f.Add([]byte("YTpi"))
	f.Add([]byte("YTpi\nYQ=="))
	f.Fuzz(func(t *testing.T, text []byte) {
		user, password, why := parseBasic(text)
		if why != "" {
			return
		}
		if again := base64.StdEncoding.EncodeToString([]byte(string(user) + ":" + string(password))); again != string(text) {
			t.Errorf("%q has the form %q too", text, again)
		}
		if len(user) == 0 || strings.Contains(string(user), ":") || !isText(user) || !isText(password) {
			t.Errorf("taken: %q %q", user, password)
		}
	})
}
