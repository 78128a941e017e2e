package cache

import (
	"bytes"
	"slices"

	"sluice/wire"
)

const (
	mostVary      = 16  // names in Vary
	mostVaryBytes = 512 // and their bytes
)

// form is how a field's value is compared (RFC 9111 4.1 allows what does not
// change its meaning).
type form uint8

const (
	plain   form = iota // without white space around commas
	lower               // and without regard to case
	codings             // as the set of codings that it allows
)

func (p *Policy) formOf(name []byte) form {
	switch {
	case !p.normalise:
		return plain
	case string(name) == "accept-encoding":
		return codings
	case string(name) == "accept-language", string(name) == "accept-charset":
		return lower
	}
	return plain
}

// AppendVariant writes the secondary key (RFC 9111 4.1): for each name of vary,
// which is an Entry's, what the request says. Requests that an answer with this
// Vary fits alike get the same bytes. Nothing is allocated when dst is large
// enough.
func (p *Policy) AppendVariant(dst []byte, vary []byte, a *Ask) []byte {
	dst = appendPart(dst, vary)
	for rest := vary; len(rest) > 0; {
		var name []byte
		name, rest, _ = bytes.Cut(rest, comma)
		dst = appendFieldPart(dst, a.fields, name, p.formOf(name))
	}
	return dst
}

var comma = []byte(",")

// appendForm writes one line's value, without white space around its commas.
func appendForm(dst, value []byte, how form) []byte {
	quoted := false
	for i, c := range value {
		switch {
		case c == '"' && (i == 0 || value[i-1] != '\\'):
			quoted = !quoted
		case quoted:
		case c == ' ' || c == '\t':
			if gap(value, i) {
				continue
			}
		case how != plain && 'A' <= c && c <= 'Z':
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}

// gap tells whether the white space at i stands beside a comma.
func gap(b []byte, i int) bool {
	j, k := i, i
	for j > 0 && (b[j] == ' ' || b[j] == '\t') {
		j--
	}
	for k < len(b)-1 && (b[k] == ' ' || b[k] == '\t') {
		k++
	}
	return b[j] == ',' || b[k] == ','
}

// knownCodings are the content codings that are told apart by name, one bit each.
var knownCodings = []string{"br", "gzip", "zstd", "deflate", "compress", "identity", "*"}

// appendCodings brings an Accept-Encoding value, which is dst[from:] in lower
// case, into one form: a byte of the codings allowed, a byte of those refused
// (q=0). A value with a coding that is not known stays as it is.
func appendCodings(dst []byte, from int) []byte {
	var allowed, refused byte
	for item, rest := wire.NextItem(dst[from:]); item != nil; item, rest = wire.NextItem(rest) {
		name, parameter, _ := bytes.Cut(item, semicolon)
		name, parameter = wire.TrimOWS(name), wire.TrimOWS(parameter)
		if string(name) == "x-gzip" {
			name = gzipName
		}
		bit := slices.Index(knownCodings, string(name))
		if bit < 0 {
			return dst
		}
		if zeroWeight(parameter) {
			refused |= 1 << bit
		} else {
			allowed |= 1 << bit
		}
	}
	// Bit 7 is of no coding: it keeps this form apart from text.
	return append(dst[:from], allowed|0x80, refused|0x80)
}

var gzipName = []byte("gzip")

// zeroWeight tells whether a parameter is q=0, q=0.0, ...
func zeroWeight(b []byte) bool {
	if len(b) < 3 || b[0]|0x20 != 'q' || b[1] != '=' || b[2] != '0' {
		return false
	}
	for _, c := range b[3:] {
		if c != '0' && c != '.' {
			return false
		}
	}
	return true
}

var originName = []byte("origin")

// readVary appends the names in the Vary fields to dst, in lower case, sorted,
// each once, joined by commas. An answer that varies with what cannot be told
// from the client's request is not to be kept.
func (p *Policy) readVary(dst []byte, fields []wire.Field) ([]byte, Reason) {
	var names [mostVary][]byte
	n, size := 0, 0
	for i := range fields {
		value := fields[i].Value
		switch {
		case wire.EqualFold(fields[i].Name, "vary"):
		case wire.EqualFold(fields[i].Name, "access-control-allow-origin") && string(value) != "*":
			// Meant for one Origin, whether Vary says so or not: kept for all,
			// it would lock the others out.
			value = originName
		default:
			continue
		}
		for item, rest := wire.NextItem(value); item != nil; item, rest = wire.NextItem(rest) {
			if string(item) == "*" {
				return dst, VaryStar
			}
			if !wire.IsToken(item) {
				return dst, VaryStar // what it varies with is not known
			}
			if reason := p.unfit(item); reason != OK {
				return dst, reason
			}
			at, found := search(names[:n], item)
			if found {
				continue
			}
			if size += len(item) + 1; n == mostVary || size > mostVaryBytes {
				return dst, VaryLong
			}
			copy(names[at+1:n+1], names[at:n])
			names[at] = item
			n++
		}
	}
	for i, name := range names[:n] {
		if i > 0 {
			dst = append(dst, ',')
		}
		for _, c := range name {
			if 'A' <= c && c <= 'Z' {
				c |= 0x20
			}
			dst = append(dst, c)
		}
	}
	return dst, OK
}

func search(names [][]byte, item []byte) (int, bool) {
	for i, name := range names {
		switch c := compareFold(item, name); {
		case c == 0:
			return i, true
		case c < 0:
			return i, false
		}
	}
	return len(names), false
}

func compareFold(a, b []byte) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		x, y := a[i], b[i]
		if 'A' <= x && x <= 'Z' {
			x |= 0x20
		}
		if 'A' <= y && y <= 'Z' {
			y |= 0x20
		}
		if x != y {
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// unfit tells whether name is a field that the target does not see as the
// client sent it. Scheme and host, which X-Forwarded-Proto, -Host and Host say,
// are in the key.
func (p *Policy) unfit(name []byte) Reason {
	switch kind := wire.KindOf(name); kind {
	case wire.Host, wire.XForwardedHost, wire.XForwardedProto:
		return OK
	case wire.XForwardedFor, wire.XForwardedPort, wire.XRealIP, wire.Forwarded, wire.XRequestID, wire.Traceparent,
		wire.Tracestate, wire.Via, wire.MaxForwards, wire.Expect, wire.ContentLength, wire.Trailer, wire.Range:
		return VaryOwn
	default:
		if kind.HopByHop() || p.writes(name) {
			return VaryOwn
		}
	}
	if len(name) > 3 && foldEqual(name[:3], "if-") {
		return VaryOwn // a cache writes these itself
	}
	return OK
}
