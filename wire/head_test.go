package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

var testLimits = Limits{Bytes: 4096, Fields: 20}

// read parses raw at once, then with every number of its bytes, and requires
// that the verdict does not hang on how they came: as long as it is not known,
// more is asked for, and then it stays.
func read[T any](t testing.TB, raw string, parse func(b []byte) (T, int, *Malformed)) (T, int, *Malformed) {
	t.Helper()
	whole, n, err := parse([]byte(raw))
	decided := false
	for i := 0; i <= len(raw); i++ {
		_, m, e := parse([]byte(raw[:i]))
		switch {
		case e == ErrIncomplete && !decided:
		case m != n || e != err:
			t.Fatalf("after %d bytes of %.200q: %d, %v; at once: %d, %v", i, raw, m, e, n, err)
		default:
			decided = true
		}
	}
	return whole, n, err
}

func readRequest(t testing.TB, raw string) (*Request, int, *Malformed) {
	t.Helper()
	return read(t, raw, func(b []byte) (*Request, int, *Malformed) {
		r := new(Request)
		n, err := r.Parse(b, testLimits)
		return r, n, err
	})
}

func readResponse(t testing.TB, raw string, head bool) (*Response, int, *Malformed) {
	t.Helper()
	return read(t, raw, func(b []byte) (*Response, int, *Malformed) {
		r := new(Response)
		n, err := r.Parse(b, testLimits, head)
		return r, n, err
	})
}

// say puts into words what a request's head says, apart from its fields.
func (r *Request) say() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s", r.Method, r.Path)
	if r.HasQuery {
		fmt.Fprintf(&s, "?%s", r.Query)
	}
	fmt.Fprintf(&s, " 1.%d host=%s", r.Minor, r.Host)
	if r.Chunked {
		s.WriteString(" chunked")
	} else if r.Length != 0 {
		fmt.Fprintf(&s, " length=%d", r.Length)
	}
	for word, is := range map[string]bool{"close": r.Close, "expect": r.Expect, "trailers": r.TETrailers} {
		if is {
			s.WriteString(" " + word)
		}
	}
	if r.Upgrade != nil {
		fmt.Fprintf(&s, " upgrade=%s", r.Upgrade)
	}
	return s.String()
}

