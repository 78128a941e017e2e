package wire

import (
	"bytes"
	"encoding/binary"
)

// Kind names the fields that a gateway itself acts on, so that their names are
// compared once, when the head is parsed.
type Kind uint8

// The kinds. Those up to lastHopByHop concern one connection only and are
// never forwarded (RFC 9110 7.6.1); Other is every field without a role here.
const (
	Other Kind = iota

	Connection
	KeepAlive
	ProxyConnection
	ProxyAuthenticate
	ProxyAuthorization
	TE
	TransferEncoding
	Upgrade
	HTTP2Settings
	lastHopByHop

	Trailer
	ContentLength
	Host
	Expect
	MaxForwards
	Via
	Forwarded
	XForwardedFor
	XForwardedHost
	XForwardedProto
	XForwardedPort
	XRealIP
	XRequestID
	Traceparent
	Tracestate
	Authorization
	Cookie
	SetCookie
	UserAgent
	Referer
	ContentType
	ContentEncoding
	ContentRange
	CacheControl
	Date
	Server
	Location
	Range
	RetryAfter
	SecWebSocketKey
)

// HopByHop tells whether fields of this kind end at this hop.
func (k Kind) HopByHop() bool { return k != Other && k < lastHopByHop }

// Field is one field line. Name and Value are slices of the head it was parsed
// from, the value without the white space around it.
type Field struct {
	Name  []byte
	Value []byte
	Kind  Kind
	Drop  bool // named by Connection: it ends at this hop
}

// Malformed is a message that breaks the grammar of HTTP. Status is what a
// client that sent it is answered; an answer from a target is a 502 whatever
// Status says. The connection it came on must not be used again.
type Malformed struct {
	Status int
	Reason string // for the log; says which rule was broken
}

func (m *Malformed) Error() string { return m.Reason }

func malformed(reason string) *Malformed { return &Malformed{400, reason} }

// ErrIncomplete says that the bytes so far are good but not all.
var ErrIncomplete = &Malformed{0, "incomplete"}

var (
	errBareLF         = malformed("line ends in LF without CR")
	errBareCR         = malformed("CR without LF")
	errFold           = malformed("field line begins with white space (obs-fold)")
	errFieldName      = malformed("field name is not a token, or white space before its colon")
	errFieldValue     = malformed("control character in a field value")
	errTooManyFields  = &Malformed{431, "more header fields than server.max_header_fields"}
	errHost           = malformed("Host is not host[:port]")
	errHostMissing    = malformed("HTTP/1.1 request without Host")
	errHostTwice      = malformed("more than one Host")
	errLength         = malformed("Content-Length is not a number")
	errLengthTwice    = malformed("more than one Content-Length")
	errBothLengths    = malformed("both Content-Length and Transfer-Encoding")
	errCoding         = malformed("Transfer-Encoding is not a list of codings that ends in one chunked")
	errCodingUnknown  = &Malformed{501, "transfer coding other than chunked"}
	errCodingInHTTP10 = malformed("Transfer-Encoding in an HTTP/1.0 message")
	errConnection     = malformed("Connection is not a list of tokens")
	errOptions        = malformed("more than 32 field names in Connection")
)

// Classes of bytes, one bit each.
const (
	classToken uint8 = 1 << iota // RFC 9110 5.6.2 tchar
	classPath                    // may stand in a path (see target.go)
	classQuery                   // may stand in a query
	classHex
	classHost  // may stand in a reg-name or an IPv4 address
	classValue // may stand in a field value: HTAB, SP, VCHAR, obs-text
)

var class = func() (t [256]uint8) {
	set := func(bit uint8, chars string) {
		for i := range len(chars) {
			t[chars[i]] |= bit
		}
	}
	const alnum = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	const unreserved, subDelims = alnum + "-._~", "!$&'()*+,;="
	set(classToken, alnum+"!#$%&'*+-.^_`|~")
	set(classHex, "0123456789abcdefABCDEF")
	set(classHost, unreserved+subDelims+"%")
	// [ ] and | are not in RFC 3986's pchar, but browsers send them as they
	// are (WHATWG URL), and no server reads them as anything else.
	set(classPath, unreserved+subDelims+":@/%"+"[]|")
	set(classQuery, unreserved+subDelims+":@/?%"+"[]|{}^`\\")
	for c := 0x20; c < 0x100; c++ {
		if c != 0x7f {
			t[c] |= classValue
		}
	}
	t['\t'] |= classValue
	return t
}()

