package wire

import (
	"bytes"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// The reference checks are written from the grammar, slow and plain, and share
// nothing with the parsers. A parser may refuse more than they do, never less.
const (
	refToken = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]+"
	refValue = `[\t\x20-\x7e\x80-\xff]*`
)

var (
	refRequest  = regexp.MustCompile(`(?s)^(\r\n)?` + refToken + ` [\x21-\x7e]+ HTTP/1\.[0-9]\r\n(` + refToken + `:` + refValue + `\r\n)*\r\n$`)
	refResponse = regexp.MustCompile(`(?s)^HTTP/1\.[0-9] [1-9][0-9][0-9]( ` + refValue + `)?\r\n(` + refToken + `[ \t]*:` + refValue + `\r\n)*\r\n$`)
)

// matches is re on bytes that are no UTF-8: each becomes the rune of its value.
func matches(re *regexp.Regexp, b []byte) bool {
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return re.MatchString(string(runes))
}

// valuesOf is the values of all fields with a name, in the reference's eyes.
func valuesOf(head []byte, name string) (values []string) {
	for line := range strings.SplitSeq(string(head), "\r\n") {
		if n, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.Trim(n, " \t"), name) {
			values = append(values, strings.Trim(v, " \t"))
		}
	}
	return values
}

// refFraming is what is wrong with the framing of a head, in the reference's
// eyes.
func refFraming(head []byte, minor int) string {
	lengths, codings := valuesOf(head, "Content-Length"), valuesOf(head, "Transfer-Encoding")
	switch {
	case len(lengths) > 1:
		return "two lengths"
	case len(codings) > 0 && len(lengths) > 0:
		return "both lengths"
	case len(codings) > 0 && minor == 0:
		return "coding in HTTP/1.0"
	case len(codings) > 1 || len(codings) == 1 && strings.ToLower(codings[0]) != "chunked":
		return "coding that is not chunked"
	case len(lengths) == 1 && !regexp.MustCompile(`^[0-9]+$`).MatchString(lengths[0]):
		return "length that is no number"
	}
	return ""
}

func fields(list []Field) string {
	var b strings.Builder
	for _, f := range list {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	return b.String()
}

func dropped(list []Field) string {
	var b strings.Builder
	for _, f := range list {
		fmt.Fprint(&b, f.Kind, f.Drop, " ")
	}
	return b.String()
}

func FuzzRequestHead(f *testing.F) {
	for _, seed := range []string{
		smallHead, browserHead,
		"POST http://b:1/x?y HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: te, x\r\nTE: trailers\r\nX: y\r\n\r\n0\r\n\r\n",
		"\r\nOPTIONS * HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
		"GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET / HTTP/1.1\r\nHost : a\r\nX:\ty\x00\n z\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: +1\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	wide := Limits{Bytes: 1 << 20, Fields: 1 << 10}
	f.Fuzz(func(t *testing.T, raw []byte) {
		lim := Limits{Bytes: 1 << 10, Fields: 16}
		var r Request
		n, err := r.Parse(raw, lim)
		for _, cut := range []int{len(raw) / 2, len(raw) - 1, n} {
			if cut < 0 || cut > len(raw) {
				continue
			}
			var part Request
			if m, e := part.Parse(raw[:cut], lim); e != ErrIncomplete && (m != n || e != err) {
				t.Fatalf("after %d bytes: %d, %v; after all: %d, %v", cut, m, e, n, err)
			}
		}
		if err != nil {
			return
		}
		head := raw[:n]
		if n > lim.Bytes || len(r.Fields) > lim.Fields || !matches(refRequest, head) {
			t.Fatalf("accepted %q", head)
		}
		_, rest, _ := bytes.Cut(bytes.TrimPrefix(head, []byte("\r\n")), []byte("\r\n"))
		if why := refFraming(rest, r.Minor); why != "" {
			t.Fatalf("accepted %q with %s", head, why)
		}
		if hosts := valuesOf(rest, "Host"); len(hosts) > 1 || len(hosts) == 0 && r.Minor > 0 {
			t.Fatalf("accepted %q with %d hosts", head, len(hosts))
		}
		again := fmt.Sprintf("%s %s HTTP/1.%d\r\n%s\r\n", r.Method, r.Target, r.Minor, fields(r.Fields))
		var second Request
		if m, err := second.Parse([]byte(again), wide); err != nil || m != len(again) {
			t.Fatalf("%q, written again as %q: %d, %v", head, again, m, err)
		}
		if r.say() != second.say() || dropped(r.Fields) != dropped(second.Fields) {
			t.Fatalf("%s, written again %s", r.say(), second.say())
		}
	})
}

func FuzzResponseHead(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.0 304 Not Modified\r\nConnection: keep-alive, x\r\nX: y\r\n\r\n", "HTTP/1.1 101 \xe9\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX \t: y\r\n z\r\n\r\n", "HTTP/1.1 1000 OK\r\n\r\n",
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, head bool) {
		lim := Limits{Bytes: 1 << 10, Fields: 16}
		var r Response
		n, err := r.Parse(raw, lim, head)
		if half := len(raw) / 2; half > 0 {
			var part Response
			if m, e := part.Parse(raw[:half], lim, head); e != ErrIncomplete && (m != n || e != err) {
				t.Fatalf("after %d bytes: %d, %v; after all: %d, %v", half, m, e, n, err)
			}
		}
		if err != nil {
			return
		}
		text := raw[:n]
		if n > lim.Bytes || len(r.Fields) > lim.Fields || !matches(refResponse, text) {
			t.Fatalf("accepted %q", text)
		}
		_, rest, _ := bytes.Cut(text, []byte("\r\n"))
		if why := refFraming(rest, r.Minor); why != "" {
			t.Fatalf("accepted %q with %s", text, why)
		}
		if bodiless := head || r.Status < 200 || r.Status == 204 || r.Status == 304; bodiless && (r.Length != 0 || r.Chunked || r.UntilClose) {
			t.Fatalf("a body for %q", text)
		}
		again := fmt.Sprintf("HTTP/1.%d %d %s\r\n%s\r\n", r.Minor, r.Status, r.Reason, fields(r.Fields))
		var second Response
		if m, err := second.Parse([]byte(again), Limits{Bytes: 1 << 20, Fields: 1 << 10}, head); err != nil || m != len(again) {
			t.Fatalf("%q, written again as %q: %d, %v", text, again, m, err)
		}
		if r.say() != second.say() || dropped(r.Fields) != dropped(second.Fields) {
			t.Fatalf("%s, written again %s", r.say(), second.say())
		}
	})
}

