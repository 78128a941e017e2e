package limiter

import (
	"strings"

	"sluice/setting"
)

// Source is where a part of a key comes from.
type Source uint8

// The sources.
const (
	IP     Source = iota // the caller's address
	Route                // the route that matched
	Header               // the value of the request header Part.Name
	Cookie               // the value of the cookie Part.Name
)

// Part is one of the things that together tell one key from another.
type Part struct {
	Source Source
	Name   string // of the header or cookie, as it was written
}

var sources = []struct {
	word  string
	named bool // takes :NAME
}{
	IP: {"ip", false}, Route: {"route", false}, Header: {"header", true}, Cookie: {"cookie", true},
}

const (
	keyWant    = "ip, route, header:NAME, cookie:NAME, or up to 8 of them, each once, joined by +"
	mostParts  = 8
	mostToName = 128 // bytes of a name
)

// ParseKey reads the parts of a key: "ip", "route", "header:X-Tenant",
// "cookie:session", or several joined by "+". Header names are compared
// without regard to case, and none may come twice. Its error is a
// *setting.Unexpected.
func ParseKey(s string) ([]Part, error) {
	unexpected := &setting.Unexpected{Want: keyWant, Got: s}
	if strings.Count(s, "+") >= mostParts {
		return nil, unexpected
	}
	var parts []Part
	for _, text := range strings.Split(s, "+") {
		part, ok := parsePart(text)
		if !ok {
			return nil, unexpected
		}
		for _, other := range parts {
			if part == other || part.Source == Header && other.Source == Header && strings.EqualFold(part.Name, other.Name) {
				return nil, unexpected
			}
		}
		parts = append(parts, part)
	}
	return parts, nil
}

func parsePart(text string) (Part, bool) {
	word, name, named := strings.Cut(text, ":")
	for i, s := range sources {
		if s.word == word && s.named == named && (!named || isToken(name)) {
			return Part{Source(i), name}, true
		}
	}
	return Part{}, false
}

// isToken tells whether s may name a header or a cookie (RFC 9110 5.6.2). "+"
// is left out: it joins parts.
func isToken(s string) bool {
	if s == "" || len(s) > mostToName {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}+", c) >= 0 {
			return false
		}
	}
	return true
}