// all tells whether every byte of b is of the class.
func all(b []byte, bit uint8) bool {
	for _, c := range b {
		if class[c]&bit == 0 {
			return false
		}
	}
	return true
}

// IsToken tells whether b is a token (RFC 9110 5.6.2).
func IsToken(b []byte) bool { return len(b) > 0 && all(b, classToken) }

// IsFieldValue tells whether b may be a field's value.
func IsFieldValue(b []byte) bool {
	for len(b) >= 8 {
		// Eight bytes at a time; a hit may be a false alarm and is looked at
		// byte by byte.
		const ones, high = 0x0101010101010101, 0x8080808080808080
		x := binary.LittleEndian.Uint64(b)
		del := x ^ (0x7f * ones)
		if ((x-0x20*ones)&^x|(del-ones)&^del)&high != 0 && !all(b[:8], classValue) {
			return false
		}
		b = b[8:]
	}
	return all(b, classValue)
}

// EqualFold tells whether the token b is lower, which is in lower case and
// holds only letters, digits and hyphens.
func EqualFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c|0x20 != lower[i] {
			return false
		}
	}
	return true
}

// names holds the known names by length, so that most names are ruled out by
// their length and first letter alone.
var names = func() (t [24][]struct {
	lower string
	kind  Kind
}) {
	for name, kind := range map[string]Kind{
		"connection": Connection, "keep-alive": KeepAlive, "proxy-connection": ProxyConnection,
		"proxy-authenticate": ProxyAuthenticate, "proxy-authorization": ProxyAuthorization,
		"te": TE, "trailer": Trailer, "transfer-encoding": TransferEncoding, "upgrade": Upgrade,
		"http2-settings": HTTP2Settings, "content-length": ContentLength, "host": Host,
		"expect": Expect, "max-forwards": MaxForwards, "via": Via, "forwarded": Forwarded,
		"x-forwarded-for": XForwardedFor, "x-forwarded-host": XForwardedHost,
		"x-forwarded-proto": XForwardedProto, "x-forwarded-port": XForwardedPort,
		"x-real-ip": XRealIP, "x-request-id": XRequestID, "traceparent": Traceparent,
		"tracestate": Tracestate, "authorization": Authorization, "cookie": Cookie,
		"set-cookie": SetCookie, "user-agent": UserAgent, "referer": Referer,
		"content-type": ContentType, "content-encoding": ContentEncoding,
		"content-range": ContentRange, "cache-control": CacheControl, "date": Date,
		"server": Server, "location": Location, "range": Range, "retry-after": RetryAfter,
		"sec-websocket-key": SecWebSocketKey,
	} {
		t[len(name)] = append(t[len(name)], struct {
			lower string
			kind  Kind
		}{name, kind})
	}
	return t
}()

// KindOf names the field name.
func KindOf(name []byte) Kind {
	if len(name) >= len(names) {
		return Other
	}
	for _, k := range names[len(name)] {
		if name[0]|0x20 == k.lower[0] && EqualFold(name, k.lower) {
			return k.kind
		}
	}
	return Other
}

// parseFields reads field lines from b[i:] up to and with the empty line that
// ends them, and appends them to fields. It returns where the empty line ends.
// An answer's field name may have white space before its colon, which is
// dropped (RFC 9112 5.1); a request's may not.
func parseFields(b []byte, i int, fields []Field, most int, answer bool) (int, []Field, *Malformed) {
	for {
		if i >= len(b) {
			return 0, fields, ErrIncomplete
		}
		if b[i] == '\r' {
			if i+1 >= len(b) {
				return 0, fields, ErrIncomplete
			}
			if b[i+1] != '\n' {
				return 0, fields, errBareCR
			}
			return i + 2, fields, nil
		}
		start := i
		for i < len(b) && class[b[i]]&classToken != 0 {
			i++
		}
		if i >= len(b) {
			return 0, fields, ErrIncomplete
		}
		name := b[start:i]
		if answer {
			for i < len(b) && (b[i] == ' ' || b[i] == '\t') && i > start {
				i++
			}
			if i >= len(b) {
				return 0, fields, ErrIncomplete
			}
		}
		if b[i] != ':' || len(name) == 0 {
			switch c := b[start]; {
			case c == '\n':
				return 0, fields, errBareLF
			case c == ' ' || c == '\t':
				return 0, fields, errFold
			}
			return 0, fields, errFieldName
		}
		i++
		end := bytes.IndexByte(b[i:], '\n')
		if end < 0 {
			return 0, fields, ErrIncomplete
		}
		line := b[i : i+end]
		i += end + 1
		if len(line) == 0 || line[len(line)-1] != '\r' {
			return 0, fields, errBareLF
		}
		value := TrimOWS(line[:len(line)-1])
		if !IsFieldValue(value) {
			return 0, fields, errFieldValue
		}
		if len(fields) == most {
			return 0, fields, errTooManyFields
		}
		fields = append(fields, Field{Name: name, Value: value, Kind: KindOf(name)})
	}
}

