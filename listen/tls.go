package listen

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"sluice/config"
)

// maxPEM bounds the files that certificates, keys and CAs are read from.
const maxPEM = 4 << 20

// identity is the TLS of one door: what it shows, and what it asks for. It
// lives as long as the door's TLS settings stay, and with it the keys of its
// session tickets. New certificates are swapped in under it; a new client CA
// gets a new tls.Config, so that no ticket outlives the CA that it rests on.
type identity struct {
	conf config.TLS
	alpn []string

	config atomic.Pointer[tls.Config]
	certs  atomic.Pointer[certSet]

	pairs []*pair  // guarded by Doors.mu
	ca    []byte   // guarded by Doors.mu; the client CA as last used
	tried [32]byte // guarded by Doors.mu; what the client CA was when last looked at
}

// pair is a certificate with its key, as files and as last read from them.
type pair struct {
	cert, key string // files
	current   *tls.Certificate
	tried     [32]byte // what the files were when last looked at
}

// loadIdentity reads every file of conf. key is the path of conf in the
// configuration. Each mistake is an error of its own.
func loadIdentity(key string, conf config.TLS, alpn []string) (*identity, []error) {
	id := &identity{conf: conf, alpn: alpn}
	var mistakes []error
	add := func(key string, c config.Certificate) {
		p := &pair{cert: c.Cert, key: c.Key}
		seen, tried, err := p.load(key)
		if err != nil {
			mistakes = append(mistakes, err)
			return
		}
		p.current, p.tried = seen, tried
		id.pairs = append(id.pairs, p)
	}
	if conf.Cert != "" || conf.Key != "" {
		add(key+".", config.Certificate{Cert: conf.Cert, Key: conf.Key})
	} else if len(conf.Certificates) == 0 {
		mistakes = append(mistakes, fmt.Errorf("%s.cert: expected a file with a certificate (PEM)", key))
	}
	for i, c := range conf.Certificates {
		add(fmt.Sprintf("%s.certificates[%d].", key, i), c)
	}
	if conf.ClientCA != "" {
		pem, err := readPEM(conf.ClientCA)
		id.ca, id.tried = pem, fingerprint(err, pem)
		if err == nil {
			_, err = clientCAs(pem)
		}
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("%s.client_ca: %q: %w", key, conf.ClientCA, err))
		}
	} else if conf.ClientAuth == "request" || conf.ClientAuth == "require" {
		mistakes = append(mistakes, fmt.Errorf("%s.client_ca: expected a file with the CAs of client certificates (PEM), for client_auth is %s", key, conf.ClientAuth))
	}
	if len(mistakes) == 0 {
		id.certs.Store(newCertSet(id.pairs))
		id.config.Store(id.newConfig())
	}
	return id, mistakes
}

// newConfig makes the tls.Config for the client CA of now. Suites and curves
// are Go's choice.
func (id *identity) newConfig() *tls.Config {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     id.alpn,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return id.certs.Load().choose(hello), nil },
	}
	if id.conf.MinVersion == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	switch id.conf.ClientAuth {
	case "request":
		c.ClientAuth = tls.VerifyClientCertIfGiven
	case "require":
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if len(id.ca) > 0 {
		c.ClientCAs, _ = clientCAs(id.ca)
	}
	return c
}

func clientCAs(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in it (PEM expected)")
	}
	return pool, nil
}

// refresh reads the files again. What changed and is usable takes effect; what
// is not leaves the one before in place, and is reported once for each change.
// The caller holds Doors.mu.
func (id *identity) refresh() (changed []string, broken []error) {
	for _, p := range id.pairs {
		seen, tried, err := p.load("")
		if tried == p.tried {
			continue
		}
		p.tried = tried
		if err != nil {
			broken = append(broken, err)
			continue
		}
		p.current = seen
		changed = append(changed, p.cert)
	}
	if len(changed) > 0 {
		id.certs.Store(newCertSet(id.pairs))
	}
	if id.conf.ClientCA == "" {
		return changed, broken
	}
	pem, err := readPEM(id.conf.ClientCA)
	tried := fingerprint(err, pem)
	if tried == id.tried {
		return changed, broken
	}
	id.tried = tried
	if err == nil {
		_, err = clientCAs(pem)
	}
	switch {
	case err != nil:
		broken = append(broken, fmt.Errorf("%q: %w", id.conf.ClientCA, err))
	case !bytes.Equal(pem, id.ca):
		id.ca = pem
		id.config.Store(id.newConfig())
		changed = append(changed, id.conf.ClientCA)
	}
	return changed, broken
}

