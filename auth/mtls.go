package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"hash/maphash"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"sluice/observe"
	"sluice/setting"
)

// MTLSConfig is patterns of client certificates. Of one kind, one pattern must
// hold; of all kinds that are set, each.
type MTLSConfig struct {
	Subject     []string `yaml:"subject" one:"true" doc:"Common names, or whole distinguished names as RFC 2253 writes them: CN=*,OU=payments,O=Acme. A star is at least one character of one attribute."`
	DNS         []string `yaml:"dns" one:"true" doc:"DNS names; *.example.com is one label before it."`
	URI         []string `yaml:"uri" one:"true" doc:"URIs; a star stays within a segment, ** at the end is one or more of them."`
	SPIFFE      []string `yaml:"spiffe" one:"true" doc:"SPIFFE ids, such as spiffe://example.org/ns/*/sa/api. The certificate must keep the rules of an X.509-SVID: exactly one URI, and no CA."`
	Email       []string `yaml:"email" one:"true" doc:"Email addresses; *@example.com is everybody there."`
	Fingerprint []string `yaml:"fingerprint" one:"true" doc:"SHA-256 of certificates, in hex."`
	Issuer      []string `yaml:"issuer" one:"true" doc:"Who signed the certificate, written as subject is."`
}

// Validate reports what the tags cannot say.
func (c *MTLSConfig) Validate(p *setting.Problems) { newCertificateRules(c, p) }

// certificateRules are the patterns, ready for use.
type certificateRules struct {
	subject, issuer         []namePattern
	dns, uri, spiffe, email []string
	fingerprint             [][sha256.Size]byte
}

func newCertificateRules(c *MTLSConfig, p *setting.Problems) *certificateRules {
	r := &certificateRules{}
	parsePatterns(p, "subject", c.Subject, parseName, &r.subject)
	parsePatterns(p, "dns", c.DNS, parseHost, &r.dns)
	parsePatterns(p, "uri", c.URI, parseURI, &r.uri)
	parsePatterns(p, "spiffe", c.SPIFFE, parseSPIFFE, &r.spiffe)
	parsePatterns(p, "email", c.Email, parseEmail, &r.email)
	parsePatterns(p, "fingerprint", c.Fingerprint, parseFingerprint, &r.fingerprint)
	parsePatterns(p, "issuer", c.Issuer, parseName, &r.issuer)
	return r
}

func parsePatterns[T any](p *setting.Problems, key string, patterns []string, parse func(string) (T, error), into *[]T) {
	if patterns != nil && len(patterns) == 0 {
		p.Add(key, "expected at least one pattern, or no such key")
	}
	for i, s := range patterns {
		parsed, err := parse(s)
		if err != nil {
			p.Add(key+"["+strconv.Itoa(i)+"]", "expected a pattern of %s: %v; got %q", key, err, s)
			continue
		}
		*into = append(*into, parsed)
	}
}

// mtls is the authenticator. The TLS stack has verified the chain of a client's
// certificate before a request comes here; a certificate that it has not verified
// is refused. Here its names are compared with the patterns.
//
// A verdict over names is remembered by the identity of the parsed leaf: every
// request of a connection, and mostly every connection with the same certificate,
// brings the same *x509.Certificate, and a place of the table keeps it alive, so
// that one pointer never means two certificates. Looking for a pointer
// costs an eighth of looking for the DER. What time changes is not remembered: the
// validity of the chain is looked at for every request, for connections outlive
// certificates, and a resumed session has the chain of its first handshake.
type mtls struct {
	name  string
	rules *certificateRules
	seed  maphash.Seed
	sets  []verdictSet

	unverified, expired, mismatched observe.Counter
}

// verdictSets times verdictWays is how many certificates are remembered, 1024.
// Each keeps some 5 KiB alive that its last connection would have freed. A new one
// takes a free place of its set, else the places in turn.
const (
	verdictSets = 256
	verdictWays = 4
)

type verdictSet struct {
	ways [verdictWays]atomic.Pointer[verdict]
	hand atomic.Uint32
}

func (s *verdictSet) get(leaf *x509.Certificate) *verdict {
	for i := range s.ways {
		if v := s.ways[i].Load(); v != nil && v.leaf == leaf {
			return v
		}
	}
	return nil
}

func (s *verdictSet) put(v *verdict) {
	for i := range s.ways {
		if s.ways[i].CompareAndSwap(nil, v) {
			return
		}
	}
	s.ways[s.hand.Add(1)%verdictWays].Store(v)
}

// verdict is what the names of a certificate came to. It never changes.
type verdict struct {
	leaf     *x509.Certificate
	identity *Identity // nil when it was refused
	reason   string
}

func newMTLS(name string, c *MTLSConfig, _ Env) (Authenticator, error) {
	p := &setting.Problems{}
	rules := newCertificateRules(c, p)
	if list := p.List(); len(list) > 0 {
		return nil, &FieldError{Key: list[0].Path, Err: errorText(list[0].Expected)}
	}
	return &mtls{name: name, rules: rules, seed: maphash.MakeSeed(), sets: make([]verdictSet, verdictSets)}, nil
}

type errorText string

func (e errorText) Error() string { return string(e) }

func (m *mtls) Name() string      { return m.name }
func (m *mtls) Challenge() string { return "" }
func (m *mtls) Places() Places    { return Places{} }
func (m *mtls) Guessable() bool   { return false }

// Recall decides r when its certificate was seen before.
func (m *mtls) Recall(r *Request) Result { return m.decide(r, false) }

