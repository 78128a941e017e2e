package auth

import (
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Patterns over the names of a certificate. In all of them * stands for at least
// one character and never reaches over what separates the parts of a name: a dot
// of a host, a slash of a URI, an attribute of a distinguished name. A name is
// taken apart before it is compared, so that no part can pretend to be two.

// glob tells whether s is what pattern says, with * for one or more bytes.
func glob(pattern, s string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return s == pattern
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, more, again := strings.Cut(rest, "*")
		if s == "" {
			return false
		}
		if !again {
			return len(s) > len(part) && strings.HasSuffix(s, part)
		}
		// The first place is the best: it leaves the most for the rest.
		i := strings.Index(s[1:], part)
		if i < 0 {
			return false
		}
		s, rest = s[1+i+len(part):], more
	}
}

// attribute is one type=value of a distinguished name.
type attribute struct{ kind, value string }

// dn is a distinguished name in the order of RFC 2253, the most specific part
// first; each part is a set, nearly always of one.
type dn [][]attribute

// attributeNames are RFC 4514's and the usual others, by their OIDs.
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU",
	"2.5.4.5": "SERIALNUMBER", "2.5.4.17": "POSTALCODE", "2.5.4.4": "SN", "2.5.4.42": "GN", "2.5.4.12": "T",
	"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID", "1.2.840.113549.1.9.1": "EMAILADDRESS",
}

// parseRawDN reads a distinguished name as a certificate holds it. A value that
// is no text makes the name unreadable.
func parseRawDN(raw []byte) (dn, error) {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &seq); err != nil || len(rest) > 0 {
		return nil, errors.New("unreadable")
	}
	name := make(dn, 0, len(seq))
	for i := len(seq) - 1; i >= 0; i-- {
		var part []attribute
		for _, a := range seq[i] {
			value, ok := a.Value.(string)
			if !ok || !utf8.ValidString(value) {
				return nil, errors.New("unreadable")
			}
			kind := a.Type.String()
			if known := attributeNames[kind]; known != "" {
				kind = known
			}
			part = append(part, attribute{kind, value})
		}
		name = append(name, part)
	}
	return name, nil
}

// parseDN reads a pattern as RFC 2253 writes names: CN=*,OU=payments,O=Acme. A
// backslash takes the meaning off the character after it; \XX is a byte.
func parseDN(s string) (dn, error) {
	var name dn
	var part []attribute
	for rest, last := s, false; !last; {
		kind, after, ok := strings.Cut(rest, "=")
		kind = strings.ToUpper(strings.TrimSpace(kind))
		if !ok || !isAttributeType(kind) {
			return nil, errors.New("an attribute is TYPE=value, with a type such as CN, OU, O, C or an OID")
		}
		if known := attributeNames[strings.TrimPrefix(kind, "OID.")]; known != "" {
			kind = known
		}
		value, i := []byte(nil), 0
		for i < len(after) && after[i] != ',' && after[i] != '+' {
			c := after[i]
			if c == '\\' {
				if i+1 >= len(after) {
					return nil, errors.New("it ends in a backslash")
				}
				if b, err := hex.DecodeString(after[i+1 : min(i+3, len(after))]); err == nil && len(b) == 1 && b[0] != '*' {
					value, i = append(value, b[0]), i+3
					continue
				}
				i++
				if c = after[i]; c == '*' || strings.HasPrefix(strings.ToUpper(after[i:]), "2A") {
					return nil, errors.New("a star cannot be escaped")
				}
			}
			value, i = append(value, c), i+1
		}
		text := strings.TrimSpace(string(value))
		if text == "" {
			return nil, errors.New("an attribute has no value")
		}
		for _, a := range part {
			if a.kind == kind {
				return nil, fmt.Errorf("%s stands twice in one part", kind)
			}
		}
		part = append(part, attribute{kind, text})
		if last = i >= len(after); last || after[i] == ',' {
			name, part = append(name, part), nil
		}
		if !last {
			rest = after[i+1:]
		}
	}
	return name, nil
}

func isAttributeType(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return false
		}
	}
	return s != ""
}

// matches compares part by part: types without regard to case, values exactly
// but for the stars.
func (pattern dn) matches(name dn) bool {
	if len(pattern) != len(name) {
		return false
	}
	for i, part := range pattern {
		if len(part) != len(name[i]) {
			return false
		}
		for _, want := range part {
			found := false
			for _, a := range name[i] {
				found = found || a.kind == want.kind && glob(want.value, a.value)
			}
			if !found {
				return false
			}
		}
	}
	return true
}

// cn is the common name, when there is exactly one.
func (d dn) cn() string {
	cn, count := "", 0
	for _, part := range d {
		for _, a := range part {
			if a.kind == "CN" {
				cn, count = a.value, count+1
			}
		}
	}
	if count != 1 {
		return ""
	}
	return cn
}

// String writes d as parseDN reads it.
func (d dn) String() string {
	var b strings.Builder
	for i, part := range d {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, a := range part {
			if j > 0 {
				b.WriteByte('+')
			}
			b.WriteString(a.kind + "=")
			for k := 0; k < len(a.value); k++ {
				c := a.value[k]
				blank := c == ' ' && (k == 0 || k == len(a.value)-1)
				switch {
				case c < ' ' || c == 0x7f:
					fmt.Fprintf(&b, "\\%02X", c)
					continue
				case strings.IndexByte(`,+"\<>;`, c) >= 0, blank, k == 0 && c == '#':
					b.WriteByte('\\')
				}
				b.WriteByte(c)
			}
		}
	}
	return b.String()
}

