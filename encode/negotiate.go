package encode

import (
	"bytes"

	"sluice/wire"
)

// A weight is a q-value in thousandths (RFC 9110 12.4.2).
type weight int16

const (
	whole   weight = 1000
	unnamed weight = -1
)

// Choose agrees on a coding with a client (RFC 9110 12.5.3). It reads all lines
// of Accept-Encoding as one list, but those with Drop set. The coding with the
// highest weight is chosen, among equals the one that the gateway likes better,
// and Identity only where the client likes it better than all others.
//
// A member that cannot be read counts for nothing; a coding that is named twice
// has the lower weight, so that no order of lines takes a refusal back. "*"
// speaks for every coding that is not named, Identity too. A client that accepts
// nothing, or that forbids Identity and names no coding of ours, gets Identity.
//
// It allocates nothing; the time it takes grows with the length of the lines.
func (p *Policy) Choose(fields []wire.Field) Coding {
	said := [codings]weight{unnamed, unnamed, unnamed, unnamed}
	rest, asked := unnamed, false
	for i := range fields {
		f := &fields[i]
		if f.Drop || !wire.EqualFold(f.Name, "accept-encoding") {
			continue
		}
		for item, list := wire.NextItem(f.Value); item != nil; item, list = wire.NextItem(list) {
			name, q, ok := readMember(item)
			if !ok {
				continue
			}
			to := &rest
			if string(name) != "*" {
				c, known := codingNamed(name)
				if !known {
					continue
				}
				to = &said[c]
			}
			if *to == unnamed || q < *to {
				*to = q
			}
			asked = true
		}
	}
	if !asked {
		return Identity
	}
	// Identity need not be named to be acceptable, but then it is the last resort.
	best, most := Identity, said[Identity]
	if most == unnamed {
		most = rest
	}
	most = max(most, 0)
	chosen := false
	for _, c := range p.order {
		q := said[c]
		if q == unnamed {
			q = rest
		}
		// The first that is as good as Identity wins over it.
		if q > 0 && (q > most || q == most && !chosen) {
			best, most, chosen = c, q, true
		}
	}
	return best
}

// readMember reads one coding of the list and its weight, 1 when there is none.
func readMember(item []byte) (name []byte, q weight, ok bool) {
	i := bytes.IndexByte(item, ';')
	if i < 0 {
		return item, whole, true
	}
	name = wire.TrimOWS(item[:i])
	param := wire.TrimOWS(item[i+1:])
	if len(param) < 3 || param[0]|0x20 != 'q' || param[1] != '=' {
		return nil, 0, false
	}
	q, ok = readWeight(param[2:])
	return name, q, ok
}

// readWeight reads 0 or 1 with up to three decimals, at most 1. v is not empty.
func readWeight(v []byte) (weight, bool) {
	const longest = len("0.000")
	if len(v) > longest || v[0] != '0' && v[0] != '1' || len(v) > 1 && v[1] != '.' {
		return 0, false
	}
	q, unit := weight(v[0]-'0')*whole, whole/10
	for _, c := range v[min(2, len(v)):] {
		if c < '0' || c > '9' {
			return 0, false
		}
		q += weight(c-'0') * unit
		unit /= 10
	}
	return q, q <= whole
}