// Verify decides r. It does not block.
func (m *mtls) Verify(r *Request) Result { return m.decide(r, true) }

func (m *mtls) decide(r *Request, verify bool) Result {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return Result{Outcome: Absent}
	}
	leaf := r.TLS.PeerCertificates[0]
	if len(r.TLS.VerifiedChains) == 0 {
		m.unverified.Inc()
		return Result{Outcome: Refused, Reason: "the door has not verified the client certificate: set its client_ca and client_auth"}
	}
	if !anyValid(r.TLS.VerifiedChains, r.Now) {
		m.expired.Inc()
		return Result{Outcome: Refused, Reason: "the client certificate, or one of its chain, has expired or is not valid yet"}
	}
	set := &m.sets[maphash.Comparable(m.seed, leaf)%verdictSets]
	v := set.get(leaf)
	if v == nil {
		if !verify {
			return Result{Outcome: Unknown}
		}
		v = m.judge(leaf)
		set.put(v)
	}
	if v.identity == nil {
		m.mismatched.Inc()
		return Result{Outcome: Refused, Reason: v.reason}
	}
	return Result{Outcome: Identified, Identity: v.identity}
}

// anyValid tells whether a chain is valid at now from its leaf to its root.
func anyValid(chains [][]*x509.Certificate, now time.Time) bool {
next:
	for _, chain := range chains {
		for _, c := range chain {
			if now.Before(c.NotBefore) || now.After(c.NotAfter) {
				continue next
			}
		}
		if len(chain) > 0 {
			return true
		}
	}
	return false
}

// judge compares the names of leaf with the patterns.
func (m *mtls) judge(leaf *x509.Certificate) *verdict {
	v := &verdict{leaf: leaf}
	subject, err := parseRawDN(leaf.RawSubject)
	issuer, err2 := parseRawDN(leaf.RawIssuer)
	if err != nil || err2 != nil {
		v.reason = "the names of the client certificate cannot be read"
		return v
	}
	sum := sha256.Sum256(leaf.Raw)
	id := spiffeID(leaf.URIs, leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0)
	r := m.rules
	var wrong []string
	hold := func(kind string, set, ok bool) {
		if set && !ok {
			wrong = append(wrong, kind)
		}
	}
	hold("subject", r.subject != nil, slices.ContainsFunc(r.subject, func(p namePattern) bool { return p.matches(subject) }))
	hold("dns", r.dns != nil, anyPair(r.dns, leaf.DNSNames, matchHost))
	hold("uri", r.uri != nil, anyPair(r.uri, texts(leaf.URIs), matchURI))
	hold("spiffe", r.spiffe != nil, id != "" && anyPair(r.spiffe, []string{id}, matchURI))
	hold("email", r.email != nil, anyPair(r.email, leaf.EmailAddresses, matchEmail))
	hold("fingerprint", r.fingerprint != nil, slices.Contains(r.fingerprint, sum))
	hold("issuer", r.issuer != nil, slices.ContainsFunc(r.issuer, func(p namePattern) bool { return p.matches(issuer) }))
	if len(wrong) > 0 {
		v.reason = "the client certificate sha256:" + hex.EncodeToString(sum[:8]) + " does not match: " + strings.Join(wrong, ", ")
		return v
	}
	claims := map[string]any{
		"cn": subject.cn(), "dn": subject.String(), "issuer": issuer.String(),
		"dns": list(leaf.DNSNames), "uri": list(texts(leaf.URIs)), "email": list(leaf.EmailAddresses),
		"serial": leaf.SerialNumber.Text(16), "fingerprint": hex.EncodeToString(sum[:]),
	}
	for name, value := range claims {
		if value == "" || value == nil {
			delete(claims, name)
		}
	}
	if claims["sub"] = subjectOf(id, subject); claims["sub"] == "" {
		claims["sub"] = "sha256:" + hex.EncodeToString(sum[:]) // names in SANs alone
	}
	v.identity = NewIdentity(m.name, claims["sub"].(string), claims, leaf.NotAfter.Unix()+1)
	return v
}

// subjectOf is the SPIFFE id, else the common name, else the whole name. A common
// name that looks like a SPIFFE id is not taken for one.
func subjectOf(id string, subject dn) string {
	if id != "" {
		return id
	}
	cn := subject.cn()
	if _, ok := printable(cn); ok && cn != "" && !strings.HasPrefix(strings.ToLower(cn), "spiffe:") {
		return cn
	}
	return subject.String()
}

func anyPair(patterns, names []string, match func(pattern, name string) bool) bool {
	for _, p := range patterns {
		for _, n := range names {
			if match(p, n) {
				return true
			}
		}
	}
	return false
}

func texts(uris []*url.URL) []string {
	list := make([]string, len(uris))
	for i, u := range uris {
		list[i] = u.String()
	}
	return list
}

// list is names as a claim, nil for none.
func list(names []string) any {
	if len(names) == 0 {
		return nil
	}
	l := make([]any, len(names))
	for i, n := range names {
		l[i] = n
	}
	return l
}

// State shows how many certificates are remembered.
func (m *mtls) State() State {
	s := State{Name: m.name, Kind: "mtls"}
	for i := range m.sets {
		for j := range m.sets[i].ways {
			if m.sets[i].ways[j].Load() != nil {
				s.Remembered++
			}
		}
	}
	return s
}

// Counts counts refusals by their reason.
func (m *mtls) Counts() map[string]uint64 {
	return map[string]uint64{"certificate_unverified": m.unverified.Load(), "certificate_expired": m.expired.Load(), "certificate_mismatched": m.mismatched.Load()}
}
