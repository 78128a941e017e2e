package cache

import (
	"reflect"
	"testing"
	"time"
)

func TestParseControl(t *testing.T) {
	f := func(in string, want func(*Control)) {
		t.Helper()
		var w Control
		w.reset()
		w.Present = true
		want(&w)
		got := ParseControl([]byte(in))
		lists := got.fieldLists
		got.fields, got.fieldLists = w.fields, w.fieldLists
		if !reflect.DeepEqual(got, w) {
			t.Errorf("%q:\n got %+v\nwant %+v", in, got, w)
		}
		if lists > len(got.fields) {
			t.Errorf("%q: %d lists", in, lists)
		}
	}
	age := func(n int64) func(*Control) { return func(c *Control) { c.MaxAge = n } }
	flags := func(fl Flag) func(*Control) { return func(c *Control) { c.Flags = fl } }
	f("", func(*Control) {})
	f(" , ,", func(*Control) {})
	f("max-age=60", age(60))
	f("MAX-AGE=60", age(60))
	f(`max-age="60"`, age(60))
	f("max-age=060", age(60))
	f("max-age='60'", age(0))
	f("max-age=-1", age(0))
	f("max-age=1.5", age(0))
	f("max-age=", age(0))
	f("max-age", age(0))
	f(`max-age=""`, age(0))
	f("max-age= 60", age(0))
	f("max-age =60", age(0))
	f("max-age=60 s", age(0))
	f("max-age=5, max-age=60", age(5))
	f("max-age=x, max-age=60", age(0))
	f("max-age=4294967296", age(maxDelta))
	f(`a="max-age=1", max-age=60`, age(60))
	f(`a="x\",max-age=1", max-age=60`, age(60))
	f("a=b, max-age=60 ", age(60))
	f("a=b; max-age=60", func(*Control) {})
	f("no-store", flags(FlagNoStore))
	f("no-store=\"\"", flags(FlagNoStore))
	f("public, immutable, must-understand", flags(FlagPublic|FlagImmutable|FlagMustUnderstand))
	f("public=1, immutable=1, must-understand=1", flags(0))
	f("must-revalidate, proxy-revalidate, no-transform, only-if-cached", flags(FlagMustRevalidate|FlagProxyRevalidate|FlagNoTransform|FlagOnlyIfCached))
	f("max-stale", flags(FlagMaxStaleAny))
	f("max-stale=5, min-fresh=6", func(c *Control) { c.MaxStale, c.MinFresh = 5, 6 })
	f("max-stale=x, min-fresh=x", func(c *Control) { c.MinFresh = maxDelta })
	f("s-maxage=5, stale-while-revalidate=6, stale-if-error=7", func(c *Control) { c.SMaxAge, c.SWR, c.SIE = 5, 6, 7 })
	f("stale-while-revalidate=x, stale-if-error", func(*Control) {})
	f("private, no-cache", flags(FlagPrivate|FlagNoCache))
	f(`private="a, b", no-cache=c`, func(*Control) {})
	f(`private="", no-cache="a b"`, flags(FlagPrivate|FlagNoCache))
	f(`private=a, private=b, private=c, private=d, private=e`, flags(FlagPrivate))
	f(`a="b`, flags(FlagMalformed))
	f(`a="b" c, max-age=60`, func(c *Control) { c.Flags, c.MaxAge = FlagMalformed, 60 })
	f(`"a", no-store`, flags(FlagMalformed|FlagNoStore))
	f("public max-age=60", flags(FlagMalformed))
	f("=5", flags(FlagMalformed))
}

func TestExcludes(t *testing.T) {
	c := ParseControl([]byte(`private="X-A, x-b", no-cache=Set-Token`))
	for name, want := range map[string]bool{"x-a": true, "X-B": true, "set-token": true, "x-": false, "X-A, x-b": false} {
		if got := c.excludes([]byte(name)); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	for _, s := range []string{"max-age=60", `a="b\"", private="x"`, "a=,=\"", "public max"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := ParseControl(b)
		for _, n := range []int64{c.MaxAge, c.SMaxAge, c.MinFresh, c.MaxStale, c.SWR, c.SIE} {
			if n < none || n > maxDelta {
				t.Fatalf("%q: %+v", b, c)
			}
		}
		// One more directive in front never takes a restriction away.
		more := ParseControl(append([]byte("x-other=1,"), b...))
		if c.Flags&^more.Flags != 0 {
			t.Fatalf("%q: %b, then %b", b, c.Flags, more.Flags)
		}
	})
}

