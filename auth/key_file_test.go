package auth

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"sluice/limiter"
)

var (
	hashA = keyHash([]byte("the first key of all"))
	hashB = keyHash([]byte("the second key of all"))
)

func TestParseKeys(t *testing.T) {
	text := "\ufeff---\n# partners\n" +
		"- name: acme\r\n  hash: " + hashA + "\n  scopes: [read, write]\n  metadata: { plan: gold, seats: 5, share: 0.5, beta: true, code: 007, list: [a, 1] }\n" +
		"  limits: { per_key: 100/s }\n  expires: 2027-01-31\n" +
		"- { hash: '" + hashB + "', name: \"b: c\", scopes: read, expires: 2027-01-31T12:00:00+02:00, disabled: true }\n"
	got, err := parseKeys("k", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := parseHash(hashA)
	b, _ := parseHash(hashB)
	want := []keyEntry{
		{name: "acme", hash: a, scopes: []string{"read", "write"},
			metadata: map[string]any{"plan": "gold", "seats": int64(5), "share": 0.5, "beta": true, "code": "007", "list": []any{"a", int64(1)}},
			limits:   map[string]string{"per_key": "100/s"}, expires: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC), line: 3},
		{name: "b: c", hash: b, scopes: []string{"read"}, expires: time.Date(2027, 1, 31, 10, 0, 0, 0, time.UTC), disabled: true, line: 9},
	}
	for i := range got {
		got[i].expires = got[i].expires.UTC()
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	for _, empty := range []string{"", "\n", "# nothing yet\n", "---\n", "[]"} {
		if got, err := parseKeys("k", []byte(empty)); err != nil || len(got) != 0 {
			t.Errorf("%q: expected no keys, got %v, %v", empty, got, err)
		}
	}
}

func TestParseKeysMistakes(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		_, err := parseKeys("k", []byte(text))
		var m *fileMistakes
		if !errors.As(err, &m) {
			t.Errorf("%q: expected mistakes, got %v", text, err)
			return
		}
		lines := strings.Split(err.Error(), "\n")
		good := len(lines) == len(want)
		for i := 0; good && i < len(want); i++ {
			good = strings.HasPrefix(lines[i], want[i])
		}
		if !good {
			t.Errorf("%.200q: expected\n\t%s\ngot\n\t%s", text, strings.Join(want, "\n\t"), strings.Join(lines, "\n\t"))
		}
	}
	entry := "- name: a\n  hash: " + hashA + "\n"
	f("name: a\n", "k:1:1: expected a list of keys")
	f("- a\n", "k:1:3: [0]: expected a mapping such as")
	f("-\n", "k:1:3: [0]: expected a mapping such as")
	f("- {}\n", "k:1:3: [0]: expected the key name, got none", "k:1:3: [0]: expected the key hash, got none")
	f("- name: a\n", "k:1:3: [0]: expected the key hash, got none")
	f("- nam: a\n  hash: "+hashA+"\n", `k:1:3: [0]: unknown key nam; did you mean "name"?`)
	f(entry+"  colour: red\n", `k:3:3: [0]: unknown key colour; expected one of name, hash, `)
	f(entry+"  hash: "+hashB+"\n", `k:3:3: [0]: expected each key once, got hash also in line 2`)
	f("- name: a\n  hash: "+newKey()+"\n", "k:2:9: [0].hash: expected sha256: and 64 hex digits, got a key itself")
	f("- name: a\n  hash: 12\n- name: a\n  hash: "+hashA, "k:2:9: [0].hash: expected sha256:", `k:3:9: [1].name: expected a name of its own, got "a", which is also that of line 1`)
	f(entry+"- name: b\n  hash: "+strings.ToUpper(hashA[:7])+hashA[7:]+"\n", "k:4:9: [1].hash: expected sha256:")
	f(entry+"- name: b\n  hash: "+hashA+"\n", "k:4:9: [1].hash: expected each key once, got the key of line 2 again")
	f("- name: ''\n  hash: "+hashA+"\n", "k:1:9: [0].name: expected a name")
	f("- name: [a]\n  hash: "+hashA+"\n", "k:1:9: [0].name: expected a name of 1 to 128 bytes without control characters, got a list")
	f("- name: \"a\\nb\"\n  hash: "+hashA+"\n", "k:1:9: [0].name: expected a name")
	f(entry+"  scopes: { a: b }\n", "k:3:11: [0].scopes: expected a list of at most 256 scopes")
	f(entry+"  scopes: [a, 'b c']\n", "k:3:15: [0].scopes[1]: expected a scope without blanks")
	f(entry+"  metadata: x\n", "k:3:13: [0].metadata: expected a mapping of at most 128 claims, got a text")
	f(entry+"  metadata: { sub: x, limits.a: 3 }\n", "k:3:15: [0].metadata.sub: expected a claim other than sub,", "k:3:23: [0].metadata.limits.a: expected a claim other than sub,")
	f(entry+"  metadata: { a: { b: c } }\n", "k:3:18: [0].metadata.a: expected a text of one line")
	f(entry+"  metadata: { a: ~ }\n", "k:3:18: [0].metadata.a: expected a text of one line")
	f(entry+"  limits: { a: 10 }\n", "k:3:16: [0].limits.a: expected a rate such as 100/s")
	f(entry+"  expires: soon\n", "k:3:12: [0].expires: expected a date such as 2027-01-31")
	f(entry+"  expires: 2027-02-30\n", "k:3:12: [0].expires: expected a date such as 2027-01-31")
	f(entry+"  disabled: yes\n", "k:3:13: [0].disabled: expected true or false, got a text")
	f("- &a\n  name: a\n", "k:1:3: [0]: expected a mapping such as { name: acme, hash: \"sha256:...\" }, got an anchor, alias or tag")
	f("- !!map {}\n", "k:1:3: [0]: expected a mapping such as")
	f("- name: [\n", "k:1:9: expected YAML: ")
	f("a: b\n- c\n", "k:")
	f("\x00", "k:1:1: expected UTF-8 text")
	f("- name: a\xff\n", "k:1:10: expected UTF-8 text")
	f("- name: a\n---\n- name: b\n", "k:3:1: expected one YAML document")
	f(entry+strings.Repeat("\n", 200)+"- 1\n", "k:103:1: expected at most 100 blank lines in a row")
	f("- metadata: {"+strings.Repeat("a: b, ", 1000)+"}\n", "k:1:")
	f(strings.Repeat("a:\n", 3000), "k:1001:1: expected a list with a dash before each key")
	f(strings.Repeat("- ", 3000), "k:1:")
	f(strings.Repeat("[", 3000), "k:1:")
}

