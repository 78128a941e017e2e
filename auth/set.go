package auth

import (
	"errors"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"sluice/setting"
	"sluice/wire"
)

// Config is one authenticator: exactly one of its kinds, and what holds for all
// kinds.
type Config struct {
	JWT           *JWTConfig           `yaml:"jwt" doc:"Signed tokens (RFC 7519), proven with a key set."`
	APIKey        *APIKeyConfig        `yaml:"api_key" doc:"Keys from a file that holds their hashes."`
	Basic         *BasicConfig         `yaml:"basic" doc:"User and password (RFC 7617) from a file that holds bcrypt or argon2id hashes."`
	MTLS          *MTLSConfig          `yaml:"mtls" doc:"Client certificates, by their names."`
	Signature     *SignatureConfig     `yaml:"signature" doc:"Signed requests (RFC 9421)."`
	Introspection *IntrospectionConfig `yaml:"introspection" doc:"Opaque tokens that the provider is asked about (RFC 7662)."`
	Forward       *ForwardConfig       `yaml:"forward_auth" doc:"Another service decides, by a request of its own. Short form: its URL."`
	OIDC          *OIDCConfig          `yaml:"oidc" doc:"Browsers log in at an OpenID provider and hold an encrypted session cookie."`

	Headers  map[string]string `yaml:"headers" doc:"Headers that tell the target who the caller is: the claim by the header's name. No client can send them, on any route."`
	Forwards bool              `yaml:"forward_credential" default:"false" doc:"Leave the credential in the request that the target gets."`
}

// kinds lists the kinds that are set, by their key.
func (c *Config) kinds() (list []string) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			list = append(list, v.Type().Field(i).Tag.Get("yaml"))
		}
	}
	return list
}

// Validate reports what the tags cannot say.
func (c *Config) Validate(p *setting.Problems) {
	const want = "expected exactly one of jwt, api_key, basic, mtls, signature, introspection, forward_auth, oidc"
	switch kinds := c.kinds(); len(kinds) {
	case 0:
		p.Add("", want+", got none")
	case 1:
	default:
		p.Add("", want+", got %q", kinds)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		if !isToken(name) {
			p.Add("headers."+setting.Key(name), "expected the name of a header, got %q", name)
		}
		switch k := wire.KindOf([]byte(name)); {
		case k == wire.Host, k == wire.ContentLength, k.HopByHop():
			p.Add("headers."+setting.Key(name), "expected a header of its own, got %q, which has a part in framing or routing", name)
		}
		if c.Headers[name] == "" {
			p.Add("headers."+setting.Key(name), "expected the path of a claim, such as sub")
		}
	}
}

// Env is what authenticators are given by the process.
type Env struct {
	Log    zerolog.Logger
	Client *http.Client // for providers; nil is one of their own
}

// Set is the authenticators of one configuration.
type Set struct{ members map[string]*Member }

// Build makes the authenticators of configs, which have passed Validate. One
// whose settings have not changed since old is carried over with all that it
// remembers. Nothing runs before Start. Mistakes that only building finds, such
// as a file that cannot be read, go to p under the authenticator's name.
func Build(configs map[string]Config, old *Set, env Env, p *setting.Problems) *Set {
	s := &Set{members: map[string]*Member{}}
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		c := configs[name]
		var was *Member
		if old != nil {
			was = old.members[name]
		}
		if was != nil && reflect.DeepEqual(was.config, c) {
			s.members[name] = was
			continue
		}
		a, err := c.build(name, env)
		if err != nil {
			var at *FieldError
			kind := c.kinds()[0]
			path := setting.Key(name) + "." + kind
			if errors.As(err, &at) {
				path, err = path+"."+at.Key, at.Err
			}
			for mistake := range strings.Lines(err.Error()) { // a file may have several
				p.Add(path, "%s", strings.TrimSuffix(mistake, "\n"))
			}
			continue
		}
		m := &Member{Authenticator: a, config: c, kind: c.kinds()[0]}
		for _, h := range slices.Sorted(maps.Keys(c.Headers)) {
			m.headers = append(m.headers, HeaderLine{h, c.Headers[h]})
		}
		s.members[name] = m
	}
	return s
}

// FieldError is a mistake under a key of an authenticator's settings.
type FieldError struct {
	Key string
	Err error
}

func (e *FieldError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap returns the mistake itself.
func (e *FieldError) Unwrap() error { return e.Err }

func (c *Config) build(name string, env Env) (Authenticator, error) {
	switch {
	case c.JWT != nil:
		return newJWT(name, c.JWT, env)
	case c.APIKey != nil:
		return newAPIKey(name, c.APIKey, env)
	case c.Basic != nil:
		return newBasic(name, c.Basic, env)
	case c.MTLS != nil:
		return newMTLS(name, c.MTLS, env)
	case c.Signature != nil:
		return newSignature(name, c.Signature, env)
	case c.Introspection != nil:
		return newIntrospection(name, c.Introspection, env)
	case c.Forward != nil:
		return newForward(name, c.Forward, env)
	default:
		return newOIDC(name, c.OIDC, env)
	}
}

// Member returns the authenticator of this name, or nil.
func (s *Set) Member(name string) *Member { return s.members[name] }

// Members lists all authenticators by name.
func (s *Set) Members() []*Member {
	list := make([]*Member, 0, len(s.members))
	for _, name := range slices.Sorted(maps.Keys(s.members)) {
		list = append(list, s.members[name])
	}
	return list
}

// Config is what m was made with.
func (m *Member) Config() Config { return m.config }

// Kind is the key of its kind: jwt, api_key, ...
func (m *Member) Kind() string { return m.kind }

// Start begins the background work of what old does not have.
func (s *Set) Start(old *Set) {
	for name, m := range s.members {
		if old != nil && old.members[name] == m {
			continue
		}
		if a, ok := m.Authenticator.(Starter); ok {
			a.Start()
		}
	}
}

// Retire ends the background work of what next, which may be nil, does not have.
func (s *Set) Retire(next *Set) {
	for name, m := range s.members {
		if next != nil && next.members[name] == m {
			continue
		}
		if a, ok := m.Authenticator.(Starter); ok {
			a.Stop()
		}
	}
}

// isToken tells whether s may name a header or a cookie (RFC 9110 5.6.2).
func isToken(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c <= ' ', c >= 0x7f:
			return false
		case c == '"', c == '(', c == ')', c == ',', c == '/', c == ':', c == ';', c == '<', c == '=', c == '>', c == '?', c == '@', c == '[', c == '\\', c == ']', c == '{', c == '}':
			return false
		}
	}
	return true
}
