package document

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

const caller = `{"user":{"id":12345678901234567890,"name":"Ann \"é\" / ?","tags":["x", 1],"none":null,"ok":true},"a b":[7],"dots":"..","dot":".","empty":"","line":"a\nb","pct":"%2e"}`

func lookupIn(doc string) func(Path) ([]byte, bool) {
	return func(p Path) ([]byte, bool) { return p.Get([]byte(doc)) }
}

func TestTemplate(t *testing.T) {
	for _, c := range []struct {
		mode       Mode
		text, want string
	}{
		{Raw, "", ""},
		{Raw, "plain", "plain"},
		{Raw, "{{x}} {user.id}{user.ok}", "{x} 12345678901234567890true"},
		{Raw, `{"a b"[0]} {user.tags} {user.none} {user.name}`, `7 ["x", 1] null Ann "é" / ?`},
		{Raw, "{$}", caller},
		{URL, "/users/{user.id}?n={user.name}&t={user.tags}", "/users/12345678901234567890?n=Ann%20%22%C3%A9%22%20%2F%20%3F&t=%5B%22x%22%2C%201%5D"},
		{URL, "/a/{user.name}/b", "/a/Ann%20%22%C3%A9%22%20%2F%20%3F/b"},
		{URL, "/a/x{dots}", "/a/x.."},
		{URL, "/a?b={dots}&c={empty}", "/a?b=..&c="},
		{URL, "{dots}", ".."},
		{URL, "/{pct}/{pct}", "/%252e/%252e"},
		{Header, "Bearer {user.name}", `Bearer Ann "é" / ?`},
		{BodyJSON, `{"id": {user.id}, "text": "Dear {user.name}, {user.id} {user.tags}", "all":[{user},{"x":{}}, {"y":1}], "b":"{{}} \" {user.ok}"}`,
			`{"id": 12345678901234567890, "text": "Dear Ann \"é\" / ?, 12345678901234567890 [\"x\", 1]", "all":[{"id":12345678901234567890,"name":"Ann \"é\" / ?","tags":["x", 1],"none":null,"ok":true},{"x":{}}, {"y":1}], "b":"{} \" true"}`},
		{BodyJSON, `{$."a b"}`, `[7]`},
		{BodyJSON, `{ "{user.id}" : 1 }`, `{ "12345678901234567890" : 1 }`},
	} {
		tpl, err := ParseTemplate(c.text, c.mode)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		got, err := tpl.Append([]byte("before"), lookupIn(caller))
		if err != nil || string(got) != "before"+c.want {
			t.Errorf("%q: %s, %v; want %s", c.text, got, err, c.want)
		}
		if c.mode == BodyJSON {
			if err := Check(got[6:], Limits{}, false); err != nil {
				t.Errorf("%q: %v", c.text, err)
			}
		}
	}
}

func TestTemplateReferences(t *testing.T) {
	tpl, err := ParseTemplate(`/{users[0].id}/{"a.b".c}/{users.n}/{[0]}/{$}`, Raw)
	if got := tpl.References(); err != nil || !slices.Equal(got, []string{"users", "a.b", ""}) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTemplateRefused(t *testing.T) {
	for _, c := range []struct {
		mode       Mode
		text, want string
	}{
		{Raw, "{a", `expected } for the { at byte 0 of template "{a"`},
		{Raw, `{"a}`, "expected } for the {"},
		{Raw, "a}", "expected }} for a brace at byte 1"},
		{Raw, "{}", "expected a path between the braces"},
		{Raw, "{a..b}", "expected a name"},
		{Raw, "{a.*}", "expected a path without *"},
		{Raw, "\xff", "UTF-8"},
		{Raw, strings.Repeat("x", 70<<10), "at most 65536 bytes"},
		{Raw, strings.Repeat("{a}", 1001), "at most 1000 texts and paths"},
		{URL, "/a b", "without white space"},
		{Header, "a\nb", "without control characters"},
		{BodyJSON, `{"a":}`, "expected a template that becomes JSON"},
		{BodyJSON, `{"a": 1{b}}`, "expected a template that becomes JSON"},
		{BodyJSON, `{"a": {b}{c}}`, "expected a template that becomes JSON"},
		{BodyJSON, `{ {a}: 1}`, "expected a template that becomes JSON"},
		{BodyJSON, `"{a`, "expected } for the {"},
		{BodyJSON, `"a`, "expected a template that becomes JSON"},
		{BodyJSON, ``, "expected a template that becomes JSON"},
	} {
		_, err := ParseTemplate(c.text, c.mode)
		wantError(t, err, c.want)
	}
	for _, c := range []struct {
		mode       Mode
		text, want string
	}{
		{Raw, "{user.nothing}", "expected a value for {user.nothing}, got none"},
		{URL, "/a/{dots}/b", "no segment . or .."},
		{URL, "/a/{dot}", "no segment . or .."},
		{URL, "/a/.{dot}?x", "no segment . or .."},
		{URL, "/a/{empty}", "expected a value for {empty} that is not empty"},
		{Header, "{line}", "without control characters"},
	} {
		tpl, err := ParseTemplate(c.text, c.mode)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		got, err := tpl.Append([]byte("kept"), lookupIn(caller))
		wantError(t, err, c.want)
		if string(got) != "kept" {
			t.Errorf("%q: %s", c.text, got)
		}
	}
	tpl, _ := ParseTemplate("{user.nothing}", Raw)
	_, err := tpl.Append(nil, lookupIn(caller))
	var m *Missing
	if !errors.As(err, &m) || m.Path.String() != "user.nothing" {
		t.Errorf("%#v", err)
	}
}