// What may be a key that stands in a wrong place is never repeated.
func TestMistakesKeepSecrets(t *testing.T) {
	key := newKey()
	for _, text := range []string{
		key, "- " + key, "- " + key + ": acme", key + ": acme", "- name: a\n  hash: " + key, "- name: " + key + "\n  hash: " + hashA,
		"- name: a\n  hash: " + hashA + "\n  metadata:\n    " + key + ": {}", "- name: a\n  hash: " + hashA + "\n  limits: { " + key + ": 1 }",
		"- name: a\n  hash: " + hashA + "\n  disabled: " + key, "- name: a\n  hash: " + hashA + "\n  expires: " + key,
		"- name: a\n  hash: " + hashA + "\n  scopes: [{ " + key + ": 1 }]", "- *" + key, "- &" + key, "- !" + key + " a", "- name: a\n   " + key + " : b\n  x: [" + key,
		"- name: 'a\n  hash: " + key, "%" + key + "\n- a",
	} {
		_, err := parseKeys("k", []byte(text))
		if err == nil {
			t.Errorf("%q: expected a mistake", text)
		} else if strings.Contains(err.Error(), key[:20]) {
			t.Errorf("%q: the mistake repeats the key: %v", text, err)
		}
	}
}

// Packages auth and limiter do not know each other and must read rates alike.
func TestRatesAsLimiterReadsThem(t *testing.T) {
	for _, s := range []string{"1/s", "100/s", "1000000/s", "1000001/s", "60000000/m", "60000001/m", "10/h", "1000/d", "86400000000/d", "86400000001/d",
		"", "/", "1/", "/s", "0/s", "01/s", "-1/s", "+1/s", "1.5/s", "1/S", "1/y", "1 /s", "1/s ", "99999999999999999999/s", "1/s/s"} {
		_, err := limiter.ParseRate(s)
		if got := isRate(s); got != (err == nil) {
			t.Errorf("isRate(%q) = %v, package limiter says %v", s, got, err)
		}
	}
}

func TestManyKeys(t *testing.T) {
	var b strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&b, "- { name: key%d, hash: \"%s\" }\n", i, keyHash(fmt.Appendf(nil, "key number %d of many", i)))
	}
	if keys, err := parseKeys("k", []byte(b.String())); err != nil || len(keys) != 2000 {
		t.Errorf("expected 2000 keys, got %d, %v", len(keys), err)
	}
}

func BenchmarkParseKeys(b *testing.B) {
	var s strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&s, "- name: key%d\n  hash: %s\n  scopes: [read, write]\n", i, keyHash(fmt.Appendf(nil, "key number %d of many", i)))
	}
	for b.Loop() {
		if _, err := parseKeys("k", []byte(s.String())); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add("- name: a\n  hash: " + hashA + "\n  scopes: [a]\n  metadata: { a: [1, b] }\n  limits: { a: 1/s }\n  expires: 2027-01-31\n")
	f.Add("- { name: a, hash: " + hashA + ", disabled: true }\n")
	f.Add("- - - - ? a\n: [{")
	f.Add("- &a *a\n- |\n  x\n- !!x >-\n")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := parseKeys("k", []byte(text))
		if err != nil {
			var m *fileMistakes
			if !errors.As(err, &m) || keys != nil {
				t.Errorf("expected mistakes and no keys, got %v, %v", keys, err)
			}
			return
		}
		for _, k := range keys {
			if checkName(k.name) != nil || k.hash == ([32]byte{}) {
				t.Errorf("a key without name or hash: %+v", k)
			}
		}
	})
}