func FuzzChunked(f *testing.F) {
	for _, seed := range []string{
		"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "5;a=\"b\\\"\" ; c\r\nhello\r\n0\r\nX: y\r\n\r\nGET", "A\r\n0123456789\r\n000\r\nX : y\r\n\r\n",
		"1 \r\nx\r\n0\r\n\r\n", "ffffffffffffffff\r\n", "1\nx\n0\n\n", "2\r\nxyz\r\n",
	} {
		f.Add([]byte(seed), 1)
		f.Add([]byte(seed), 3)
	}
	// The body that the reference reads: strict lines, no white space but in
	// extensions.
	refSize := regexp.MustCompile(`^[0-9A-Fa-f]+([ \t]*;[^\r\n]*)?$`)
	f.Fuzz(func(t *testing.T, raw []byte, step int) {
		step = max(1, step&63)
		data, trailers, used, err := dechunk(string(raw), len(raw)+1)
		d, tr, u, e := dechunk(string(raw), step)
		if d != data || tr != trailers || e != err || err == nil && u != used {
			t.Fatalf("in steps of %d: %q, %q, %d, %v; at once: %q, %q, %d, %v", step, d, tr, u, e, data, trailers, used, err)
		}
		if err == nil {
			rest, got := string(raw[:used]), ""
			for {
				line, after, ok := strings.Cut(rest, "\r\n")
				if !ok || !refSize.MatchString(line) {
					t.Fatalf("accepted %q with size line %q", raw[:used], line)
				}
				var n int
				if _, err := fmt.Sscanf(line, "%x", &n); err != nil {
					t.Fatal(err)
				}
				if rest = after; n == 0 {
					break
				}
				if len(rest) < n+2 || rest[n:n+2] != "\r\n" {
					t.Fatalf("accepted %q with a chunk that does not end", raw[:used])
				}
				got += rest[:n]
				rest = rest[n+2:]
			}
			if got != data || !strings.HasSuffix("\r\n"+rest, "\r\n\r\n") {
				t.Fatalf("%q: data %q, want %q; trailers %q", raw[:used], data, got, rest)
			}
		}
		// What is encoded decodes to itself.
		var coded []byte
		for rest := raw; len(rest) > 0; {
			n := min(step, len(rest))
			coded = append(append(AppendChunkSize(coded, n), rest[:n]...), "\r\n"...)
			rest = rest[n:]
		}
		coded = append(coded, "0\r\n\r\n"...)
		if back, _, used, err := dechunk(string(coded), 7); err != nil || back != string(raw) || used != len(coded) {
			t.Fatalf("%q encoded and decoded: %q, %d, %v", raw, back, used, err)
		}
	})
}

func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"/", "*", "/a?b", "http://b:1/c?d", "http://[::1]", "https://u@b/", "//x", "/%41%zz", "/a#b", "http://b\\@c/"} {
		f.Add("GET", []byte(seed))
		f.Add("OPTIONS", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, method string, target []byte) {
		r := &Request{Method: []byte(method)}
		if r.parseTarget(target) != nil {
			return
		}
		for _, c := range target {
			if c <= 0x20 || c >= 0x7f || c == '#' || c == '"' || c == '<' || c == '>' {
				t.Fatalf("accepted %q", target)
			}
		}
		text := string(r.Path)
		if r.HasQuery {
			text += "?" + string(r.Query)
		}
		switch r.Form {
		case OriginForm:
			if text != string(target) || target[0] != '/' {
				t.Fatalf("%q became %q", target, text)
			}
		case AsteriskForm:
			if string(target) != "*" || method != "OPTIONS" {
				t.Fatalf("%s %q became an asterisk", method, target)
			}
		case AbsoluteForm:
			u, err := url.Parse(string(target))
			if err == nil && (u.Host != string(r.Authority) || u.User != nil || !strings.EqualFold(u.Scheme, string(r.Scheme))) {
				t.Fatalf("%q is for %s://%s, net/url says %s://%s", target, r.Scheme, r.Authority, u.Scheme, u.Host)
			}
			if !strings.HasSuffix(string(target), string(r.Query)) {
				t.Fatalf("%q has the query %q", target, r.Query)
			}
		}
		if !ValidHost(r.Authority) && r.Form == AbsoluteForm {
			t.Fatalf("%q has the host %q", target, r.Authority)
		}
	})
}
