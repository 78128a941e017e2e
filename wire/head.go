package wire

import "bytes"

// Limits bounds a head. Zero values are not defaults: set both.
type Limits struct {
	Bytes  int // of the whole head, with the request or status line
	Fields int // field lines
}

var (
	errHeadTooLarge   = &Malformed{431, "head larger than server.max_header"}
	errTargetTooLong  = &Malformed{414, "request target larger than server.max_header"}
	errMethodTooLong  = &Malformed{501, "method longer than server.max_header"}
	errMethod         = malformed("method is not a token")
	errRequestLine    = malformed("request line is not METHOD SP target SP HTTP/1.x CRLF")
	errVersion        = malformed("no HTTP version in the request line")
	errVersionUnknown = &Malformed{505, "HTTP version other than 1.x"}
	errStatusLine     = malformed("status line is not HTTP/1.x SP 3DIGIT SP reason CRLF")
)

// Request is the head of a request. Its slices point into the bytes it was
// parsed from and live as long as these do.
type Request struct {
	Method    []byte
	Target    []byte // as it was sent
	Form      Form
	Scheme    []byte // of an absolute-form target
	Authority []byte // of an absolute-form target
	Path      []byte // of the target, as it was sent; "*" in asterisk form
	Query     []byte // without the "?"
	HasQuery  bool
	Minor     int // of HTTP/1.x
	Fields    []Field

	Host       []byte // the target's authority, or the Host field
	Length     int64  // of the body: -1 when Chunked, 0 when there is none
	Chunked    bool
	Close      bool   // the client will not use the connection again
	Upgrade    []byte // the protocols offered, when Connection names Upgrade
	Expect     bool   // 100-continue
	TETrailers bool   // the client takes trailers
}

// Parse reads a request head from the start of b. It returns its length, or an
// error: ErrIncomplete when b holds only a part, else what is wrong. One empty
// line before the request line is passed over (RFC 9112 2.2).
func (r *Request) Parse(b []byte, lim Limits) (int, *Malformed) {
	// What lies beyond the bound is not looked at, so that the verdict does not
	// hang on how much of the connection came in one read.
	n, err := r.parse(b[:min(len(b), lim.Bytes)], lim)
	if err == ErrIncomplete && len(b) >= lim.Bytes {
		return 0, tooLarge(b[:lim.Bytes])
	}
	return n, err
}

// tooLarge tells what of a head is too large, of which b is the start.
func tooLarge(b []byte) *Malformed {
	line := bytes.TrimPrefix(b, []byte("\r\n"))
	switch {
	case bytes.IndexByte(line, '\n') >= 0:
		return errHeadTooLarge
	case bytes.IndexByte(line, ' ') >= 0:
		return errTargetTooLong
	}
	return errMethodTooLong
}

func (r *Request) parse(b []byte, lim Limits) (int, *Malformed) {
	i := 0
	if len(b) > 0 && b[0] == '\r' {
		if len(b) < 2 {
			return 0, ErrIncomplete
		}
		if b[1] != '\n' {
			return 0, errBareCR
		}
		i = 2
	}
	start := i
	for i < len(b) && class[b[i]]&classToken != 0 {
		i++
	}
	if i >= len(b) {
		return 0, ErrIncomplete
	}
	if b[i] != ' ' || i == start {
		if b[i] == '\n' {
			return 0, errBareLF
		}
		return 0, errMethod
	}
	r.Method = b[start:i]
	i++
	end := bytes.IndexByte(b[i:], '\n')
	if end < 0 {
		return 0, ErrIncomplete
	}
	line := b[i : i+end]
	i += end + 1
	if len(line) == 0 || line[len(line)-1] != '\r' {
		return 0, errBareLF
	}
	line = line[:len(line)-1]
	sp := bytes.IndexByte(line, ' ')
	if sp <= 0 {
		return 0, errVersion
	}
	version := line[sp+1:]
	if len(version) != 8 || string(version[:5]) != "HTTP/" || version[6] != '.' ||
		version[5]-'0' > 9 || version[7]-'0' > 9 {
		return 0, errRequestLine
	}
	if version[5] != '1' {
		return 0, errVersionUnknown
	}
	// A higher minor version is spoken to as the highest we know (RFC 9110 2.5).
	r.Minor = min(int(version[7]-'0'), 1)
	if string(r.Method) == "CONNECT" {
		return 0, errConnect
	}
	if err := r.parseTarget(line[:sp]); err != nil {
		return 0, err
	}
	var err *Malformed
	if i, r.Fields, err = parseFields(b, i, r.Fields[:0], lim.Fields, false); err != nil {
		return 0, err
	}
	return i, r.interpret()
}

