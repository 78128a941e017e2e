package cache

import (
	"strings"
	"testing"
)

func TestNotModified(t *testing.T) {
	f := func(answer, ask string, want bool) {
		t.Helper()
		p := testPolicy()
		if got := NotModified(testAsk(t, p, ask), testEntry(t, p, answer), start); got != want {
			t.Errorf("%q, asked %q: %v", answer, ask, got)
		}
	}
	const head = "200 OK\nCache-Control: max-age=60\nDate: {+0}\n"
	f(head+`ETag: "a"`, `If-None-Match: "a"`, true)
	f(head+`ETag: "a"`, `If-None-Match: "b"`, false)
	f(head+`ETag: "a"`, `If-None-Match: "A"`, false)
	f(head+`ETag: "a"`, `If-None-Match: W/"a"`, true)
	f(head+`ETag: W/"a"`, `If-None-Match: "a"`, true)
	f(head+`ETag: W/"a"`, `If-None-Match: W/"a"`, true)
	f(head+`ETag: "a"`, `If-None-Match: "b" ,, "a"`, true)
	f(head+`ETag: "a,b"`, `If-None-Match: "x", "a,b"`, true)
	f(head+`ETag: "b"`, `If-None-Match: "a, "b"`, false)
	f(head+`ETag: "a"`, "If-None-Match: \"b\"\nIf-None-Match: \"a\"", true)
	f(head+`ETag: "a"`, `If-None-Match: *`, true)
	f(head, `If-None-Match: *`, true)
	f(head, `If-None-Match: "a"`, false)
	f(head+`ETag: "a"`, `If-None-Match: `, false)
	f(head+`ETag: a`, `If-None-Match: a`, true)
	f(head+`ETag: a`, `If-None-Match: "a"`, false)
	f(head+"ETag: \"a\"\nLast-Modified: {-60}", "If-None-Match: \"b\"\nIf-Modified-Since: {+0}", false)
	f(head+"Last-Modified: {-60}", "If-Modified-Since: {-60}", true)
	f(head+"Last-Modified: {-60}", "If-Modified-Since: {-59}", true)
	f(head+"Last-Modified: {-60}", "If-Modified-Since: {-61}", false)
	f(head+"Last-Modified: {-60}", "If-Modified-Since: yesterday", false)
	f(head+"Last-Modified: {-60}", "If-Modified-Since: {-60}\nIf-Modified-Since: {-60}", false)
	f(head, "If-Modified-Since: {+0}", true)
	f(head, "If-Modified-Since: {-1}", false)
	f("404 Not Found\nCache-Control: max-age=60\nETag: \"a\"", `If-None-Match: "a"`, false)
	f(head+`ETag: "a"`, "HEAD\n"+`If-None-Match: "a"`, true)
	f(head+`ETag: "a"`, "", false)
}

func TestAppendNotModified(t *testing.T) {
	f := func(answer, want string) {
		t.Helper()
		if got := string(AppendNotModified(nil, testEntry(t, testPolicy(), answer))); got != fill(want) {
			t.Errorf("got  %q\nwant %q", got, fill(want))
		}
	}
	f("200 OK\nDate: {+0}\nCache-Control: max-age=60\nETag: \"a\"\nLast-Modified: {-60}\nVary: Accept\nExpires: {+9}\nContent-Location: /x\nContent-Type: a/b\nContent-Encoding: br\nContent-Language: en\nX-A: 1",
		"Date: {+0}\nCache-Control: max-age=60\nETag: \"a\"\nVary: Accept\nExpires: {+9}\nContent-Location: /x\nX-A: 1\n")
	f("200 OK\nDate: {+0}\nCache-Control: max-age=60\nLast-Modified: {-60}", "Date: {+0}\nCache-Control: max-age=60\nLast-Modified: {-60}\n")
}