func FuzzTargeted(f *testing.F) {
	f.Add("max-age=60;a, private=\"x\"")
	f.Add("no-cache=(a b), max-age=?0")
	f.Fuzz(func(t *testing.T, s string) {
		var c Control
		if c.readTargeted([]string{s}) && (c.MaxAge < none || c.MaxAge > maxDelta) {
			t.Fatalf("%q: %+v", s, c)
		}
	})
}

func TestParseDate(t *testing.T) {
	f := func(in string, want string) {
		t.Helper()
		got, ok := parseDate([]byte(in), start/second)
		if want == "" {
			if ok {
				t.Errorf("%q is no date, got %d", in, got)
			}
			return
		}
		w, err := time.Parse(time.RFC3339, want)
		if err != nil {
			t.Fatal(err)
		}
		if !ok || got != w.Unix() {
			t.Errorf("%q: %d %v, want %d", in, got, ok, w.Unix())
		}
	}
	const same = "1994-11-06T08:49:37Z"
	f("Sun, 06 Nov 1994 08:49:37 GMT", same)
	f("Sunday, 06-Nov-94 08:49:37 GMT", same)
	f("Sun Nov  6 08:49:37 1994", same)
	f("SUN, 06 NOV 1994 08:49:37 gmt", same)
	f("sunday, 06-nov-94 08:49:37 gmt", same)
	f("Sun, 06-Nov-1994 08:49:37 GMT", "")
	f("Friday, 18-Aug-50 02:01:18 GMT", "2050-08-18T02:01:18Z")
	f("Friday, 18-Aug-76 02:01:18 GMT", "2076-08-18T02:01:18Z")
	f("Friday, 18-Aug-77 02:01:18 GMT", "1977-08-18T02:01:18Z")
	f("Mon, 29 Feb 2000 00:00:00 GMT", "2000-02-29T00:00:00Z")
	f("Sat, 31 Dec 9999 23:59:59 GMT", "9999-12-31T23:59:59Z")
	f("Mon, 01 Jan 0001 00:00:00 GMT", "0001-01-01T00:00:00Z")
	f("Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00Z")
	for _, bad := range []string{
		"", "0", "-1", "Sun, 06 Nov 1994 08:49:37 PST", "Sun, 06 Nov 1994 08:49:37", "Sun, 6 Nov 1994 08:49:37 GMT",
		"Sun, 06 Nov 94 08:49:37 GMT", "Xxx, 06 Nov 1994 08:49:37 GMT", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 29 Feb 1900 08:49:37 GMT",
		"Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 06 Nov 1994 8:49:37 GMT", "Sun,  06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z",
		"Sun Nov 06 08:49:37 1994 GMT", "Sun, 06 Nov 1994 08-49-37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 0000 08:49:37 GMT",
	} {
		f(bad, "")
	}
}

func TestAppendDate(t *testing.T) {
	for at := int64(-62135596800); at < 253402300799; at += 86400*97 + 3671 {
		want := time.Unix(at, 0).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
		got := appendDate(nil, at)
		if string(got) != want {
			t.Fatalf("%d: %s, want %s", at, got, want)
		}
		if back, ok := parseDate(got, 0); !ok || back != at {
			t.Fatalf("%s: %d, want %d", got, back, at)
		}
	}
}

func FuzzParseDate(f *testing.F) {
	for _, s := range []string{"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"} {
		f.Add([]byte(s), int64(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, now int64) {
		if now < 0 || now > 1<<33 {
			return
		}
		if at, ok := parseDate(b, now); ok && (at < -62135596801 || at > 253402300800) {
			t.Fatalf("%q: %d", b, at)
		}
	})
}
