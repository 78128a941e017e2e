package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// afterClose is what a client may not send behind its last request.
const afterClose = "GET /late HTTP/1.1\r\nHost: a\r\n\r\n"

// TestHostileRequests holds the wall against request smuggling: each case is
// what a client sends, what it gets (statuses, then whether the connection is
// kept or closed), and all that a backend which records every byte has seen.
// A body that was refused under way stands there with "...": its request has
// begun but never ended, and its connection was closed.
//
// Each case runs twice: sent at once, and byte by byte.
func TestHostileRequests(t *testing.T) {
	f := func(name, send, want string, seen ...string) {
		t.Helper()
		hostile(t, "", name, send, want, seen)
	}
	const (
		refused = "400 closed"
		served  = "200 kept"
		end     = "\r\n\r\n"
		get     = "GET / HTTP/1.1\r\nHost: a\r\n"
		post    = "POST / HTTP/1.1\r\nHost: a\r\n"
		chunked = post + "Transfer-Encoding: chunked\r\n\r\n"
		hidden  = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
	)

	// Both lengths.
	f("CL.TE", post+"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", refused)
	f("TE.CL", post+"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n"+hidden+"\r\n0\r\n\r\n", refused)
	f("CL.TE with CL 0", post+"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused)
	f("CL.TE on GET", get+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+hidden, refused)

	// Transfer codings.
	f("TE alone", chunked+"5\r\nhello\r\n0\r\n\r\n", served, "POST / hello")
	f("TE in capitals", post+"TRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", served, "POST / hello")
	f("TE with a space behind", post+"Transfer-Encoding: chunked \r\n\r\n2\r\nhi\r\n0\r\n\r\n", served, "POST / hi")
	f("TE with a tab before", post+"Transfer-Encoding:\tchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", served, "POST / hi")
	f("TE with a vertical tab before", post+"Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", refused)
	f("TE with a vertical tab behind", post+"Transfer-Encoding: chunked\v\r\n\r\n0\r\n\r\n", refused)
	f("TE with a form feed", post+"Transfer-Encoding: chunked\f\r\n\r\n0\r\n\r\n", refused)
	f("TE with a NUL", post+"Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n", refused)
	f("TE with a CR behind", post+"Transfer-Encoding: chunked\r\r\n\r\n0\r\n\r\n", refused)
	f("TE with a non-breaking space", post+"Transfer-Encoding: chunked\xa0\r\n\r\n0\r\n\r\n", refused)
	f("TE xchunked", post+"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", refused)
	f("TE chunkedx", post+"Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", refused)
	f("TE in quotes", post+"Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", refused)
	f("TE in single quotes", post+"Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n", refused)
	f("TE empty", post+"Transfer-Encoding:\r\n\r\n0\r\n\r\n", refused)
	f("TE identity", post+"Transfer-Encoding: identity\r\n\r\n", refused)
	f("TE identity with CL", post+"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi", refused)
	f("TE chunked, identity", post+"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", refused)
	f("TE identity, chunked", post+"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE chunked twice", post+"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE chunked;q=1", post+"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", refused)
	f("TE chunked, gzip", post+"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", refused)
	f("TE gzip alone", post+"Transfer-Encoding: gzip\r\n\r\n", refused)
	f("TE gzip, chunked", post+"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501 closed")
	f("TE with an empty item", post+"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE chunked chunked", post+"Transfer-Encoding: chunked chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE on two lines", post+"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", refused)
	f("TE on two equal lines", post+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE first line bad", post+"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE folded", post+"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE with a space before its colon", post+"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE with a tab before its colon", post+"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE hidden by a bare CR", post+"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE hidden by a bare LF", post+"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused)
	f("TE in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused)
	// An underscore makes another field, which no server may take for this one;
	// some do, so the length that counts is the only one that goes on.
	f("Transfer_Encoding is another field", post+"Transfer_Encoding: chunked\r\nContent-Length: 2\r\n\r\nhi", served, "POST / hi")

	// Lengths.
	f("CL twice, different", post+"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", refused)
	f("CL twice, equal", post+"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", refused)
	f("CL a list", post+"Content-Length: 5, 5\r\n\r\nhello", refused)
	f("CL plus", post+"Content-Length: +5\r\n\r\nhello", refused)
	f("CL minus", post+"Content-Length: -1\r\n\r\n", refused)
	f("CL hex", post+"Content-Length: 0x5\r\n\r\nhello", refused)
	f("CL empty", post+"Content-Length:\r\n\r\n", refused)
	f("CL with a space within", post+"Content-Length: 1 0\r\n\r\nhello", refused)
	f("CL decimal", post+"Content-Length: 5.0\r\n\r\nhello", refused)
	f("CL exponent", post+"Content-Length: 1e1\r\n\r\nhello", refused)
	f("CL underscore", post+"Content-Length: 1_0\r\n\r\nhello", refused)
	f("CL in quotes", post+"Content-Length: \"5\"\r\n\r\nhello", refused)
	f("CL of 2^63", post+"Content-Length: 9223372036854775808\r\n\r\n", refused)
	f("CL of 2^64+5", post+"Content-Length: 18446744073709551621\r\n\r\nhello", refused)
	f("CL Arabic digits", post+"Content-Length: \xd9\xa5\r\n\r\nhello", refused)
	f("CL with a space before its colon", post+"Content-Length : 5\r\n\r\nhello", refused)
	f("CL folded", post+"Content-Length: 5\r\n 0\r\n\r\nhello", refused)
	f("CL leading zeros", post+"Content-Length: 0005\r\n\r\nhello", served, "POST / hello")
	f("CL shorter than what follows", post+"Content-Length: 2\r\n\r\nhi X", "200 400 closed", "POST / hi")
	f("CL on GET", get+"Content-Length: 33\r\n\r\n"+hidden, served, "GET / "+hidden)
	f("CL named by Connection", post+"Connection: Content-Length\r\nContent-Length: 33\r\n\r\n"+hidden, served, "POST / "+hidden)
	f("TE named by Connection", post+"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n21\r\n"+hidden+"\r\n0\r\n\r\n", served, "POST / "+hidden)

	// Line ends.
	f("bare LF behind the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", refused)
	f("bare LF behind a field", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", refused)
	f("bare LF as the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", refused)
	f("bare LF everywhere", "GET / HTTP/1.1\nHost: a\n\n", refused)
	f("bare CR behind the request line", "GET / HTTP/1.1\rHost: a\r\n\r\n", refused)
	f("bare CR in the target", "GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("bare CR in a name", get+"X\rY: z\r\n\r\n", refused)
	f("bare CR in a value", get+"X: y\rz\r\n\r\n", refused)
	f("bare CR as the empty line", get+"\rX", refused)
	f("CR CR LF", get+"X: y\r\r\n\r\n", refused)
	f("fold with a space", get+"X: y\r\n z\r\n\r\n", refused)
	f("fold with a tab", get+"X: y\r\n\tz\r\n\r\n", refused)
	f("white space before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", refused)
	f("line of white space only", get+" \r\n\r\n", refused)
	f("empty line first", "\r\n"+get+"\r\n", served, "GET /")
	f("two empty lines first", "\r\n\r\n"+get+"\r\n", refused)
	f("bare LF first", "\n"+get+"\r\n", refused)
	f("bare CR first", "\r"+get+"\r\n", refused)
	f("empty line between two requests", get+"\r\n\r\n"+get+"\r\n", "200 200 kept", "GET /", "GET /")

	// Field names and values.
	f("space before the colon", get+"X : y\r\n\r\n", refused)
	f("tab before the colon", get+"X\t: y\r\n\r\n", refused)
	f("space in a name", get+"X Y: z\r\n\r\n", refused)
	f("empty name", get+": y\r\n\r\n", refused)
	f("no colon", get+"XY\r\n\r\n", refused)
	f("NUL in a name", get+"X\x00Y: z\r\n\r\n", refused)
	f("high byte in a name", get+"X\xe9: z\r\n\r\n", refused)
	f("separator in a name", get+"X(Y): z\r\n\r\n", refused)
	f("NUL in a value", get+"X: y\x00z\r\n\r\n", refused)
	f("control in a value", get+"X: y\x01z\r\n\r\n", refused)
	f("DEL in a value", get+"X: y\x7fz\r\n\r\n", refused)
	f("escape in a value", get+"X: \x1b[31m\r\n\r\n", refused)
	f("high bytes in a value", get+"X: caf\xc3\xa9\r\n\r\n", served, "GET /")
	f("tab in a value", get+"X: y\tz\r\n\r\n", served, "GET /")
	f("empty value", get+"X:\r\n\r\n", served, "GET /")

	// The request line.
	f("HTTP/0.9", "GET /\r\n", refused)
	f("HTTP/0.9 with a version", "GET / HTTP/0.9\r\n\r\n", "505 closed")
	f("HTTP/2.0 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 closed")
	f("HTTP/3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505 closed")
	f("HTTP/1.2 is spoken to as 1.1", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", served, "GET /")
	f("version in small letters", "GET / http/1.1\r\nHost: a\r\n\r\n", refused)
	f("version with two digits", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", refused)
	f("version with leading zeros", "GET / HTTP/01.1\r\nHost: a\r\n\r\n", refused)
	f("version without a minor", "GET / HTTP/1\r\nHost: a\r\n\r\n", refused)
	f("another protocol", "GET / ICAP/1.1\r\nHost: a\r\n\r\n", refused)
	f("space behind the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", refused)
	f("two spaces before the target", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("two spaces behind the target", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("tab in the request line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("tab before the version", "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("request line within the target", "GET /a HTTP/1.1\x20HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("white space first", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("no method", "/ HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("method with a separator", "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("method with a NUL", "GE\x00T / HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("method with a high byte", "G\xc9T / HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("method in small letters is another method", "get / HTTP/1.1\r\nHost: a\r\n\r\n", served, "get /")
	f("unknown method", "FROB /x HTTP/1.1\r\nHost: a\r\n\r\n", served, "FROB /x")
	f("OPTIONS that may go no further", "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", "204 kept")
	f("CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "501 closed")
	f("TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405 kept")
	f("TLS at a plain door", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", refused)

	// The target.
	f("empty target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("target without a slash", "GET index HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("asterisk with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("asterisk with OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", served, "OPTIONS *")
	f("absolute form", "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", served, "GET /x")
	f("absolute form without a path", "GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", served, "GET /")
	f("absolute form of OPTIONS without a path", "OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", served, "OPTIONS *")
	f("absolute form with a query only", "GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", served, "GET /?q")
	f("absolute form of another scheme", "GET ftp://b/x HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("absolute form without a host", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("absolute form with user information", "GET http://u:p@b/x HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("absolute form with a bad port", "GET http://b:99999/x HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("absolute form with one slash", "GET http:/b HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("authority form", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("fragment", "GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("NUL in the target", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("control in the target", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("DEL in the target", "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("high byte in the target", "GET /caf\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("high byte in the query", "GET /?q=\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("quote in the target", "GET /\"x\" HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("angle in the target", "GET /<x> HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("backslash in the path", "GET /a\\..\\b HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("half an escape", "GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("no escape", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("half an escape in the query", "GET /?a=%4 HTTP/1.1\r\nHost: a\r\n\r\n", refused)
	f("what browsers leave as it is", "GET /a[b]|c?d={e}|^f`g\\h HTTP/1.1\r\nHost: a\r\n\r\n", served, "GET /a[b]|c?d={e}|^f`g\\h")

	// The host.
	f("Host missing", "GET / HTTP/1.1\r\n\r\n", refused)
	f("Host missing in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", "200 closed", "GET /")
	f("Host missing in absolute form", "GET http://b/ HTTP/1.1\r\n\r\n", refused)
	f("Host twice", get+"Host: b\r\n\r\n", refused)
	f("Host twice, equal", get+"Host: a\r\n\r\n", refused)
	f("Host twice in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", refused)
	f("Host empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n", refused)
	f("Host a list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", refused)
	f("Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", refused)
	f("Host with user information", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", refused)
	f("Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", refused)
	f("Host with a bad port", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", refused)
	f("Host with two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", refused)
	f("Host with a port only", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", refused)
	f("Host with a high byte", "GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", refused)
	f("Host with half an escape", "GET / HTTP/1.1\r\nHost: a%4\r\n\r\n", refused)
	f("Host IPv6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", served, "GET /")
	f("Host IPv6 without its end", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", refused)
	f("Host with an empty port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", served, "GET /")

	// Chunks.
	f("chunk extension", chunked+"5;a=b;c=\"d e\"\r\nhello\r\n0\r\n\r\n", served, "POST / hello")
	f("chunk size in capitals", chunked+"A\r\n0123456789\r\n0\r\n\r\n", served, "POST / 0123456789")
	f("chunk size with leading zeros", chunked+"0005\r\nhello\r\n000\r\n\r\n", served, "POST / hello")
	f("chunk size with many zeros", chunked+"0000000000000005\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size empty", chunked+"\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size no number", chunked+"g\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size with plus", chunked+"+5\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size with minus", chunked+"-5\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size with 0x", chunked+"0x5\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size with underscore", chunked+"1_0\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size with a space before", chunked+" 5\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size with a space behind", chunked+"5 \r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size with a NUL", chunked+"5\x00\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size of 2^64", chunked+"10000000000000000\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size of 2^63", chunked+"8000000000000000\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size with bare LF", chunked+"5\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk size with bare CR", chunked+"5\rhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk extension with bare LF", chunked+"5;a\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk extension with bare CR", chunked+"5;a\rb\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk extension empty", chunked+"5;\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk extension without its end quote", chunked+"5;a=\"b\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk extension without a semicolon", chunked+"5 a\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk extension with a control", chunked+"5;a=\x01\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk extension too long", chunked+"5;a="+strings.Repeat("b", 5000)+"\r\nhello\r\n0\r\n\r\n", refused, "POST /...")
	f("chunk extensions too long together", chunked+strings.Repeat("1;a="+strings.Repeat("b", 4000)+"\r\nx\r\n", 5)+"0\r\n\r\n", refused, "POST / xxxx...")
	f("chunk data longer than its size", chunked+"3\r\nhello\r\n0\r\n\r\n", refused, "POST / hel...")
	f("chunk data shorter than its size", chunked+"7\r\nhello\r\n0\r\n\r\n", refused, "POST / hello\r\n...")
	f("chunk data with LF for CRLF behind", chunked+"5\r\nhello\n0\r\n\r\n", refused, "POST / hello...")
	f("chunk data with CR for CRLF behind", chunked+"5\r\nhello\r0\r\n\r\n", refused, "POST / hello...")
	f("chunk data without CRLF behind", chunked+"5\r\nhello0\r\n\r\n", refused, "POST / hello...")
	f("last chunk with bare LF", chunked+"5\r\nhello\r\n0\n\r\n", refused, "POST / hello...")
	f("end of the trailer section with bare LF", chunked+"5\r\nhello\r\n0\r\n\n", refused, "POST / hello...")
	f("a request in a chunk", chunked+"21\r\n"+hidden+"\r\n0\r\n\r\n", served, "POST / "+hidden)

	// Trailers. What they hold is a test of its own.
	f("trailer", chunked+"2\r\nhi\r\n0\r\nX: y\r\n\r\n", served, "POST / hi")
	f("trailer without a colon", chunked+"2\r\nhi\r\n0\r\nX\r\n\r\n", refused, "POST / hi...")
	f("trailer folded", chunked+"2\r\nhi\r\n0\r\nX: y\r\n z\r\n\r\n", refused, "POST / hi...")
	f("trailer with a space before its colon", chunked+"2\r\nhi\r\n0\r\nX : y\r\n\r\n", refused, "POST / hi...")
	f("trailer with bare LF", chunked+"2\r\nhi\r\n0\r\nX: y\n\r\n", refused, "POST / hi...")
	f("trailer with a NUL", chunked+"2\r\nhi\r\n0\r\nX: \x00\r\n\r\n", refused, "POST / hi...")
	f("trailer too large", chunked+"2\r\nhi\r\n0\r\nX: "+strings.Repeat("y", 17<<10)+"\r\n\r\n", refused, "POST / hi...")
	f("too many trailers", chunked+"2\r\nhi\r\n0\r\n"+strings.Repeat("X: y\r\n", 65)+"\r\n", refused, "POST / hi...")

	// Bounds.
	f("target too long", "GET /"+strings.Repeat("a", 40<<10)+" HTTP/1.1\r\nHost: a\r\n\r\n", "414 closed")
	f("target without an end", "GET /"+strings.Repeat("a", 40<<10), "414 closed")
	f("value too long", get+"X: "+strings.Repeat("y", 40<<10)+"\r\n\r\n", "431 closed")
	f("name too long", get+strings.Repeat("x", 40<<10)+": y\r\n\r\n", "431 closed")
	f("too many fields", get+strings.Repeat("X: y\r\n", 100)+"\r\n", "431 closed")
	f("as many fields as allowed", get+strings.Repeat("X: y\r\n", 99)+"\r\n", served, "GET /")
	f("head as large as allowed", get+"X: "+strings.Repeat("y", 32<<10-len(get)-len("X: ")-len(end))+end, served, "GET /")
	f("head one byte too large", get+"X: "+strings.Repeat("y", 32<<10-len(get)-len("X: ")-len(end)+1)+end, "431 closed")

	// One connection, many requests.
	f("two requests", get+"\r\n"+hidden, "200 200 kept", "GET /", "GET /hidden")
	f("good, then bad", get+"\r\nGET / HTTP/1.1\r\nHost : a\r\n\r\n"+hidden, "200 400 closed", "GET /")
	f("a body, then a request", post+"Content-Length: 5\r\n\r\nhello"+hidden, "200 200 kept", "POST / hello", "GET /hidden")
	f("chunks, then a request", chunked+"5\r\nhello\r\n0\r\n\r\n"+hidden, "200 200 kept", "POST / hello", "GET /hidden")
	f("a large body, then a request", post+"Content-Length: 40000\r\n\r\n"+strings.Repeat("x", 40000)+hidden, "200 200 kept", "POST / "+strings.Repeat("x", 40000), "GET /hidden")
	f("a large chunk, then a request", chunked+"9c40\r\n"+strings.Repeat("x", 40000)+"\r\n0\r\n\r\n"+hidden, "200 200 kept", "POST / "+strings.Repeat("x", 40000), "GET /hidden")
	f("many requests", strings.Repeat(hidden, 1000), strings.Repeat("200 ", 1000)+"kept", slices.Repeat([]string{"GET /hidden"}, 1000)...)
	f("close, then a request", get+"Connection: close\r\n\r\n"+afterClose, "200 closed", "GET /")
	f("a large body and close, then a request", post+"Connection: close\r\nContent-Length: 40000\r\n\r\n"+strings.Repeat("x", 40000)+afterClose, "200 closed", "POST / "+strings.Repeat("x", 40000))
	f("refused, then a request", get+"Host: b\r\n\r\n"+hidden, refused)
	f("HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"+afterClose, "200 closed", "GET /")
	f("HTTP/1.0 keep-alive", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"+hidden, "200 200 kept", "GET /", "GET /hidden")
	f("HTTP/1.0 keep-alive and close", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n"+afterClose, "200 closed", "GET /")
	f("HTTP/1.0 with a body", "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "200 closed", "POST / hi")
	f("Connection with a word that is none", get+"Connection: a b\r\n\r\n", refused)
	f("Connection on two lines", get+"Connection: x\r\nConnection: close\r\n\r\n"+afterClose, "200 closed", "GET /")

	// Upgrades.
	f("h2c", get+"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"+hidden, "200 200 kept", "GET /", "GET /hidden")
	f("Upgrade without Connection", get+"Upgrade: websocket\r\n\r\n", served, "GET /")
	f("Upgrade in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "200 closed", "GET /")

	// Expectations.
	f("an expectation that nobody knows", post+"Expect: the-unexpected\r\nContent-Length: 2\r\n\r\nhi", served, "POST / hi")
	f("Expect in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", "200 closed", "POST / hi")
	f("Expect without a body", get+"Expect: 100-continue\r\n\r\n", served, "GET /")
}

// TestRefusedBodies holds that the body of a request that is answered without
// being forwarded is never read as the next request.
func TestRefusedBodies(t *testing.T) {
	const only = `
routes:
  - { name: only, match: { path: /only, methods: [GET, POST] }, upstream: app }
  - { name: small, match: { path: /small }, upstream: app, max_body: 4 }
  - { name: probe, match: { path: /probe }, upstream: app }
  - { name: own, match: { path: /own }, respond: hello }
  - { name: away, match: { path: /away }, redirect: /own }
`
	const hidden = "GET /only HTTP/1.1\r\nHost: a\r\n\r\n"
	f := func(name, send, want string, seen ...string) {
		t.Helper()
		hostile(t, only, name, send, want, seen)
	}
	length := fmt.Sprintf("Host: a\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden)
	chunked := fmt.Sprintf("Host: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden)
	f("no route", "POST /none HTTP/1.1\r\n"+length, "404 kept")
	f("no route, then a request", "POST /none HTTP/1.1\r\n"+length+hidden, "404 200 kept", "GET /only")
	f("no route, chunked", "POST /none HTTP/1.1\r\n"+chunked, "404 closed")
	f("no route, bad chunk", "POST /none HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"+hidden, "404 closed")
	f("method", "PUT /only HTTP/1.1\r\n"+length, "405 kept")
	f("path above the root", "POST /../x HTTP/1.1\r\n"+length, "400 closed")
	f("too large", "POST /small HTTP/1.1\r\n"+length, "413 closed")
	f("too large, chunked", "POST /small HTTP/1.1\r\n"+chunked, "413 closed", "POST /small*...")
	f("own answer", "POST /own HTTP/1.1\r\n"+length, "200 kept")
	f("own answer, then a request", "POST /own HTTP/1.1\r\n"+length+hidden, "200 200 kept", "GET /only")
	f("own answer, chunked", "POST /own HTTP/1.1\r\n"+chunked, "200 closed")
	f("redirect", "POST /away HTTP/1.1\r\n"+length, "308 kept")
	f("TRACE with a body", "TRACE /probe HTTP/1.1\r\n"+length, "405 kept")
	f("loop", "POST /only HTTP/1.1\r\nVia: "+strings.Repeat("1.1 sluice, ", 8)+"1.1 b\r\n"+length, "508 kept")
	f("asterisk", "OPTIONS * HTTP/1.1\r\n"+length, "404 kept")
}

// arrivedAs compares what arrived; "*..." stands for any part of a body.
func arrivedAs(got, want string) bool {
	start, part := strings.CutSuffix(want, "*...")
	return got == want || part && strings.HasPrefix(got, start) && strings.HasSuffix(got, "...")
}

// hostile runs one case with what more adds to the configuration.
func hostile(t *testing.T, more, name, send, want string, seen []string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		steps := []int{len(send), 1}
		if len(send) > 4<<10 {
			steps[1] = 997
		}
		if strings.HasSuffix(send, afterClose) {
			// What comes byte by byte after the end meets a closed connection.
			steps = steps[:1]
		}
		for _, step := range steps {
			b := newRecorder(t, nil)
			g := openGate(t, "http://"+b.addr(), more)
			answers, methods := 0, []string{}
			for _, word := range strings.Fields(want) {
				if word[0] >= '1' && word[0] <= '9' {
					answers++
				}
			}
			method, _, _ := strings.Cut(send, " ")
			methods = append(methods, method)
			got := g.dial().converse(send, step, answers, methods...)
			g.end()
			arrived := lines(b.settle())
			if got != want {
				t.Errorf("in steps of %d: the client got %q, want %q", step, got, want)
			}
			if !slices.EqualFunc(arrived, seen, arrivedAs) {
				t.Errorf("in steps of %d: the backend saw %q, want %q", step, arrived, seen)
			}
		}
	})
}

// TestWhatTheBackendSees holds what of a request with a trick goes on: which
// target, and which field lines. A line that begins with "!" must not be there.
func TestWhatTheBackendSees(t *testing.T) {
	f := func(name, send, target string, lines ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			b := newRecorder(t, nil)
			g := openGate(t, "http://"+b.addr(), "")
			r := g.ask(send)
			g.end()
			list := b.settle()
			if target == "" {
				if r == nil || r.status != 400 || len(list) != 0 {
					t.Fatalf("the client got %+v, the backend saw %q; want 400 and nothing", r, list)
				}
				return
			}
			if r == nil || r.status != 200 || len(list) != 1 || !list[0].whole {
				t.Fatalf("the client got %+v, the backend saw %q; want one request and 200", r, list)
			}
			_, got, _ := strings.Cut(list[0].line(), " ")
			if got != target {
				t.Errorf("target %q, want %q", got, target)
			}
			for _, line := range lines {
				line, not := strings.CutPrefix(line, "!")
				// A name alone stands for any value.
				find := "\r\n" + line
				if !strings.HasSuffix(line, ":") {
					find += "\r\n"
				}
				text := list[0].head + "\r\n" + list[0].raw
				if strings.Contains(strings.ToLower(text), strings.ToLower(find)) == not {
					t.Errorf("line %q there: %v, in\n%s", line, not, text)
				}
			}
		})
	}
	get := func(target string, fields ...string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
	}

	// Paths.
	f("plain", get("/a/b?c=%2e"), "/a/b?c=%2e")
	f("dot", get("/a/./b"), "/a/b")
	f("dot dot", get("/a/../b"), "/b")
	f("dot dot at the end", get("/a/b/.."), "/a/")
	f("above the root", get("/../b"), "")
	f("above the root, encoded", get("/%2e%2e/b"), "")
	f("above the root, half encoded", get("/a/.%2e/%2E./b"), "")
	f("encoded dots", get("/a/%2e%2E/b"), "/b")
	f("encoded dots twice over", get("/a/%252e%252e/b"), "/a/%252e%252e/b")
	f("two slashes", get("//a///b"), "/a/b")
	f("two slashes and dots", get("/a//../b"), "/b")
	f("encoded slash", get("/a%2fb"), "/a%2Fb")
	f("dots with an encoded slash", get("/a/..%2fb"), "/a/..%2Fb")
	f("encoded backslash", get("/a%5c..%5cb"), "/a%5C..%5Cb")
	f("encoded NUL", get("/a%00b"), "")
	f("encoded CR LF", get("/a%0d%0aX:%20y"), "/a%0D%0AX:%20y", "!X: y")
	f("semicolon", get("/a;x/../b"), "/b")
	f("dots with a semicolon", get("/a/..;/b"), "/a/..;/b")
	f("encoded semicolon", get("/a%3bb"), "/a%3Bb")
	f("overlong UTF-8 dots", get("/a/%c0%ae%c0%ae/b"), "/a/%C0%AE%C0%AE/b")
	f("overlong UTF-8 slash", get("/a/..%c0%afb"), "/a/..%C0%AFb")
	f("encoded letters", get("/%61dmin"), "/admin")
	f("encoded question mark", get("/a%3fb=c"), "/a%3Fb=c")
	f("encoded hash", get("/a%23b"), "/a%23b")
	f("encoded percent", get("/a%25b"), "/a%25b")
	f("three dots", get("/a/.../b"), "/a/.../b")
	f("dots in the query stay", get("/a?b=/../c"), "/a?b=/../c")
	f("double slash authority", get("//evil.example/x"), "/evil.example/x", "Host: a")

	// Where the request is for.
	f("absolute form with another Host", "GET http://b.example/x HTTP/1.1\r\nHost: a\r\n\r\n", "/x", "Host: b.example", "!Host: a", "X-Forwarded-Host: b.example")
	f("absolute form with a port", "GET http://b.example:81/x HTTP/1.1\r\nHost: a\r\n\r\n", "/x", "Host: b.example:81")
	f("absolute form with a trick in the path", "GET http://b/../x HTTP/1.1\r\nHost: a\r\n\r\n", "")
	f("absolute form with a question mark in front", "GET http://b?/../x HTTP/1.1\r\nHost: a\r\n\r\n", "/?/../x", "Host: b")
	f("HTTP/1.0 without Host", "GET /x HTTP/1.0\r\n\r\n", "/x", "Host:")
	f("scheme of the target is not believed", "GET https://b/x HTTP/1.1\r\nHost: a\r\n\r\n", "/x", "X-Forwarded-Proto: http")

	// Fields of one hop, and those that a client would like to be.
	f("named by Connection", get("/", "Connection: x-one, X-Two", "X-One: 1", "x-two: 2", "X-Three: 3"), "/", "!X-One:", "!X-Two:", "X-Three: 3", "!Connection:")
	f("named by a second Connection", get("/", "X-One: 1", "Connection: close", "Connection: x-one"), "/", "!X-One:")
	f("named by Connection, on two lines", get("/", "X-One: 1", "Connection: x-one", "X-One: 2"), "/", "!X-One:")
	f("Host named by Connection", get("/", "Connection: host"), "/", "Host: a")
	f("Authorization named by Connection", get("/", "Connection: authorization", "Authorization: Basic eDp5"), "/", "Authorization: Basic eDp5")
	f("Cookie named by Connection", get("/", "Connection: cookie", "Cookie: a=b"), "/", "Cookie: a=b")
	f("X-Forwarded-For named by Connection", get("/", "Connection: X-Forwarded-For, X-Real-IP"), "/", "X-Forwarded-For: 127.0.0.1")
	f("Content-Length named by Connection", "POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\nhi", "/", "Content-Length: 2")
	f("hop by hop", get("/", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eDp5", "TE: gzip", "Upgrade: x"), "/", "!Keep-Alive:", "!Proxy-Connection:", "!Proxy-Authorization:", "!TE:", "!Upgrade:")
	f("TE trailers", get("/", "Connection: TE", "TE: trailers, deflate;q=0.5"), "/", "TE: trailers", "Connection: TE")
	f("TE trailers without Connection", get("/", "TE: trailers"), "/", "!TE:")
	f("forged address", get("/", "X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "X-Forwarded-Port: 1"), "/", "X-Forwarded-For: 127.0.0.1", "!X-Forwarded-For: 6.6.6.6", "!X-Real-IP:", "!Forwarded:", "X-Forwarded-Proto: http", "X-Forwarded-Host: a", "!X-Forwarded-Port:")
	f("forged request id", get("/", "X-Request-Id: evil", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), "/", "!X-Request-Id: evil", "!traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f("white space around values is cut", get("/", "X:  \t y z \t "), "/", "X: y z")
	f("order and case stay", get("/", "x-B: 1", "X-a: 2", "X-b: 3"), "/", "x-B: 1\r\nX-a: 2\r\nX-b: 3")
	f("both Upgrade lines", get("/", "Connection: upgrade", "Upgrade: websocket", "Upgrade: h2c"), "/", "!Upgrade:", "!Connection: Upgrade")
	f("h2c alone", get("/", "Connection: upgrade, http2-settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), "/", "!Upgrade:", "!HTTP2-Settings:")
	f("h2c in a list", get("/", "Connection: upgrade, http2-settings", "Upgrade: websocket, H2C", "HTTP2-Settings: AAMAAABkAAQAAP__"), "/", "!Upgrade:", "!HTTP2-Settings:")
	f("h2c twice", get("/", "Connection: upgrade", "Upgrade: h2c,h2c"), "/", "!Upgrade:")
	f("Max-Forwards counts down", "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 5\r\n\r\n", "/", "Max-Forwards: 4")
	f("Max-Forwards of GET stays", get("/", "Max-Forwards: 5"), "/", "Max-Forwards: 5")

	// Chunks are the gateway's own: their extensions end here.
	f("chunk extension", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0002;a=b\r\nhi\r\n00;c\r\n\r\n", "/", "2\r\nhi\r\n0\r\n", "!0002", "!00;c")

	// Trailers.
	trailers := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n%s\r\n"
	f("trailer", fmt.Sprintf(trailers, "X-Sum: 7\r\n"), "/", "X-Sum: 7", "!Content-Length:")
	for _, name := range []string{
		"Content-Length", "Transfer-Encoding", "Host", "Connection", "Authorization", "Cookie", "X-Forwarded-For",
		"X-Forwarded-Proto", "Forwarded", "X-Real-Ip", "Via", "Trailer", "TE", "Expect", "Content-Type", "Range",
		"X-Request-Id", "Max-Forwards", "Upgrade", "Cache-Control", "Content-Encoding", "Content-Range",
	} {
		f("trailer "+name, fmt.Sprintf(trailers, name+": evil\r\n"), "/", "!"+name+": evil")
		f("trailer "+name+" in capitals", fmt.Sprintf(trailers, strings.ToUpper(name)+": evil\r\n"), "/", "!"+name+": evil")
	}
}

// TestBodiesDoNotMix holds that what one client sent behind its body never
// becomes part of another's.
func TestBodiesDoNotMix(t *testing.T) {
	b := newRecorder(t, nil)
	g := openGate(t, "http://"+b.addr(), "")
	const rounds = 40
	large := strings.Repeat("x", 20000)
	for range rounds {
		g.ask("POST /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 20000\r\n\r\n" + large + "5\r\nEVIL!\r\n0\r\n\r\n")
		if r := g.ask("POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n"); r == nil || r.status != 200 {
			t.Fatalf("got %+v, want 200", r)
		}
	}
	g.end()
	for _, r := range b.settle() {
		if want := map[string]string{"POST /large": large, "POST /chunked": "good"}[r.line()]; r.body != want {
			t.Fatalf("the backend saw %.80q in %s, want %.20q", r.body, r.line(), want)
		}
	}
}

// TestHostileAnswers holds that an answer with broken framing is a 502 or a cut
// connection, never a guess, and that the connection that it came on is never
// used again: nothing of it reaches another client.
func TestHostileAnswers(t *testing.T) {
	f := func(name, request, answer, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			answer, end := strings.CutSuffix(answer, "<end>")
			b := newRecorder(t, func(n int, r *received) (string, bool) {
				if n == 1 {
					return answer, end
				}
				return "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean", false
			})
			g := openGate(t, "http://"+b.addr(), "")
			method, _, _ := strings.Cut(request, " ")
			got := g.dial().converse(request, len(request), 1, method)
			if got != want {
				t.Errorf("the client got %q, want %q", got, want)
			}
			if r := g.ask("GET /second HTTP/1.1\r\nHost: a\r\n\r\n"); r == nil || r.status != 200 || r.body != "clean" {
				t.Errorf("the second client got %+v", r)
			}
			g.end()
			list := b.settle()
			for _, r := range list[1:] {
				if r.conn == list[0].conn {
					t.Errorf("the connection of the answer was used again, for %s", r)
				}
			}
		})
	}
	const (
		get  = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
		head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
		post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
		old  = "GET / HTTP/1.0\r\nHost: a\r\n\r\n"
		ok   = "HTTP/1.1 200 OK\r\n"
		evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
		bad  = "502 kept"
	)
	// Heads.
	f("both lengths", get, ok+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+evil, bad)
	f("length twice", get, ok+"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", bad)
	f("length twice, equal", get, ok+"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", bad)
	f("length a list", get, ok+"Content-Length: 5, 5\r\n\r\nhello", bad)
	f("length signed", get, ok+"Content-Length: +5\r\n\r\nhello", bad)
	f("length negative", get, ok+"Content-Length: -5\r\n\r\nhello", bad)
	f("length too large", get, ok+"Content-Length: 9223372036854775808\r\n\r\nhello", bad)
	f("length empty", get, ok+"Content-Length:\r\n\r\nhello", bad)
	f("coding unknown", get, ok+"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", bad)
	f("coding not ending in chunked", get, ok+"Transfer-Encoding: gzip\r\n\r\nhello<end>", bad)
	f("coding identity", get, ok+"Transfer-Encoding: identity\r\n\r\nhello<end>", bad)
	f("coding on two lines", get, ok+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", bad)
	f("coding in HTTP/1.0", get, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", bad)
	f("coding with a vertical tab", get, ok+"Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", bad)
	f("bare LF", get, "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", bad)
	f("bare LF behind a field", get, ok+"X: y\nContent-Length: 5\r\n\r\nhello", bad)
	f("bare LF as the empty line", get, ok+"Content-Length: 5\r\n\nhello", bad)
	f("bare CR in a value", get, ok+"X: y\rSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n", bad)
	f("NUL in a value", get, ok+"X: y\x00\r\nContent-Length: 0\r\n\r\n", bad)
	f("control in the reason", get, "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n", bad)
	f("obs-fold", get, ok+"X: y\r\n z\r\nContent-Length: 0\r\n\r\n", bad)
	f("no colon", get, ok+"X\r\nContent-Length: 0\r\n\r\n", bad)
	f("empty name", get, ok+": x\r\nContent-Length: 0\r\n\r\n", bad)
	f("status 99", get, "HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n", bad)
	f("status 099", get, "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n", bad)
	f("status 1000", get, "HTTP/1.1 1000 Odd\r\nContent-Length: 0\r\n\r\n", bad)
	f("status no number", get, "HTTP/1.1 2x0 Odd\r\nContent-Length: 0\r\n\r\n", bad)
	f("status signed", get, "HTTP/1.1 +20 Odd\r\nContent-Length: 0\r\n\r\n", bad)
	f("two spaces before the status", get, "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n", bad)
	f("HTTP/2.0", get, "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", bad)
	f("HTTP/0.9", get, "<html>hello</html><end>", bad)
	f("garbage", get, "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f", bad)
	f("another protocol", get, "ICY 200 OK\r\nContent-Length: 0\r\n\r\n", bad)
	f("empty line first", get, "\r\n"+evil, bad)
	f("nothing", get, "<end>", bad)
	f("half a head", get, ok+"Content-Le<end>", bad)
	f("head without an end", get, ok+strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 100), bad)
	f("too many fields", get, ok+strings.Repeat("X: y\r\n", 300)+"Content-Length: 0\r\n\r\n", bad)
	f("one line without an end", get, strings.Repeat("x", 70<<10), bad)
	f("Connection with a word that is none", get, ok+"Connection: a b\r\nContent-Length: 0\r\n\r\n", bad)

	// Interim answers.
	f("flood of interim answers", get, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 40)+ok+"Content-Length: 0\r\n\r\n", strings.Repeat("(103) ", 32)+"502 kept")
	f("flood of 100", get, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 40)+ok+"Content-Length: 0\r\n\r\n", bad)
	f("101 that nobody asked for", get, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"+evil, bad)
	f("interim answer, broken", get, "HTTP/1.1 103 Early Hints\r\nX : y\x00\r\n\r\n"+ok+"Content-Length: 0\r\n\r\n", bad)
	f("interim answer with a body", get, "HTTP/1.1 103 Early Hints\r\nContent-Length: 4\r\n\r\nevil"+ok+"Content-Length: 0\r\n\r\n", "(103) 502 kept")

	// What follows where nothing may.
	f("longer than its length", get, ok+"Content-Length: 2\r\n\r\nok"+evil, "200 kept")
	f("longer than its chunks", get, ok+"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"+evil, "200 kept")
	f("body of HEAD", head, ok+"Content-Length: 4\r\n\r\nevil", "200 kept")
	f("answer behind HEAD", head, ok+"Content-Length: 0\r\n\r\n"+evil, "200 kept")
	f("chunks of HEAD", head, ok+"Transfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", "200 kept")
	f("body of 204", get, "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil", "204 kept")
	f("answer behind 204", get, "HTTP/1.1 204 No Content\r\n\r\n"+evil, "204 kept")
	f("body of 304", get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil", "304 kept")
	f("chunks of 204", get, "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", "204 kept")
	f("two answers", post, ok+"Content-Length: 0\r\n\r\n"+evil, "200 kept")
	f("one byte more", get, ok+"Content-Length: 0\r\n\r\n\n", "200 kept")
	f("no length at all", get, ok+"\r\nhello<end>", "200 kept")
	f("no length at all, HTTP/1.0 client", old, ok+"\r\nhello<end>", "200 closed")
	f("close, then an answer", get, ok+"Connection: close\r\nContent-Length: 2\r\n\r\nok"+evil+"<end>", "200 kept")
	f("HTTP/1.0 without keep-alive", get, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok<end>", "200 kept")

	// Bodies that break under way: the client must not take a part for the whole.
	big := strings.Repeat("x", 40000)
	f("shorter than its length", get, ok+"Content-Length: 10\r\n\r\nhello<end>", "200 cut")
	f("shorter than its length, large", get, ok+"Content-Length: 100000\r\n\r\n"+big+"<end>", "200 cut")
	f("chunks without an end", get, ok+"Transfer-Encoding: chunked\r\n\r\n9c40\r\n"+big+"\r\n<end>", "200 cut")
	f("bad chunk size later", get, ok+"Transfer-Encoding: chunked\r\n\r\n9c40\r\n"+big+"\r\nzz\r\n", "200 cut")
	f("chunk longer than its size", get, ok+"Transfer-Encoding: chunked\r\n\r\n9c3f\r\n"+big+"\r\n0\r\n\r\n", "200 cut")
	f("bad trailer", get, ok+"Transfer-Encoding: chunked\r\n\r\n9c40\r\n"+big+"\r\n0\r\nX : y\r\n\r\n", "200 cut")
	f("chunks cut, HTTP/1.0 client", old, ok+"Transfer-Encoding: chunked\r\n\r\n9c40\r\n"+big+"\r\n<end>", "200 cut")
	for name, chunk := range map[string]string{
		"bad chunk size": "zz\r\nhello\r\n0\r\n\r\n", "chunk size with plus": "+5\r\nhello\r\n0\r\n\r\n",
		"chunk size with 0x": "0x5\r\nhello\r\n0\r\n\r\n", "chunk size of 2^64": "10000000000000005\r\nhello\r\n0\r\n\r\n",
		"chunk size with bare LF": "5\nhello\n0\n\n", "chunk without CRLF": "5\r\nhello0\r\n\r\n",
	} {
		f(name, get, ok+"Transfer-Encoding: chunked\r\n\r\n"+chunk, "502 kept")
	}
}

// TestHostileAnswersOverTLS holds the same where TLS hides from the socket that
// more has come: records that were received with the answer, and not yet read.
func TestHostileAnswersOverTLS(t *testing.T) {
	f := func(name, answer string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			s := httptest.NewTLSServer(nil)
			conf := s.TLS
			s.Close()
			conf.NextProtos = nil
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			b := serveRecorder(t, &tlsListener{ln, conf}, func(n int, r *received) (string, bool) {
				if n == 1 {
					return answer, false
				}
				return "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean", false
			})
			g := openGate(t, "https://"+b.addr(), "")
			// One client, so that each connection is back before the next request.
			c, ask := g.dial(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
			for i, want := range []string{"ok", "clean", "clean"} {
				c.send(ask, len(ask))
				if r := c.read("GET"); r == nil || r.status != 200 || !strings.HasPrefix(r.body, want) {
					t.Errorf("request %d got %+v, want %s", i, r, want)
				}
			}
			g.end()
			list := b.settle()
			if list[1].conn == list[0].conn {
				t.Error("the connection of the hostile answer was used again")
			}
			if list[2].conn != list[1].conn {
				t.Error("the connection of a clean answer was not used again")
			}
		})
	}
	const ok, evil = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	f("an answer in the same record", ok+evil)
	f("an answer in the next record", ok+"|"+evil)
	f("an answer in records of its own", ok+"|HTTP/1.1 200 |OK\r\nContent-Length: 4\r\n\r\nevil")
	f("one byte more", ok+"|\n")
	f("an answer behind chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n|"+evil)
	// The answer ends exactly where the buffer does, in the middle of a record.
	first, second := "HTTP/1.1 200 OK\r\n", "Content-Length: 16342\r\n\r\n"
	f("an answer behind a full buffer", first+"|"+second+"ok"+strings.Repeat("x", 16342-2)+evil[:16384-len(second)-16342])
}

// TestHostileUpgrades holds that a connection becomes a tunnel only where both
// sides agree on a protocol that is not HTTP, and only after the whole request.
func TestHostileUpgrades(t *testing.T) {
	const (
		tunnelled = "GET /tunnelled HTTP/1.1\r\nHost: inside\r\n\r\n"
		switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: "
	)
	f := func(name, request, offered, answer, want string, seen ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			b := newRecorder(t, func(n int, r *received) (string, bool) {
				if n == 1 {
					return answer, false
				}
				return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false
			})
			g := openGate(t, "http://"+b.addr(), "")
			c := g.dial()
			request := strings.Replace(request, "\r\n\r\n", "\r\nConnection: upgrade\r\nUpgrade: "+offered+"\r\n\r\n", 1) + tunnelled
			c.send(request, len(request))
			got := []string{}
			for range 2 {
				r := c.read("GET")
				if r == nil {
					got = append(got, "closed")
					break
				}
				got = append(got, fmt.Sprint(r.status))
			}
			if strings.Join(got, " ") != want {
				t.Errorf("the client got %q, want %q", got, want)
			}
			c.Close()
			g.end()
			var arrived []string
			for _, r := range b.settle() {
				line := r.String()
				if !strings.Contains(r.head, "Via: ") {
					line += " raw"
				}
				arrived = append(arrived, line)
			}
			if !slices.Equal(arrived, seen) {
				t.Errorf("the backend saw %q, want %q", arrived, seen)
			}
		})
	}
	const get, post = "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
	const chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
	f("agreed", get, "websocket", switching+"websocket\r\n\r\n", "101 200", "GET /", "GET /tunnelled raw")
	f("agreed, in other letters", get, "WebSocket", switching+"websocket\r\n\r\n", "101 200", "GET /", "GET /tunnelled raw")
	f("one of two agreed", get, "a/1, b", switching+"b\r\n\r\n", "101 200", "GET /", "GET /tunnelled raw")
	f("behind a body", post, "a", switching+"a\r\n\r\n", "101 200", "POST / hi", "GET /tunnelled raw")
	f("behind chunks", chunked, "a", switching+"a\r\n\r\n", "101 200", "POST / hi", "GET /tunnelled raw")
	f("refused", get, "websocket", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", "426 200", "GET /", "GET /tunnelled")
	f("answered as if there were none", get, "websocket", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 200", "GET /", "GET /tunnelled")
	f("to another protocol", get, "websocket", switching+"h2c\r\n\r\n", "502 200", "GET /", "GET /tunnelled")
	f("to another protocol besides", get, "a", switching+"a, b\r\n\r\n", "502 200", "GET /", "GET /tunnelled")
	f("to none", get, "a", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n", "502 200", "GET /", "GET /tunnelled")
	f("without Connection", get, "a", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\n\r\n", "502 200", "GET /", "GET /tunnelled")
	for _, http := range []string{"h2c", "H2C", "h2", "HTTP/2.0", "TLS/1.0", "TLS/1.2, HTTP/1.1", "websocket, h2c"} {
		f("offer of "+http, get, http, switching+http+"\r\n\r\n", "502 200", "GET /", "GET /tunnelled")
	}
}

// TestUpgradeBeforeTheBodyEnds holds that a target cannot switch protocols while
// the request is still on its way: what follows would be taken for both.
func TestUpgradeBeforeTheBodyEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			done <- err
			return
		}
		_, err = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
		done <- err
	}()
	g := openGate(t, "http://"+ln.Addr().String(), "")
	c := g.dial()
	send := "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"
	c.send(send, len(send))
	if r := c.read("POST"); r == nil || r.status != 502 || !r.close {
		t.Errorf("the client got %+v, want 502 and a close", r)
	}
	g.end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestEditedTrailers holds that a field which the route sets or takes away does
// not come in again by the trailer section, in neither direction.
func TestEditedTrailers(t *testing.T) {
	b := newRecorder(t, func(int, *received) (string, bool) {
		return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Inner: evil\r\nSet-Cookie: evil\r\nX-Fine: 1\r\n\r\n", false
	})
	g := openGate(t, "http://"+b.addr(), `
forwarded: { request_id: X-Correlation }
routes:
  - name: all
    match: { path: "/*" }
    upstream: app
    request: { headers: { set: { X-User: nobody }, remove: [X-Secret] } }
    response: { headers: { remove: [X-Inner] } }
`)
	c := g.dial()
	send := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx-user: evil\r\nX-Secret: evil\r\nX-Correlation: evil\r\nX-Fine: 1\r\n\r\n"
	c.send(send, len(send))
	r := c.read("POST")
	g.end()
	list := b.settle()
	if len(list) != 1 || list[0].trailers != "X-Fine: 1\r\n" || !strings.Contains(list[0].head, "\r\nX-User: nobody\r\n") {
		t.Errorf("the backend saw %+v", list[0])
	}
	if r == nil || r.body != "ok" || len(r.trailer) != 1 || r.trailer.Get("X-Fine") != "1" {
		t.Errorf("the client got %+v", r)
	}
}

// TestWhatTheClientSees holds what of an answer goes on. A line that begins
// with "!" must not be there.
func TestWhatTheClientSees(t *testing.T) {
	f := func(name, method, answer string, lines ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			b := newRecorder(t, func(int, *received) (string, bool) { return answer, false })
			g := openGate(t, "http://"+b.addr(), "")
			c := g.dial()
			send := method + " / HTTP/1.1\r\nHost: a\r\n\r\n"
			c.send(send, len(send))
			var head strings.Builder
			for !strings.HasSuffix(head.String(), "\r\n\r\n") {
				line, err := c.in.ReadString('\n')
				if head.WriteString(line); err != nil {
					t.Fatalf("%q, then %v", head.String(), err)
				}
			}
			g.end()
			b.settle()
			for _, line := range lines {
				line, not := strings.CutPrefix(line, "!")
				if strings.Contains(head.String(), "\r\n"+line) == not {
					t.Errorf("line %q there: %v, in\n%s", line, not, head.String())
				}
			}
		})
	}
	const ok, end = "HTTP/1.1 200 OK\r\n", "\r\n\r\n"
	f("hop by hop", "GET", ok+"Connection: keep-alive, X-One\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nX-One: 1\r\nX-Two: 2\r\nContent-Length: 0"+end,
		"!Connection:", "!Keep-Alive:", "!Proxy-Connection:", "!Upgrade:", "!X-One:", "X-Two: 2\r\n", "Content-Length: 0\r\n")
	f("space before the colon", "GET", ok+"X-One \t: 1\r\nContent-Length: 0"+end, "X-One: 1\r\n")
	f("Set-Cookie named by Connection stays", "GET", ok+"Connection: set-cookie\r\nSet-Cookie: a=b\r\nContent-Length: 0"+end, "Set-Cookie: a=b\r\n")
	f("length of HEAD", "HEAD", ok+"Content-Length: 5"+end, "Content-Length: 5\r\n", "!Transfer-Encoding:")
	f("coding of HEAD", "HEAD", ok+"Transfer-Encoding: chunked"+end, "!Content-Length:", "!Transfer-Encoding:")
	f("length of 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5"+end, "Content-Length: 5\r\n")
	f("length of 204", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5"+end, "!Content-Length:", "!Transfer-Encoding:")
	f("chunks", "GET", ok+"Transfer-Encoding: chunked\r\n\r\n0"+end, "!Content-Length:", "Transfer-Encoding: chunked\r\n")
	f("high bytes stay", "GET", ok+"X-One: caf\xc3\xa9\r\nContent-Length: 0"+end, "X-One: caf\xc3\xa9\r\n")
}

// FuzzForwarding sends any bytes through a gateway and holds that the backend
// sees only whole, sound heads with one framing each, and that no client gets
// more answers than requests were made of its bytes.
func FuzzForwarding(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b?c HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\nX: y\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.0\r\n\r\n",
		"POST http://b/../c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
		"GET /%2e%2e/%2f HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	b := newRecorder(f, func(int, *received) (string, bool) {
		return "HTTP/1.1 200 OK\r\nX-Recorded: 1\r\nContent-Length: 0\r\n\r\n", false
	})
	g := openGate(f, "http://"+b.addr(), "")
	f.Cleanup(func() { g.end(); b.settle() })
	head := regexp.MustCompile("^[!#$%&'*+\\-.^_`|~0-9A-Za-z]+ (\\*|/[\\x21-\\x7e]*) HTTP/1\\.1\r\n([!#$%&'*+\\-.^_`|~0-9A-Za-z]+: ?[^\r\n\x00]*\r\n)+\r\n$")
	framing := regexp.MustCompile("(?i)\r\n(content-length|transfer-encoding): ?([^\r\n]*)")
	f.Fuzz(func(t *testing.T, raw []byte) {
		b.mu.Lock()
		b.requests = nil
		b.mu.Unlock()
		c, err := net.Dial("tcp", g.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write(raw)
		_ = c.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("%q: %v", raw, err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		whole := 0
		for _, r := range b.requests {
			if r.head == "" {
				continue // still on its way, from a client that has gone
			}
			lengths := framing.FindAllStringSubmatch(r.head, -1)
			if !head.MatchString(r.head) || len(lengths) > 1 || strings.Count(strings.ToLower(r.head), "\r\nhost: ") != 1 {
				t.Fatalf("%q: the backend saw %q", raw, r.head)
			}
			if r.whole {
				whole++
			}
		}
		if answers := strings.Count(string(got), "X-Recorded: 1\r\n"); answers > whole {
			t.Fatalf("%q: %d answers to %d requests", raw, answers, whole)
		}
	})
}