func TestAppendConditions(t *testing.T) {
	f := func(fields, want string) {
		t.Helper()
		if got := string(AppendConditions(nil, testEntry(t, testPolicy(), "200 OK\nCache-Control: max-age=60\n"+fields))); got != fill(want) {
			t.Errorf("got %q, want %q", got, fill(want))
		}
	}
	f("ETag: \"a\"\nLast-Modified: {-60}", "If-None-Match: \"a\"\nIf-Modified-Since: {-60}\n")
	f("ETag: W/\"a\"", "If-None-Match: W/\"a\"\n")
	f("Last-Modified: {-60}", "If-Modified-Since: {-60}\n")
	f("ETag: \"a\"\nETag: \"b\"", "")
	f("ETag: \"a", "")
	f("ETag: *", "")
	f("ETag: "+strings.Repeat("x", mostETag+1), "")
	f("X: y", "")
}

func TestFreshen(t *testing.T) {
	f := func(stored, answer, wantHead string, want Reason) *Entry {
		t.Helper()
		p := testPolicy()
		e, next, r := testEntry(t, p, stored), new(Entry), testAnswer(t, "304 Not Modified\n"+answer)
		before := string(e.Head)
		const later = start + 100*second
		got := p.Freshen(next, e, testAsk(t, p, ""), r.Fields, later, later)
		if got != want {
			t.Errorf("%q: %v, want %v", answer, got, want)
		}
		if string(e.Head) != before {
			t.Error("the stored entry changed")
		}
		if want != Partial && string(next.Head) != fill(wantHead) {
			t.Errorf("%q:\n got %q\nwant %q", answer, next.Head, fill(wantHead))
		}
		if want == OK && (next.Stored != later || next.Length != e.Length || next.Status != e.Status) {
			t.Errorf("%q: %+v", answer, next)
		}
		return next
	}
	const stored = "200 OK\nDate: {+0}\nCache-Control: max-age=60\nETag: \"a\"\nX-A: 1\nX-A: 2\nX-B: 1\nContent-Type: a/b\nContent-Encoding: br"
	const rest = "X-A: 1\nX-A: 2\nX-B: 1\nContent-Type: a/b\nContent-Encoding: br\n"
	next := f(stored, "Date: {+100}\nETag: \"a\"", "Cache-Control: max-age=60\n"+rest+"Date: {+100}\nETag: \"a\"\n", OK)
	if v := Decide(testAsk(t, testPolicy(), ""), next, start+159*second); v.Use != Fresh || v.Age != 59 {
		t.Errorf("freshened: %+v", v)
	}
	f(stored, "", "Cache-Control: max-age=60\nETag: \"a\"\n"+rest+"Date: {+100}\n", OK)
	// Every field of the 304 takes the stored one's place, but for what the body hangs on.
	f(stored, "Date: {+100}\nX-A: 3\nX-New: 1\nContent-Type: c/d\nCache-Control: max-age=5\nContent-Length: 9\nContent-Encoding: gzip\nContent-Range: bytes 0-1/2\nConnection: X-Hop\nX-Hop: 1\nAge: 3\nSet-Cookie: a=b",
		"ETag: \"a\"\nX-B: 1\nContent-Encoding: br\nDate: {+100}\nX-A: 3\nX-New: 1\nContent-Type: c/d\nCache-Control: max-age=5\n", OK)
	f(stored, "ETag: W/\"a\"\nDate: {+100}", "Cache-Control: max-age=60\n"+rest+"ETag: W/\"a\"\nDate: {+100}\n", OK)
	f(stored, "ETag: \"b\"", "", Partial)
	f("200 OK\nCache-Control: max-age=60\nLast-Modified: {-60}", "Last-Modified: {-30}", "", Partial)
	f("200 OK\nCache-Control: max-age=60\nLast-Modified: {-60}", "ETag: \"b\"", "", Partial)
	f("200 OK\nCache-Control: max-age=60\nLast-Modified: {-60}", "Last-Modified: {-60}\nDate: {+100}", "Cache-Control: max-age=60\nLast-Modified: {-60}\nDate: {+100}\n", OK)
	// Good for this one answer, and no longer kept.
	f(stored, "Date: {+100}\nCache-Control: no-store", "ETag: \"a\"\n"+rest+"Date: {+100}\nCache-Control: no-store\n", NoStore)
	f(stored, "Date: {+100}\nCache-Control: private", "ETag: \"a\"\n"+rest+"Date: {+100}\nCache-Control: private\n", Private)
	f(stored, "Date: {+100}\nVary: *", "Cache-Control: max-age=60\nETag: \"a\"\n"+rest+"Date: {+100}\nVary: *\n", VaryStar)
	if next = f(stored, "Date: {+100}\nVary: Accept", "Cache-Control: max-age=60\nETag: \"a\"\n"+rest+"Date: {+100}\nVary: Accept\n", OK); string(next.Vary) != "accept" {
		t.Errorf("vary %q", next.Vary)
	}
}