// interpret reads from the fields what concerns framing, the connection and
// the host.
func (r *Request) interpret() *Malformed {
	var f framing
	if err := f.read(r.Fields, r.Minor); err != nil {
		return err
	}
	r.Chunked, r.Length = f.chunked, max(f.length, 0)
	if f.chunked {
		r.Length = -1
	}
	r.Close = f.close || r.Minor == 0 && !f.keepAlive
	r.Host, r.Upgrade, r.Expect, r.TETrailers = nil, nil, false, false
	upgrades := 0
	for i := range r.Fields {
		switch v := r.Fields[i].Value; r.Fields[i].Kind {
		case Host:
			if r.Host != nil {
				return errHostTwice
			}
			if !ValidHost(v) {
				return errHost
			}
			r.Host = v
		case Upgrade:
			if upgrades++; f.upgrade && r.Minor > 0 {
				r.Upgrade = v
			}
		case Expect:
			r.Expect = r.Expect || r.Minor > 0 && hasToken(v, "100-continue")
		case TE:
			r.TETrailers = r.TETrailers || f.te && hasToken(v, "trailers")
		}
	}
	if upgrades > 1 {
		// The lines are one list, which would have to be copied to be handed
		// on as one. An Upgrade may be ignored; half of one may not be sent.
		r.Upgrade = nil
	}
	if r.Host == nil && r.Minor > 0 {
		return errHostMissing
	}
	if r.Form == AbsoluteForm {
		// RFC 9112 3.2.2: the Host field is ignored in favour of the target's.
		r.Host = r.Authority
	}
	return nil
}

func hasToken(list []byte, lower string) bool {
	for item, rest := NextItem(list); item != nil; item, rest = NextItem(rest) {
		if EqualFold(item, lower) {
			return true
		}
	}
	return false
}

// Response is the head of a response. Its slices point into the bytes it was
// parsed from and live as long as these do.
type Response struct {
	Status int
	Reason []byte
	Minor  int
	Fields []Field

	Length  int64 // of the body: -1 when Chunked or UntilClose
	Chunked bool
	// UntilClose: the body ends where the connection does (RFC 9112 6.3).
	UntilClose bool
	Close      bool // the target will not use the connection again
	Upgrade    []byte
}

// Parse reads a response head from the start of b. head says that it answers a
// HEAD request. It returns the head's length or an error, as Request.Parse does.
func (r *Response) Parse(b []byte, lim Limits, head bool) (int, *Malformed) {
	n, err := r.parse(b[:min(len(b), lim.Bytes)], lim, head)
	if err == ErrIncomplete && len(b) >= lim.Bytes {
		return 0, errHeadTooLarge
	}
	return n, err
}

func (r *Response) parse(b []byte, lim Limits, head bool) (int, *Malformed) {
	const prefix = "HTTP/1."
	if len(b) < len(prefix)+6 {
		for i := range min(len(b), len(prefix)) {
			if b[i] != prefix[i] {
				return 0, errStatusLine
			}
		}
		return 0, ErrIncomplete
	}
	if string(b[:len(prefix)]) != prefix || b[7]-'0' > 9 || b[8] != ' ' {
		return 0, errStatusLine
	}
	r.Minor = min(int(b[7]-'0'), 1)
	d1, d2, d3 := b[9]-'0', b[10]-'0', b[11]-'0'
	if d1 < 1 || d1 > 5 || d2 > 9 || d3 > 9 {
		return 0, errStatusLine
	}
	r.Status = int(d1)*100 + int(d2)*10 + int(d3)
	end := bytes.IndexByte(b[12:], '\n')
	if end < 0 {
		return 0, ErrIncomplete
	}
	line := b[12 : 12+end]
	if len(line) == 0 || line[len(line)-1] != '\r' {
		return 0, errBareLF
	}
	line = line[:len(line)-1]
	if len(line) > 0 && line[0] != ' ' || !IsFieldValue(line) {
		return 0, errStatusLine
	}
	r.Reason = TrimOWS(line)
	i, fields, err := parseFields(b, 12+end+1, r.Fields[:0], lim.Fields, true)
	r.Fields = fields
	if err != nil {
		return 0, err
	}
	return i, r.interpret(head)
}

func (r *Response) interpret(head bool) *Malformed {
	var f framing
	if err := f.read(r.Fields, r.Minor); err != nil {
		return err
	}
	r.Close = f.close || r.Minor == 0 && !f.keepAlive
	r.Upgrade = nil
	if f.upgrade {
		for i := range r.Fields {
			if r.Fields[i].Kind == Upgrade {
				r.Upgrade = r.Fields[i].Value
			}
		}
	}
	r.Chunked, r.UntilClose, r.Length = false, false, 0
	switch {
	case head || r.Status < 200 || r.Status == 204 || r.Status == 304:
		// No body whatever the fields say (RFC 9112 6.3).
	case f.chunked:
		r.Chunked, r.Length = true, -1
	case f.length >= 0:
		r.Length = f.length
	default:
		r.UntilClose, r.Length, r.Close = true, -1, true
	}
	return nil
}
