package transform

import (
	"strings"
	"testing"
	"time"

	"sluice/setting"
)

// testValue renders a template as its text in brackets.
func testValue(template string, dst []byte) []byte {
	return append(append(append(dst, '['), template...), ']')
}

func TestQuery(t *testing.T) {
	for name, c := range map[string]struct {
		config QueryConfig
		query  string
		want   string
	}{
		"nothing":      {QueryConfig{}, "b=%2f&a=+&c&=d&b=1", "?b=%2f&a=+&c&=d&b=1"},
		"none":         {QueryConfig{}, "", ""},
		"keep":         {QueryConfig{Keep: []string{"a"}}, "b=1&a=%41&c&%61=2", "?a=%41&%61=2"},
		"keep nothing": {QueryConfig{Keep: []string{"z"}}, "b=1&a", ""},
		"remove":       {QueryConfig{Remove: []string{"admin", "a b"}}, "%61dmin=1&x=1&admin&a+b=1&a%20b=2&Admin=1", "?x=1&Admin=1"},
		"remove odd":   {QueryConfig{Remove: []string{"a"}}, "a%=1&a%4=2&%zz=3&a=4", "?a%=1&a%4=2&%zz=3"},
		"rename":       {QueryConfig{Rename: map[string]string{"a": "b c", "x": "y"}}, "a=%2F&x&z=1", "?b%20c=%2F&y&z=1"},
		"set":          {QueryConfig{Set: map[string]string{"a": "1&", "n": "é"}}, "x=1&a=2&y=3&a=4", "?x=1&a=%5B1%26%5D&y=3&n=%5B%C3%A9%5D"},
		"set alone":    {QueryConfig{Set: map[string]string{"a": "1"}}, "", "?a=%5B1%5D"},
		"rename, set":  {QueryConfig{Rename: map[string]string{"a": "b"}, Set: map[string]string{"b": "x"}}, "a=1&b=2", "?b=%5Bx%5D"},
		"add":          {QueryConfig{Add: map[string]string{"b": "", "a": "x"}}, "a=1", "?a=1&a=%5Bx%5D&b=%5B%5D"},
		"all":          {QueryConfig{Keep: []string{"a", "b"}, Rename: map[string]string{"a": "c"}, Set: map[string]string{"b": "1"}, Add: map[string]string{"d": "2"}}, "a=9&x=1&b=0", "?c=9&b=%5B1%5D&d=%5B2%5D"},
		"long":         {QueryConfig{Remove: []string{strings.Repeat("a", mostName)}}, strings.Repeat("a", mostName+1) + "=1&" + strings.Repeat("%61", mostName) + "=2", "?" + strings.Repeat("a", mostName+1) + "=1"},
		"empty pairs":  {QueryConfig{Remove: []string{"x"}}, "&&a=1&x=1&&b", "?&&a=1&&b"},
	} {
		q, err := NewQuery(&c.config)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(q.Append([]byte("/p"), []byte(c.query), testValue)); got != "/p"+c.want {
			t.Errorf("%s: got %q, want %q", name, got, "/p"+c.want)
		}
	}
	if q, _ := NewQuery(&QueryConfig{}); !q.None() {
		t.Error("an empty configuration has something to do")
	}
	if _, err := NewQuery(&QueryConfig{Keep: []string{""}}); err == nil {
		t.Error("a mistake was taken")
	}
}