func TestRequest(t *testing.T) {
	f := func(raw, want string) {
		t.Helper()
		const next = "GET /next HTTP/1.1\r\n"
		r, n, err := readRequest(t, raw)
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if got := r.say(); got != want || n != len(raw) {
			t.Errorf("%q: %s in %d bytes, want %s in %d", raw, got, n, want, len(raw))
		}
		if _, n, err := readRequest(t, raw+next); n != len(raw) || err != nil {
			t.Errorf("%q with another request behind: %d, %v", raw, n, err)
		}
	}
	// RFC 9112 3.2.1, 3.2.2, 3.2.4 and 2.1.
	f("GET /where?q=now HTTP/1.1\r\nHost: www.example.org\r\n\r\n", "GET /where?q=now 1.1 host=www.example.org")
	f("GET http://www.example.org/pub/WWW/TheProject.html HTTP/1.1\r\nHost: www.example.org\r\n\r\n", "GET /pub/WWW/TheProject.html 1.1 host=www.example.org")
	f("OPTIONS * HTTP/1.1\r\nHost: www.example.org\r\n\r\n", "OPTIONS * 1.1 host=www.example.org")
	f("OPTIONS http://www.example.org:8001 HTTP/1.1\r\nHost: www.example.org:8001\r\n\r\n", "OPTIONS * 1.1 host=www.example.org:8001")
	f("GET /hello.txt HTTP/1.1\r\nUser-Agent: curl/7.64.1\r\nHost: www.example.com\r\nAccept-Language: en, mi\r\n\r\n", "GET /hello.txt 1.1 host=www.example.com")

	const get, post = "GET / HTTP/1.1\r\nHost: a\r\n", "POST / HTTP/1.1\r\nHost: a\r\n"
	f(get+"\r\n", "GET / 1.1 host=a")
	f("\r\n"+get+"\r\n", "GET / 1.1 host=a")
	f("GET /? HTTP/1.1\r\nHost: a\r\n\r\n", "GET /? 1.1 host=a")
	f("!#$%&'*+-.^_`|~09azAZ / HTTP/1.1\r\nHost: a\r\n\r\n", "!#$%&'*+-.^_`|~09azAZ / 1.1 host=a")
	f("GET / HTTP/1.9\r\nHost: a\r\n\r\n", "GET / 1.1 host=a")
	f("GET / HTTP/1.0\r\n\r\n", "GET / 1.0 host= close")
	f("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET / 1.0 host=")
	f("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", "GET / 1.0 host= close")
	f(get+"Connection: close\r\n\r\n", "GET / 1.1 host=a close")
	f(get+"Connection: x, ,CLOSE ,\r\n\r\n", "GET / 1.1 host=a close")
	f(get+"Connection:\r\n\r\n", "GET / 1.1 host=a")
	f("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / 1.1 host=b")
	f("GET HTTP://b?c HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?c 1.1 host=b")
	f("GET https://[2001:db8::1]:8443/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET / 1.1 host=[2001:db8::1]:8443")
	f(post+"Content-Length: 10\r\n\r\n", "POST / 1.1 host=a length=10")
	f(post+"content-length:\t 9223372036854775807 \r\n\r\n", "POST / 1.1 host=a length=9223372036854775807")
	f(post+"Content-Length: 0\r\n\r\n", "POST / 1.1 host=a")
	f(post+"Transfer-Encoding: Chunked\r\n\r\n", "POST / 1.1 host=a chunked")
	f(post+"Content-Length: 1\r\nExpect: 100-Continue\r\n\r\n", "POST / 1.1 host=a length=1 expect")
	f(post+"Content-Length: 1\r\nExpect: 100-continue\r\nExpect: x\r\n\r\n", "POST / 1.1 host=a length=1 expect")
	f("POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", "POST / 1.0 host= length=1 close")
	f(get+"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", "GET / 1.1 host=a upgrade=websocket")
	f(get+"Upgrade: websocket\r\n\r\n", "GET / 1.1 host=a")
	f(get+"Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n", "GET / 1.1 host=a")
	f("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "GET / 1.0 host= close")
	f(get+"TE: trailers\r\nConnection: TE\r\n\r\n", "GET / 1.1 host=a trailers")
	f(get+"TE: trailers\r\n\r\n", "GET / 1.1 host=a")
}

func TestRequestRefused(t *testing.T) {
	f := func(raw string, want *Malformed) {
		t.Helper()
		if _, _, err := readRequest(t, raw); err != want {
			t.Errorf("%.100q: %v, want %v", raw, err, want)
		}
	}
	const get, end = "GET / HTTP/1.1\r\nHost: a\r\n", "\r\n\r\n"
	f("", ErrIncomplete)
	f("\r\n", ErrIncomplete)
	f("GET", ErrIncomplete)
	f("GET / HTTP/1.1\r\n", ErrIncomplete)
	f(get, ErrIncomplete)
	f(get+"\r", ErrIncomplete)
	f("\n"+get, errBareLF)
	f("\rG", errBareCR)
	f("\r\n\r\n"+get, errMethod)
	f(" GET / HTTP/1.1", errMethod)
	f("GET\t/ HTTP/1.1", errMethod)
	f("GE\x00T /", errMethod)
	f("GET / HTTP/1.1\nHost: a\n\n", errBareLF)
	f("GET /\r\n", errVersion)
	f("GET  / HTTP/1.1\r\n", errVersion)
	f("GET / HTTP/1.1 \r\n", errRequestLine)
	f("GET / HTTP/11.1\r\n", errRequestLine)
	f("GET / HTTP/1.x\r\n", errRequestLine)
	f("GET / HTTP/x.1\r\n", errRequestLine)
	f("GET / http/1.1\r\n", errRequestLine)
	f("GET / HTTP/2.0\r\n", errVersionUnknown)
	f("GET / HTTP/0.9\r\n", errVersionUnknown)
	f("CONNECT a:1 HTTP/1.1\r\n", errConnect)
	f("GET / HTTP/1.1\r\n\r\n", errHostMissing)
	f(get+"Host: a"+end, errHostTwice)
	f("GET / HTTP/1.1\r\nHost: a b"+end, errHost)
	f("GET http://b/ HTTP/1.1\r\n\r\n", errHostMissing)
	f("GET http://b/ HTTP/1.1\r\nHost: /"+end, errHost)
	f(get+" X: y"+end, errFold)
	f(get+"X: y\r\n\tz"+end, errFold)
	f(get+"X : y"+end, errFieldName)
	f(get+": y"+end, errFieldName)
	f(get+"X\r\n\r\n", errFieldName)
	f(get+"X: y\n", errBareLF)
	f(get+"\n", errBareLF)
	f(get+"\rX", errBareCR)
	f(get+"X: \x00"+end, errFieldValue)
	f(get+"X: a\rb"+end, errFieldValue)
	f(get+"X: a\r"+end, errFieldValue)
	f(get+strings.Repeat("X: y\r\n", 20)+"\r\n", errTooManyFields)
	f(get+"Content-Length: 1\r\nContent-Length: 1"+end, errLengthTwice)
	f(get+"Content-Length: 1,1"+end, errLength)
	f(get+"Content-Length: 9223372036854775808"+end, errLength)
	f(get+"Content-Length: 00000000000000000001"+end, errLength)
	f(get+"Content-Length: 1\r\nTransfer-Encoding: chunked"+end, errBothLengths)
	f(get+"Transfer-Encoding: chunked\r\nContent-Length: 1"+end, errBothLengths)
	f(get+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"+end, errCoding)
	f(get+"Transfer-Encoding: x"+end, errCoding)
	f(get+"Transfer-Encoding: gzip, chunked"+end, errCodingUnknown)
	f("GET / HTTP/1.0\r\nTransfer-Encoding: chunked"+end, errCodingInHTTP10)
	f(get+"Connection: a b"+end, errConnection)
	f(get+"Connection: close;x"+end, errConnection)
	f(get+"Connection: "+strings.Repeat("x,", maxNamed+1)+end, errOptions)
	f(get+"Connection: "+strings.Repeat("x,", maxNamed)+"\r\nConnection: close, x"+end, errOptions)
	f("GET / HTTP/1.1\r\nHost: "+strings.Repeat("a", maxHost+1)+end, errHost)
	f("GET / HTTP/1.1\r\nHost: "+strings.Repeat("a", maxHost+1)+":80"+end, errHost)
	f("GET http://"+strings.Repeat("a", maxHost+1)+"/ HTTP/1.1\r\nHost: a"+end, errTargetHost)

	// Bounds: to the byte, and which of them it was.
	fill := func(n int) string { return get + "X: " + strings.Repeat("y", n-len(get)-len("X: ")-len(end)) + end }
	f(fill(4097), errHeadTooLarge)
	f("GET /"+strings.Repeat("a", 5000)+" HTTP/1.1\r\nHost: a"+end, errTargetTooLong)
	f("\r\nGET /"+strings.Repeat("a", 5000)+" HTTP/1.1\r\nHost: a"+end, errTargetTooLong)
	f(strings.Repeat("A", 5000)+" / HTTP/1.1\r\nHost: a"+end, errMethodTooLong)
	if _, n, err := readRequest(t, fill(4096)); n != 4096 || err != nil {
		t.Errorf("a head as large as the bound: %d, %v", n, err)
	}
}

// say puts into words what a response's head says, apart from its fields.
func (r *Response) say() string {
	s := fmt.Sprintf("%d %s 1.%d", r.Status, r.Reason, r.Minor)
	switch {
	case r.Chunked:
		s += " chunked"
	case r.UntilClose:
		s += " until close"
	default:
		s += fmt.Sprintf(" length=%d", r.Length)
	}
	if r.Close {
		s += " close"
	}
	if r.Upgrade != nil {
		s += " upgrade=" + string(r.Upgrade)
	}
	return s
}

func TestResponse(t *testing.T) {
	f := func(raw string, head bool, want string) {
		t.Helper()
		r, n, err := readResponse(t, raw, head)
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if got := r.say(); got != want || n != len(raw) {
			t.Errorf("%q: %s in %d bytes, want %s", raw, got, n, want)
		}
	}
	const ok, end = "HTTP/1.1 200 OK\r\n", "\r\n\r\n"
	f(ok+"Content-Length: 5"+end, false, "200 OK 1.1 length=5")
	f(ok+"Content-Length: 5"+end, true, "200 OK 1.1 length=0")
	f(ok+"Transfer-Encoding: chunked"+end, false, "200 OK 1.1 chunked")
	f(ok+"Transfer-Encoding: chunked"+end, true, "200 OK 1.1 length=0")
	f(ok+"\r\n", false, "200 OK 1.1 until close close")
	f(ok+"\r\n", true, "200 OK 1.1 length=0")
	f("HTTP/1.1 204 No Content\r\nContent-Length: 5"+end, false, "204 No Content 1.1 length=0")
	f("HTTP/1.1 304 Not Modified\r\nContent-Length: 5"+end, false, "304 Not Modified 1.1 length=0")
	f("HTTP/1.1 100 Continue"+end, false, "100 Continue 1.1 length=0")
	f("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket"+end, false, "101 X 1.1 length=0 upgrade=websocket")
	f("HTTP/1.1 101 X\r\nUpgrade: websocket"+end, false, "101 X 1.1 length=0")
	f("HTTP/1.1 200\r\nContent-Length: 0"+end, false, "200  1.1 length=0")
	f("HTTP/1.1 200 \r\nContent-Length: 0"+end, false, "200  1.1 length=0")
	f("HTTP/1.1 200 Tr\xe8s bien\tdone\r\nContent-Length: 0"+end, false, "200 Tr\xe8s bien\tdone 1.1 length=0")
	f("HTTP/1.0 200 OK\r\nContent-Length: 1"+end, false, "200 OK 1.0 length=1 close")
	f("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1"+end, false, "200 OK 1.0 length=1")
	f("HTTP/1.3 200 OK\r\nContent-Length: 1"+end, false, "200 OK 1.1 length=1")
	// White space before the colon goes (RFC 9112 5.1).
	f(ok+"Content-Length \t: 1"+end, false, "200 OK 1.1 length=1")
}

func TestResponseRefused(t *testing.T) {
	f := func(raw string, want *Malformed) {
		t.Helper()
		if _, _, err := readResponse(t, raw, false); err != want {
			t.Errorf("%.100q: %v, want %v", raw, err, want)
		}
	}
	const ok, end = "HTTP/1.1 200 OK\r\n", "\r\n\r\n"
	f("", ErrIncomplete)
	f("HTTP/1.1 200", ErrIncomplete)
	f(ok+"X ", ErrIncomplete)
	f("<html>", errStatusLine)
	f("\r\nHTTP/1.1 200 OK"+end, errStatusLine)
	f("HTTP/2.0 200 OK"+end, errStatusLine)
	f("HTTP/1.x 200 OK"+end, errStatusLine)
	f("HTTP/1.1  200 OK"+end, errStatusLine)
	f("HTTP/1.1 20 OK"+end, errStatusLine)
	f("HTTP/1.1 099 OK"+end, errStatusLine)
	f("HTTP/1.1 2000 OK"+end, errStatusLine)
	f("HTTP/1.1 -20 OK"+end, errStatusLine)
	f("HTTP/1.1 200OK"+end, errStatusLine)
	f("HTTP/1.1 200 O\x00K"+end, errStatusLine)
	f("HTTP/1.1 200 O\rK"+end, errStatusLine)
	f("HTTP/1.1 200 OK\n\n", errBareLF)
	f(ok+"X: y\r\n z"+end, errFold)
	f(ok+" : y"+end, errFold)
	f(ok+": y"+end, errFieldName)
	f(ok+"X y: z"+end, errFieldName)
	f(ok+"X: y\nZ: z"+end, errBareLF)
	f(ok+"Content-Length: 1\r\nTransfer-Encoding: chunked"+end, errBothLengths)
	f(ok+"Content-Length: 1\r\nContent-Length: 2"+end, errLengthTwice)
	f(ok+"X: "+strings.Repeat("y", 5000)+end, errHeadTooLarge)
	f(strings.Repeat("HTTP/1.1 200 ", 500), errHeadTooLarge)
}

// The slices of a head live in the bytes that it was parsed from, and parsing
// again with the same Request leaves nothing of the one before.
func TestRequestIsReused(t *testing.T) {
	var r Request
	first := []byte("POST http://b/x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: upgrade, te, x\r\nUpgrade: z\r\nTE: trailers\r\nExpect: 100-continue\r\nX: y\r\n\r\n")
	if _, err := r.Parse(first, testLimits); err != nil {
		t.Fatal(err)
	}
	second := []byte("GET / HTTP/1.0\r\nX: y\r\n\r\n")
	if _, err := r.Parse(second, testLimits); err != nil {
		t.Fatal(err)
	}
	if got, want := r.say(), "GET / 1.0 host= close"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if len(r.Fields) != 1 || r.Fields[0].Drop || r.Form != OriginForm || r.Scheme != nil || r.Authority != nil {
		t.Errorf("left of the request before: %+v", r)
	}
	if at := bytes.Index(second, []byte("X")); &r.Fields[0].Name[0] != &second[at] {
		t.Error("the name of a field is a copy")
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = r.Parse(first, testLimits) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