func TestFreshenHead(t *testing.T) {
	f := func(answer string, status int, want Reason) {
		t.Helper()
		p := testPolicy()
		e := testEntry(t, p, "200 OK\nCache-Control: max-age=60\nETag: \"a\"\nLast-Modified: {-60}")
		var next Entry
		if got := p.FreshenHead(&next, e, testAsk(t, p, "HEAD"), status, testAnswer(t, "200 OK\n"+answer).Fields, start, start); got != want {
			t.Errorf("%q: %v, want %v", answer, got, want)
		}
	}
	f("ETag: \"a\"\nLast-Modified: {-60}\nContent-Length: 1000", 200, OK)
	f("ETag: \"a\"", 200, OK)
	f("X: y", 200, OK)
	f("ETag: \"a\"\nContent-Length: 999", 200, Partial)
	f("ETag: \"b\"", 200, Partial)
	f("ETag: W/\"a\"", 200, Partial)
	f("Last-Modified: {-50}", 200, Partial)
	f("ETag: \"a\"", 404, StatusNot)
}

func FuzzFreshen(f *testing.F) {
	f.Add("X-A: 1\nETag: \"a\"", "X-A: 2\nVary: a")
	f.Fuzz(func(t *testing.T, stored, newer string) {
		p := testPolicy()
		r, ok := tryAnswer("200 OK\nCache-Control: max-age=60\n" + stored)
		n, ok2 := tryAnswer("304 Not Modified\n" + newer)
		if !ok || !ok2 {
			return
		}
		var e, next, back Entry
		a := testAsk(t, p, "")
		if p.Admit(&e, a, 200, r.Fields, start, start) != OK {
			return
		}
		p.Freshen(&next, &e, a, n.Fields, start+second, start+second)
		if !validHead(next.Head) {
			t.Fatalf("%q", next.Head)
		}
		if _, err := ParseEntry(AppendEntry(nil, &e), &back); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
	})
}

func FuzzListsTag(f *testing.F) {
	f.Add([]byte(`"a", W/"b"`), []byte(`"b"`))
	f.Fuzz(func(t *testing.T, list, tag []byte) {
		if validETag(tag) && !listsTag(append([]byte(`"x", `), tag...), tag) {
			t.Fatalf("%q is not found behind another", tag)
		}
		listsTag(list, tag)
	})
}