// files are all files that the identity was read from.
func (id *identity) files() []string {
	var list []string
	for _, p := range id.pairs {
		list = append(list, p.cert, p.key)
	}
	if id.conf.ClientCA != "" {
		list = append(list, id.conf.ClientCA)
	}
	return list
}

// load reads and checks the pair. tried tells one state of the files from
// another, whether they can be used or not. prefix goes before the key in
// errors: empty where no configuration is being read.
func (p *pair) load(prefix string) (c *tls.Certificate, tried [32]byte, err error) {
	at := func(key, file string, err error) error {
		if prefix == "" {
			return fmt.Errorf("%q: %w", file, err)
		}
		return fmt.Errorf("%s%s: %q: %w", prefix, key, file, err)
	}
	chain, chainErr := readPEM(p.cert)
	secret, secretErr := readPEM(p.key)
	tried = fingerprint(errors.Join(chainErr, secretErr), chain, secret)
	if chainErr == nil {
		chainErr = checkChain(chain)
	}
	switch {
	case chainErr != nil:
		return nil, tried, at("cert", p.cert, chainErr)
	case secretErr != nil:
		return nil, tried, at("key", p.key, secretErr)
	}
	pair, err := tls.X509KeyPair(chain, secret)
	if err != nil {
		reason := strings.TrimPrefix(err.Error(), "tls: ")
		return nil, tried, at("key", p.key, fmt.Errorf("with the certificate %q: %s", p.cert, reason))
	}
	return &pair, tried, nil
}

// checkChain reports what would otherwise be blamed on the key.
func checkChain(chain []byte) error {
	found := false
	for len(chain) > 0 {
		var block *pem.Block
		if block, chain = pem.Decode(chain); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		found = true
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), "x509: "))
		}
	}
	if !found {
		return errors.New("no certificate in it (PEM expected)")
	}
	return nil
}

// fingerprint tells contents apart, and failures to have any.
func fingerprint(err error, parts ...[]byte) [32]byte {
	h := sha256.New()
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d:", len(p))
		_, _ = h.Write(p)
	}
	if err != nil {
		_, _ = io.WriteString(h, err.Error())
	}
	return [32]byte(h.Sum(nil))
}

// readPEM reads a whole file. The error does not repeat its name.
func readPEM(file string) ([]byte, error) {
	if file == "" {
		return nil, errors.New("expected a file (PEM)")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, pathless(err)
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err != nil {
		return nil, pathless(err)
	}
	if len(b) > maxPEM {
		return nil, fmt.Errorf("larger than %d bytes", maxPEM)
	}
	return b, nil
}

func pathless(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// certSet chooses among certificates by the name that a client asks for. It is
// read-only once made.
type certSet struct {
	exact    map[string][]*tls.Certificate
	wildcard map[string][]*tls.Certificate // by what follows the *, with its dot
	all      []*tls.Certificate            // the first is for everybody else
}

func newCertSet(pairs []*pair) *certSet {
	s := &certSet{exact: make(map[string][]*tls.Certificate), wildcard: make(map[string][]*tls.Certificate)}
	for _, p := range pairs {
		s.all = append(s.all, p.current)
		for _, name := range p.current.Leaf.DNSNames {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			if rest, ok := strings.CutPrefix(name, "*"); ok {
				s.wildcard[rest] = append(s.wildcard[rest], p.current)
			} else {
				s.exact[name] = append(s.exact[name], p.current)
			}
		}
	}
	return s
}

// choose returns the certificate for the name of hello: one that has it, one
// whose wildcard covers it, or the first of all. Among several of one name (an
// RSA and an ECDSA one) it is the first whose kind the client knows.
func (s *certSet) choose(hello *tls.ClientHelloInfo) *tls.Certificate {
	name := strings.ToLower(hello.ServerName)
	if found := fit(s.exact[name], hello); found != nil {
		return found
	}
	if dot := strings.IndexByte(name, '.'); dot > 0 {
		if found := fit(s.wildcard[name[dot:]], hello); found != nil {
			return found
		}
	}
	return s.all[0]
}

func fit(list []*tls.Certificate, hello *tls.ClientHelloInfo) *tls.Certificate {
	if len(list) < 2 {
		if len(list) == 0 {
			return nil
		}
		return list[0]
	}
	for _, c := range list {
		if hello.SupportsCertificate(c) == nil {
			return c
		}
	}
	return list[0]
}