// namePattern is a pattern of a subject or an issuer: of its common name, or of
// the whole when it holds an equals sign.
type namePattern struct {
	cn    string
	whole dn
}

func parseName(s string) (namePattern, error) {
	if !strings.Contains(s, "=") {
		if strings.TrimSpace(s) == "" {
			return namePattern{}, errors.New("it is empty")
		}
		return namePattern{cn: s}, nil
	}
	whole, err := parseDN(s)
	return namePattern{whole: whole}, err
}

func (p namePattern) matches(name dn) bool {
	if p.whole != nil {
		return p.whole.matches(name)
	}
	cn := name.cn()
	return cn != "" && glob(p.cn, cn)
}

// parseHost reads a pattern of a DNS name: a name, or *. and a name, where the
// star is one label (RFC 6125 6.4.3).
func parseHost(s string) (string, error) {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if name := strings.TrimPrefix(s, "*."); !isHost(name) || strings.HasPrefix(s, "*.") && !strings.Contains(name, ".") {
		return "", errors.New("a star can only be the whole first label, before at least two more")
	}
	return s, nil
}

func isHost(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := 0; i < len(label); i++ {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// matchHost compares a name of a certificate. A name that has a star of its own
// names no host and matches nothing.
func matchHost(pattern, name string) bool {
	name = strings.ToLower(name)
	if !isHost(name) {
		return false
	}
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		label, rest, _ := strings.Cut(name, ".")
		return label != "" && "."+rest == suffix
	}
	return name == pattern
}

// matchURI compares segment by segment. A star stays within its segment; ** at
// the end is one or more segments.
func matchURI(pattern, uri string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(uri, "/")
	if last := len(want) - 1; want[last] == "**" {
		if len(got) <= last || got[len(got)-1] == "" {
			return false
		}
		want, got = want[:last], got[:last]
	}
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if !glob(want[i], got[i]) {
			return false
		}
	}
	return true
}

func parseURI(s string) (string, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || !isURIScheme(scheme) || rest == "" {
		return "", errors.New("a URI begins with a scheme and a colon")
	}
	if i := strings.Index(s, "**"); i >= 0 && (i != len(s)-2 || !strings.HasSuffix(s, "/**")) {
		return "", errors.New("** can only be the last segment")
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return "", errors.New("it holds a blank or a character that must be escaped")
		}
	}
	if strings.EqualFold(scheme, "spiffe") {
		return "", errors.New("SPIFFE ids are matched by spiffe, which also holds them to their rules")
	}
	return s, nil
}

const mostSPIFFE = 2048 // bytes, SPIFFE-ID 2.3

func parseSPIFFE(s string) (string, error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	domain, path, hasPath := strings.Cut(rest, "/")
	if !ok || !isTrustDomain(domain) {
		return "", errors.New("it begins with spiffe:// and a trust domain of lower-case letters, digits, . - and _, without a star")
	}
	if !hasPath {
		return s, nil
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if segment == "**" && i == len(segments)-1 {
			continue
		}
		if strings.Contains(segment, "**") || !isSPIFFESegment(strings.ReplaceAll(segment, "*", "x")) {
			return "", errors.New("a segment is of letters, digits, . - _ and *; ** can only be the last one")
		}
	}
	return s, nil
}

func isTrustDomain(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

func isSPIFFESegment(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i] | 0x20; (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && s[i] != '.' && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	return s != "" && s != "." && s != ".."
}

// spiffeID is the SPIFFE id of a certificate: its only URI, by the rules of
// SPIFFE-ID 2 and X509-SVID 2. It is "" when there is none that keeps them.
func spiffeID(uris []*url.URL, ca bool) string {
	if len(uris) != 1 || ca || uris[0].Scheme != "spiffe" {
		return ""
	}
	id := uris[0].String()
	rest, ok := strings.CutPrefix(id, "spiffe://")
	domain, path, hasPath := strings.Cut(rest, "/")
	if !ok || len(id) > mostSPIFFE || !isTrustDomain(domain) {
		return ""
	}
	if hasPath {
		for segment := range strings.SplitSeq(path, "/") {
			if !isSPIFFESegment(segment) {
				return ""
			}
		}
	}
	return id
}

// matchEmail compares the local part exactly, but for stars, and the domain
// without regard to case.
func matchEmail(pattern, email string) bool {
	i, j := strings.LastIndexByte(pattern, '@'), strings.LastIndexByte(email, '@')
	return j > 0 && strings.Count(email, "@") == 1 && glob(pattern[:i], email[:j]) && strings.EqualFold(pattern[i:], email[j:])
}

func parseEmail(s string) (string, error) {
	local, domain, ok := strings.Cut(s, "@")
	if !ok || local == "" || !isHost(strings.ToLower(domain)) {
		return "", errors.New("it is NAME@HOST; a star can stand in NAME only")
	}
	return s, nil
}

// parseFingerprint reads SHA-256 in hex, with or without colons and sha256: before
// it.
func parseFingerprint(s string) (sum [sha256.Size]byte, err error) {
	s = strings.TrimPrefix(strings.ToLower(s), "sha256:")
	if strings.Count(s, ":") == len(sum)-1 {
		s = strings.ReplaceAll(s, ":", "")
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(sum) {
		return sum, errors.New("it is the SHA-256 of the certificate (DER), 64 hex digits")
	}
	return [sha256.Size]byte(b), nil
}