func TestCookies(t *testing.T) {
	for name, c := range map[string]struct {
		config CookieConfig
		line   string
		want   string
	}{
		"nothing": {CookieConfig{}, `a=1; b="x y";c ;; d=e=f`, `a=1; b="x y"; c; d=e=f`},
		"none":    {CookieConfig{}, ``, ``},
		"keep":    {CookieConfig{Keep: []string{"b"}}, `a=1; b=2; B=3`, `b=2`},
		"remove":  {CookieConfig{Remove: []string{"a", "c"}}, `a=1;b=2; a =3; c`, `b=2`},
		"rename":  {CookieConfig{Rename: map[string]string{"a": "z"}}, `a=1; b=2; a`, `z=1; b=2; z`},
		"set":     {CookieConfig{Set: map[string]string{"a": "1; x", "n": "é"}}, `b=1; a=1; a=2`, `b=1; a=[1%3B%20x]; n=[%C3%A9]`},
		"alone":   {CookieConfig{Set: map[string]string{"a": ""}}, ``, `a=[]`},
	} {
		k, err := NewCookies(&c.config)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(k.Append([]byte("Cookie: "), []byte(c.line), testValue)); got != "Cookie: "+c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if k, _ := NewCookies(&CookieConfig{}); !k.None() {
		t.Error("an empty configuration has something to do")
	}
}

func TestSetCookie(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	age := func(d time.Duration) *setting.Duration { s := setting.Duration(d); return &s }
	strict := SetCookieConfig{Secure: "on", HTTPOnly: "on", SameSite: "strict"}
	hour := SetCookieConfig{MaxAge: age(time.Hour)}
	for name, c := range map[string]struct {
		config SetCookieConfig
		line   string
		want   string // "-": left out
	}{
		"nothing":      {SetCookieConfig{}, `a="1"; Path=/ ;Foo; x=y`, `a="1"; Path=/; Foo; x=y`},
		"keep":         {SetCookieConfig{Keep: []string{"b"}}, `a=1`, `-`},
		"kept":         {SetCookieConfig{Keep: []string{"a"}}, `a=1`, `a=1`},
		"remove":       {SetCookieConfig{Remove: []string{"a"}}, `a=1; Path=/`, `-`},
		"rename":       {SetCookieConfig{Rename: map[string]string{"a": "b"}}, `a=1=2; Path=/`, `b=1=2; Path=/`},
		"on":           {strict, `a=1; samesite=None; SECURE; Path=/`, `a=1; Path=/; Secure; HttpOnly; SameSite=Strict`},
		"off":          {SetCookieConfig{Secure: "off", HTTPOnly: "off"}, `a=1; Secure;HttpOnly; Path=/`, `a=1; Path=/`},
		"only":         {SetCookieConfig{Only: []string{"b"}, Secure: "on"}, `a=1; Path=/`, `a=1; Path=/`},
		"only renamed": {SetCookieConfig{Only: []string{"b"}, Rename: map[string]string{"a": "b"}, Secure: "on"}, `a=1`, `b=1; Secure`},
		"places":       {SetCookieConfig{Domain: "example.com", Path: "/api"}, `a=1; domain=x.y; Path=/; Secure`, `a=1; Secure; Domain=example.com; Path=/api`},
		"no places":    {SetCookieConfig{Domain: "none", Path: "none"}, `a=1; Domain=x.y; Path=/; Secure`, `a=1; Secure`},
		"host":         {SetCookieConfig{Domain: "example.com", Path: "/api", Secure: "off"}, `__Host-a=1; Path=/; Secure`, `__Host-a=1; Path=/; Secure`},
		"host on":      {strict, `__host-a=1; Path=/; Secure`, `__host-a=1; Path=/; Secure; HttpOnly; SameSite=Strict`},
		"secure":       {SetCookieConfig{Path: "/x", Secure: "off"}, `__Secure-a=1; Secure`, `__Secure-a=1; Secure; Path=/x`},
		"age":          {hour, `a=1; Expires=Wed, 21 Oct 2099 07:28:00 GMT; Max-Age=9`, `a=1; Max-Age=3600`},
		"session":      {SetCookieConfig{MaxAge: age(0)}, `a=1; Max-Age=9`, `a=1`},
		"age added":    {hour, `a=1`, `a=1; Max-Age=3600`},
		"deleted":      {hour, `a=; Max-Age=0; Path=/`, `a=; Max-Age=0; Path=/`},
		"deleted -":    {hour, `a=; max-age=-99999999999999999999`, `a=; max-age=-99999999999999999999`},
		"deleted past": {hour, `a=; expires=Thu, 01 Jan 1970 00:00:00 GMT`, `a=; expires=Thu, 01 Jan 1970 00:00:00 GMT`},
		"deleted dash": {hour, `a=; Expires=Thu, 01-Jan-1970 00:00:00 GMT`, `a=; Expires=Thu, 01-Jan-1970 00:00:00 GMT`},
		"deleted 2":    {hour, `a=; Expires=Thu, 01-Jan-70 00:00:00 GMT`, `a=; Expires=Thu, 01-Jan-70 00:00:00 GMT`},
		"age wins":     {hour, `a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=5`, `a=1; Max-Age=3600`},
		"bad expires":  {hour, `a=1; Expires=soon`, `a=1; Max-Age=3600`},
	} {
		s, err := NewSetCookie(&c.config)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := s.Append([]byte("Set-Cookie: "), []byte(c.line), now)
		if c.want == "-" && (ok || string(got) != "Set-Cookie: ") || c.want != "-" && (!ok || string(got) != "Set-Cookie: "+c.want) {
			t.Errorf("%s: got %q, %v; want %q", name, got, ok, c.want)
		}
	}
}

func TestStatus(t *testing.T) {
	s, err := NewStatus(&StatusConfig{"404": 200, "5xx": 502, "503": 503, "204": 200, "3xx": 200, "2xx": 201})
	if err != nil {
		t.Fatal(err)
	}
	for status, want := range map[int]int{404: 200, 400: 400, 500: 502, 503: 503, 599: 502, 204: 200, 200: 201, 206: 206, 304: 304, 301: 200, 101: 101, 999: 999, -1: -1} {
		if got := s.Of(status); got != want {
			t.Errorf("%d: got %d, want %d", status, got, want)
		}
	}
	bad := StatusConfig{"404": 204, "100": 200, "206": 200, "304": 200, "1xx": 200, "abc": 200, "500": 600, "4xx": 304, "0404": 200}
	if got := testProblems(bad.Validate); len(got) != len(bad) {
		t.Errorf("got %d mistakes of %d: %q", len(got), len(bad), got)
	}
}