func TestParts(t *testing.T) {
	f := func(ranges string, length int64, want Part, spans ...Span) {
		t.Helper()
		p := testPolicy()
		e := testEntry(t, p, "200 OK\nCache-Control: max-age=60")
		e.Length = length
		var r Ranges
		got := Parts(&r, testAsk(t, p, "Range: "+ranges), e, start)
		if got != want || got != Whole && r.N != len(spans) {
			t.Fatalf("%q of %d: %v %v, want %v %v", ranges, length, got, r.Span[:r.N], want, spans)
		}
		for i, s := range spans {
			if r.Span[i] != s {
				t.Errorf("%q: %v, want %v", ranges, r.Span[:r.N], spans)
			}
		}
	}
	f("bytes=0-499", 1000, Single, Span{0, 499})
	f("Bytes=0-0", 1000, Single, Span{0, 0})
	f("bytes=500-", 1000, Single, Span{500, 999})
	f("bytes=-100", 1000, Single, Span{900, 999})
	f("bytes=-2000", 1000, Single, Span{0, 999})
	f("bytes=900-9999999999999999999999", 1000, Single, Span{900, 999})
	f("bytes=999-", 1000, Single, Span{999, 999})
	f("bytes=1000-", 1000, Unsatisfiable)
	f("bytes=-0", 1000, Unsatisfiable)
	f("bytes=1000-, -0", 1000, Unsatisfiable)
	f("bytes=0-", 0, Unsatisfiable)
	f("bytes=-5", 0, Whole)
	f("bytes=0-1, 3-4", 1000, Multiple, Span{0, 1}, Span{3, 4})
	f("bytes=3-4,, 0-1 ,", 1000, Multiple, Span{3, 4}, Span{0, 1})
	f("bytes=0-1, 2000-", 1000, Single, Span{0, 1})
	for _, ignored := range []string{
		"items=0-1", "bytes=5-2", "bytes=a-b", "bytes=", "bytes=,", "bytes", "bytes=1", "bytes=--1", "bytes=1-2-3", "bytes 0-1",
		"bytes=0-5, 5-9", "bytes=0-, 0-", "bytes=+1-2", "bytes=0-1, x", "bytes = 0-1", "bytes=" + strings.Repeat("0-0,", 200),
		"bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16,18-18,20-20,22-22,24-24,26-26,28-28,30-30,32-32",
	} {
		f(ignored, 1000, Whole)
	}
}

func TestIfRange(t *testing.T) {
	f := func(fields, ask string, want Part) {
		t.Helper()
		p := testPolicy()
		e := testEntry(t, p, "200 OK\nCache-Control: max-age=60\nDate: {+0}\n"+fields)
		var r Ranges
		if got := Parts(&r, testAsk(t, p, ask), e, start); got != want {
			t.Errorf("%q, asked %q: %v", fields, ask, got)
		}
	}
	f(`ETag: "a"`, "Range: bytes=0-1\nIf-Range: \"a\"", Single)
	f(`ETag: "a"`, "Range: bytes=0-1\nIf-Range: \"b\"", Whole)
	f(`ETag: W/"a"`, "Range: bytes=0-1\nIf-Range: W/\"a\"", Whole)
	f(`ETag: W/"a"`, "Range: bytes=0-1\nIf-Range: \"a\"", Whole)
	f("Last-Modified: {-60}", "Range: bytes=0-1\nIf-Range: {-60}", Single)
	f("Last-Modified: {-60}", "Range: bytes=0-1\nIf-Range: {-59}", Whole)
	f("Last-Modified: {+0}", "Range: bytes=0-1\nIf-Range: {+0}", Whole)
	f("X: y", "Range: bytes=0-1\nIf-Range: {+0}", Whole)
	f(`ETag: "a"`, "Range: bytes=0-1\nIf-Range: \"a\"\nIf-Range: \"a\"", Whole)
	f(`ETag: "a"`, "Range: bytes=0-1\nIf-Range:", Whole)
	f(`ETag: "a"`, "Range: bytes=0-1\nRange: bytes=0-1", Whole)
	f(`ETag: "a"`, "HEAD\nRange: bytes=0-1", Whole)
}

func TestMultipart(t *testing.T) {
	r := Ranges{N: 2}
	r.Span[0], r.Span[1] = Span{0, 1}, Span{3, 4}
	body, kind := "hello", []byte("text/plain")
	var out []byte
	for i, s := range r.Span[:r.N] {
		out = AppendPart(out, i == 0, "B", kind, s, 5)
		out = append(out, body[s.First:s.Last+1]...)
	}
	out = AppendPartsEnd(out, "B")
	want := "--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/5\r\n\r\nhe\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 3-4/5\r\n\r\nlo\r\n--B--\r\n"
	if string(out) != want || r.PartsLength("B", kind, 5) != int64(len(want)) {
		t.Errorf("got %q, %d bytes announced of %d", out, r.PartsLength("B", kind, 5), len(want))
	}
	if got := string(AppendUnsatisfied(nil, 5)); got != "Content-Range: bytes */5\r\n" {
		t.Errorf("%q", got)
	}
}

