package limiter

import (
	"net/netip"
	"strings"

	"sluice/setting"
)

// Source is where a part of a key comes from.
type Source uint8

// The sources.
const (
	IP       Source = iota // the caller's address
	Route                  // the route that matched
	Header                 // the value of the request header Part.Name
	Cookie                 // the value of the cookie Part.Name
	Claim                  // the claim at the path Part.Name of who was proven
	Identity               // who was proven: authenticator and subject
)

// Part is one of the things that together tell one key from another.
type Part struct {
	Source Source
	Name   string // of the header, cookie or claim, as it was written
	Or     bool   // stands in for the part before it when that is missing
}

// NeedsIdentity tells whether the part can only be read once it is known who
// calls.
func (p Part) NeedsIdentity() bool { return p.Source == Claim || p.Source == Identity }

var sources = []struct {
	word string
	name func(string) bool // nil for a source that takes no :NAME
}{
	IP: {"ip", nil}, Route: {"route", nil}, Header: {"header", isToken}, Cookie: {"cookie", isToken},
	Claim: {"claim", isClaim}, Identity: {"identity", nil},
}

const (
	keyWant    = "ip, route, identity, claim:PATH, header:NAME, cookie:NAME, or up to 8 of them, each once, joined by + (all) and | (the first that is there)"
	mostParts  = 8
	mostToName = 128 // bytes of a name
)

// ParseKey reads the parts of a key: "ip", "route", "identity",
// "claim:tenant.id", "header:X-Tenant", "cookie:session", or several joined by
// "+", which asks for all of them, and "|", which asks for the first that is
// there and binds tighter: "claim:sub|ip+route" is one key for each customer,
// or each address without one, and route. Header names are compared without
// regard to case, and none may come twice. Its error is a *setting.Unexpected.
func ParseKey(s string) ([]Part, error) {
	unexpected := &setting.Unexpected{Want: keyWant, Got: s}
	if strings.Count(s, "+")+strings.Count(s, "|") >= mostParts {
		return nil, unexpected
	}
	var parts []Part
	for _, term := range strings.Split(s, "+") {
		for i, text := range strings.Split(term, "|") {
			part, ok := parsePart(text)
			if !ok {
				return nil, unexpected
			}
			for _, other := range parts {
				if part.Source == other.Source && (part.Name == other.Name || part.Source == Header && strings.EqualFold(part.Name, other.Name)) {
					return nil, unexpected
				}
			}
			part.Or = i > 0
			parts = append(parts, part)
		}
	}
	return parts, nil
}

func parsePart(text string) (Part, bool) {
	word, name, named := strings.Cut(text, ":")
	for i, s := range sources {
		if s.word == word && named == (s.name != nil) && (!named || s.name(name)) {
			return Part{Source: Source(i), Name: name}, true
		}
	}
	return Part{}, false
}

// isToken tells whether s may name a header or a cookie (RFC 9110 5.6.2). "+"
// and "|" are left out: they join parts.
func isToken(s string) bool {
	if s == "" || len(s) > mostToName {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}+|", c) >= 0 {
			return false
		}
	}
	return true
}

// isClaim tells whether s may be the path of a claim: names joined by dots.
// Names of claims may be URLs (RFC 7519 4.2), so nearly everything may stand in
// one.
func isClaim(s string) bool {
	if s == "" || len(s) > mostToName || s[0] == '.' || s[len(s)-1] == '.' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"\\+|", c) >= 0 {
			return false
		}
	}
	return true
}

// Caller is what a key is made of: a request and who was proven to send it. Its
// values are only read, and not kept.
type Caller interface {
	Address() netip.Addr // by trusted hops; the zero Addr is a missing one
	RouteName() []byte
	Header(name string) (value []byte, ok bool)
	Cookie(name string) (value []byte, ok bool)
	Claim(path string) (text string, ok bool)
	Identity() (authenticator, subject string, ok bool) // ok is false for who was not proven
}

// feed feeds p of c, unless it is missing.
func (p *Part) feed(h *Hasher, c Caller, prefix int) bool {
	switch p.Source {
	case IP:
		a := c.Address()
		if !a.IsValid() {
			return false
		}
		h.alternative(p.Or, IP)
		h.Addr(a, prefix)
	case Route:
		h.alternative(p.Or, Route)
		h.Bytes(c.RouteName())
	case Header:
		v, ok := c.Header(p.Name)
		if !ok {
			return false
		}
		h.alternative(p.Or, Header)
		h.Bytes(v)
	case Cookie:
		v, ok := c.Cookie(p.Name)
		if !ok {
			return false
		}
		h.alternative(p.Or, Cookie)
		h.Bytes(v)
	case Claim:
		v, ok := c.Claim(p.Name)
		if !ok {
			return false
		}
		h.alternative(p.Or, Claim)
		h.Text(v)
	case Identity:
		by, who, ok := c.Identity()
		if !ok {
			return false
		}
		h.alternative(p.Or, Identity)
		h.Text(by)
		h.Text(who)
	}
	return true
}

// Feed feeds the parts of key that c has. complete is false when one is missing
// that nothing stands in for; it is then fed as Missing, so that all who lack
// it are one. Feed allocates nothing.
func (h *Hasher) Feed(key []Part, c Caller, prefix int) (complete bool) {
	complete = true
	for i := 0; i < len(key); {
		found := key[i].feed(h, c, prefix)
		for i++; i < len(key) && key[i].Or; i++ {
			found = found || key[i].feed(h, c, prefix)
		}
		if !found {
			h.Missing()
			complete = false
		}
	}
	return complete
}

// Key is whose budget a request of c takes from. applies is false when a part
// of the key is missing and the limit leaves such requests alone
// (Config.Missing). Keys are of this limit only: no other may be asked with
// them. Key neither blocks nor allocates.
func (l *Limit) Key(c Caller) (key uint64, applies bool) {
	h := l.Hasher()
	complete := h.Feed(l.key, c, l.cfg.IPv6Prefix)
	return h.Sum(), complete || !l.skips
}

// Hasher returns a Hasher for the keys of l, that was fed nothing. It differs
// from NewHasher in a limit whose counts outlive the process.
func (l *Limit) Hasher() Hasher {
	if l.quota != nil {
		return newHasher(l.quota.seed)
	}
	return NewHasher()
}