// TrimOWS cuts the optional white space around b.
func TrimOWS(b []byte) []byte {
	b = trimLeading(b)
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

func trimLeading(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	return b
}

// NextItem cuts the first item off a comma-separated list and returns it
// without white space, and what is left. Empty items are skipped
// (RFC 9110 5.6.1.2); the item is nil at the end of the list.
func NextItem(list []byte) (item, rest []byte) {
	for len(list) > 0 {
		if i := bytes.IndexByte(list, ','); i >= 0 {
			item, list = TrimOWS(list[:i]), list[i+1:]
		} else {
			item, list = TrimOWS(list), nil
		}
		if len(item) > 0 {
			return item, list
		}
	}
	return nil, nil
}

// maxNamed bounds the fields that Connection may name: each is looked for among
// all fields.
const maxNamed = 32

// framing collects what the fields of one head say about its body and its
// connection.
type framing struct {
	length    int64 // -1 when there is no Content-Length
	chunked   bool
	close     bool
	keepAlive bool
	upgrade   bool // Connection: upgrade
	te        bool // Connection: te
}

// read adds what one field says.
func (f *framing) read(fields []Field, minor int) *Malformed {
	f.length = -1
	coded, named := false, 0
	for i := range fields {
		switch v := fields[i].Value; fields[i].Kind {
		case ContentLength:
			if f.length >= 0 {
				return errLengthTwice
			}
			n, ok := parseLength(v)
			if !ok {
				return errLength
			}
			f.length = n
		case TransferEncoding:
			if coded {
				return errCoding
			}
			coded = true
			if !EqualFold(v, "chunked") {
				return codingFault(v)
			}
			f.chunked = true
		case Connection:
			if EqualFold(v, "keep-alive") {
				f.keepAlive = true
				continue
			}
			for item, rest := NextItem(v); item != nil; item, rest = NextItem(rest) {
				switch {
				case EqualFold(item, "close"):
					f.close = true
				case EqualFold(item, "keep-alive"):
					f.keepAlive = true
				case EqualFold(item, "upgrade"):
					f.upgrade = true
				case EqualFold(item, "te"):
					f.te = true
				case !IsToken(item):
					return errConnection
				default:
					if named++; named > maxNamed {
						return errOptions
					}
				}
			}
		}
	}
	switch {
	case coded && minor == 0:
		return errCodingInHTTP10
	case coded && f.length >= 0:
		return errBothLengths
	}
	if named > 0 {
		dropNamed(fields)
	}
	return nil
}

// dropNamed marks the fields that a Connection field names. Fields that have a
// role of their own stay: a client must not be able to take X-Forwarded-For or
// Authorization away from the target by naming them.
func dropNamed(fields []Field) {
	for i := range fields {
		if fields[i].Kind != Connection {
			continue
		}
		for item, rest := NextItem(fields[i].Value); item != nil; item, rest = NextItem(rest) {
			if KindOf(item) != Other {
				continue
			}
			for j := range fields {
				if bytes.EqualFold(fields[j].Name, item) {
					fields[j].Drop = true
				}
			}
		}
	}
}

// codingFault tells a known list of codings that we do not speak from one that
// is no list of codings, or that does not end in exactly one chunked.
func codingFault(v []byte) *Malformed {
	n, chunkedAt := 0, -1
	for item, rest := NextItem(v); item != nil; item, rest = NextItem(rest) {
		n++
		if EqualFold(item, "chunked") {
			if chunkedAt >= 0 {
				return errCoding
			}
			chunkedAt = n
			continue
		}
		name, _, _ := bytes.Cut(item, []byte{';'})
		if name = TrimOWS(name); !IsToken(name) || EqualFold(name, "identity") {
			return errCoding
		}
	}
	if chunkedAt != n || n < 2 {
		return errCoding
	}
	return errCodingUnknown
}

// parseLength reads 1*DIGIT (RFC 9110 8.6) below 2^63.
func parseLength(v []byte) (int64, bool) {
	if len(v) == 0 || len(v) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return int64(n), n < 1<<63
}