func FuzzRanges(f *testing.F) {
	f.Add([]byte("bytes=0-1,-5"), int64(10))
	f.Fuzz(func(t *testing.T, b []byte, length int64) {
		if length < 0 {
			return
		}
		var r Ranges
		switch part := r.parse(b, length); part {
		case Single, Multiple:
			for i, s := range r.Span[:r.N] {
				if s.First < 0 || s.Last < s.First || s.Last >= length {
					t.Fatalf("%q of %d: %v", b, length, s)
				}
				for _, o := range r.Span[:i] {
					if s.First <= o.Last && o.First <= s.Last {
						t.Fatalf("%q: %v and %v overlap", b, s, o)
					}
				}
			}
		}
	})
}

func TestEntryBytes(t *testing.T) {
	e := testEntry(t, testPolicy(), "200 OK\nCache-Control: max-age=60, stale-if-error=5\nETag: \"a\"\nVary: B, a\nLast-Modified: {-60}")
	e.Length = 7
	b := AppendEntry(nil, e)
	var back Entry
	n, err := ParseEntry(append(b, "body"...), &back)
	if err != nil || n != len(b) || string(AppendEntry(nil, &back)) != string(b) || string(back.Vary) != "a,b" || string(back.ETag) != `"a"` || back.SIE != 5*second {
		t.Errorf("%v %d: %+v", err, n, back)
	}
	if string(back.Field("etag")) != `"a"` || back.Field("x") != nil {
		t.Error("Field")
	}
	for i := range b {
		if _, err := ParseEntry(b[:i], &back); err == nil {
			t.Errorf("%d bytes of %d are an entry", i, len(b))
		}
	}
	for _, head := range []string{"A", "A: b", "A: b\n", "A b\r\n", ": b\r\n", "A: b\r\n\r\nx", "A: \x00\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Connection: close\r\n", "A: b\nC: d\r\n"} {
		bad := *e
		bad.Head = []byte(head)
		if _, err := ParseEntry(AppendEntry(nil, &bad), &back); err == nil {
			t.Errorf("head %q is taken", head)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	p := testPolicy()
	f.Add(AppendEntry(nil, testEntry(f, p, "200 OK\nCache-Control: max-age=60\nETag: \"a\"\nVary: a")))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Entry
		n, err := ParseEntry(b, &e)
		if err != nil {
			return
		}
		if string(AppendEntry(nil, &e)) != string(b[:n]) {
			t.Fatal("not what it was read from")
		}
		a := testAsk(t, p, "")
		Decide(a, &e, start)
		StaleOnError(a, &e, start, 0)
		AppendNotModified(AppendConditions(nil, &e), &e)
		if e.Until() < e.Stored-e.Age {
			t.Fatalf("%+v", e)
		}
	})
}

func TestStatusLine(t *testing.T) {
	f := func(name string, s Status, want string) {
		t.Helper()
		if got := strings.TrimSuffix(strings.TrimPrefix(string(AppendStatus(nil, name, s)), "Cache-Status: "), "\r\n"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f("Sluice", Status{Timed: true, TTL: 30}, "Sluice; hit; ttl=30")
	f("Sluice", Status{Timed: true, TTL: -3, Detail: Expired}, "Sluice; hit; ttl=-3; detail=expired")
	f("Sluice", Status{Fwd: FwdURIMiss, Stored: true, Collapsed: true}, "Sluice; fwd=uri-miss; stored; collapsed")
	f("Sluice", Status{Fwd: FwdStale, FwdStatus: 304, Stored: true}, "Sluice; fwd=stale; fwd-status=304; stored")
	f("edge \"1\"", Status{}, `"edge \"1\""; hit`)
	f("", Status{}, "")
	for why, want := range map[Reason]Fwd{ByMethod: FwdMethod, ByBody: FwdBypass, Expired: FwdStale, NoCacheAsked: FwdRequest, Absent: FwdURIMiss} {
		if got := FwdOf(why, false); got != want {
			t.Errorf("%v: %d", why, got)
		}
	}
	if FwdOf(Absent, true) != FwdVaryMiss {
		t.Error("vary-miss")
	}
	for i, name := range Reasons() {
		if name == "" || strings.ContainsAny(name, " \"") {
			t.Errorf("reason %d is %q", i, name)
		}
	}
}
