package document

import (
	"bytes"

	"sluice/wire"
)

// weight is a q-value in thousandths (RFC 9110 12.4.2).
type weight int16

const (
	fullWeight weight = 1000
	unnamed    weight = -1
)

// Negotiate agrees on a format with a client by its Accept lines (RFC 9110 12.5.1).
// formats are those that can be sent, the one that the server likes best first.
//
// The weight of a format is that of the most specific member that its media type
// is in: type/subtype, then type/*, then */*. An older name, such as text/xml, counts
// where the type that ContentType gives is not named itself. The format with the
// highest weight is chosen, among equals the first. Parameters other than q do not
// count, nor do members that cannot be read; a type that is named twice has the
// higher weight. A client that says nothing gets the first format. ok is false where
// nothing can be sent that the client takes: 406.
//
// It allocates nothing; the time it takes grows with the length of the lines.
func Negotiate(fields []wire.Field, formats []Format) (f Format, ok bool) {
	asked := false
	best := weight(0)
	for _, candidate := range formats {
		if int(candidate) >= len(mediaTypes) || candidate == Unknown {
			continue
		}
		q, said := weightOf(fields, mediaTypes[candidate])
		asked = asked || said
		if !said {
			break // no line at all, whichever the format
		}
		if q > best {
			f, best, ok = candidate, q, true
		}
	}
	if !asked && len(formats) > 0 {
		return formats[0], true
	}
	return f, ok
}

// weightOf is the weight of a media type, whose names are given. asked is false when
// there is no member that can be read.
func weightOf(fields []wire.Field, names []string) (q weight, asked bool) {
	q = unnamed
	specific := 0 // of what q is from
	for i := range fields {
		f := &fields[i]
		if f.Drop || !wire.EqualFold(f.Name, "accept") {
			continue
		}
		for item, list := nextMember(f.Value); item != nil; item, list = nextMember(list) {
			var room [mostType]byte
			name := lowerType(item, &room)
			itemQ, ok := readWeight(item)
			if slash := bytes.IndexByte(name, '/'); !ok || slash <= 0 || slash == len(name)-1 {
				continue
			}
			asked = true
			rank := rankOf(name, names)
			if rank > specific || rank == specific && rank > 0 && itemQ > q {
				q, specific = itemQ, rank
			}
		}
	}
	return max(q, 0), asked
}

// rankOf tells how specific a range is that one of names is in, 0 where none is.
func rankOf(name []byte, names []string) int {
	if string(name) == names[0] {
		return 4
	}
	for _, other := range names[1:] {
		if string(name) == other {
			return 3
		}
	}
	if string(name) == "*/*" {
		return 1
	}
	if n := len(name) - 1; name[n] == '*' && name[n-1] == '/' && len(names[0]) > n && string(name[:n]) == names[0][:n] {
		return 2
	}
	return 0
}

// nextMember is wire.NextItem, but a comma within quotes parts nothing: a range may
// have parameters.
func nextMember(list []byte) (item, rest []byte) {
	for len(list) > 0 {
		end, quoted := 0, false
		for ; end < len(list) && (quoted || list[end] != ','); end++ {
			switch {
			case list[end] == '"':
				quoted = !quoted
			case quoted && list[end] == '\\':
				end++
			}
		}
		end = min(end, len(list))
		item, list = wire.TrimOWS(list[:end]), list[min(end+1, len(list)):]
		if len(item) > 0 {
			return item, list
		}
	}
	return nil, nil
}

// readWeight finds the q of a member, 1 where there is none. ok is false where there
// is one that cannot be read.
func readWeight(item []byte) (q weight, ok bool) {
	for quoted, i := false, 0; i < len(item); i++ {
		switch {
		case item[i] == '"':
			quoted = !quoted
		case quoted && item[i] == '\\':
			i++
		case !quoted && item[i] == ';':
			p := wire.TrimOWS(item[i+1:])
			if len(p) < 2 || p[0]|0x20 != 'q' || p[1] != '=' {
				continue
			}
			p = p[2:]
			if end := bytes.IndexByte(p, ';'); end >= 0 {
				p = p[:end]
			}
			return parseWeight(wire.TrimOWS(p))
		}
	}
	return fullWeight, true
}

// parseWeight reads 0 or 1 with up to three decimals, at most 1.
func parseWeight(v []byte) (weight, bool) {
	const longest = len("0.000")
	if len(v) == 0 || len(v) > longest || v[0] != '0' && v[0] != '1' || len(v) > 1 && v[1] != '.' {
		return 0, false
	}
	q, unit := weight(v[0]-'0')*fullWeight, fullWeight/10
	for _, c := range v[min(2, len(v)):] {
		if c < '0' || c > '9' {
			return 0, false
		}
		q += weight(c-'0') * unit
		unit /= 10
	}
	return q, q <= fullWeight
}
