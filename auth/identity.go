package auth

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// Identity is who a request comes from, as an authenticator proved it. It never
// changes after New and may be shared by many requests.
type Identity struct {
	Authenticator string         // the name of who proved it
	Subject       string         // sub, the key's name, the user, the certificate's subject
	Claims        map[string]any // as decoded; numbers are json.Number, float64 or int64
	Scopes        []string
	Expires       int64  // Unix seconds, 0 for never
	Lines         []Line // more header lines for the target
	text          map[string]string
	held          held                   // what requirements look at
	caller        atomic.Pointer[caller] // what expressions look at, made when one first does
}

// Bounds of what is kept of a claim as text: longer ones are left out, for they
// would not fit into a header either.
const (
	mostText   = 4 << 10
	mostClaims = 256
	mostDepth  = 4
)

// NewIdentity makes an identity. Every scalar claim, and every list of scalars, can
// then be had as text by its path: "sub", "realm_access.roles". scope and scp
// become Scopes.
func NewIdentity(authenticator, subject string, claims map[string]any, expires int64) *Identity {
	id := &Identity{Authenticator: authenticator, Subject: subject, Claims: claims, Expires: expires, text: map[string]string{}}
	id.flatten("", claims, 0)
	if _, ok := id.text["sub"]; !ok && subject != "" {
		if s, ok := printable(subject); ok {
			id.text["sub"] = s
		}
	}
	for _, name := range []string{"scope", "scp"} {
		switch v := claims[name].(type) {
		case string:
			// Only spaces separate scopes (RFC 6749 3.3).
			id.Scopes = append(id.Scopes, strings.FieldsFunc(v, func(c rune) bool { return c == ' ' })...)
		case []any:
			for _, s := range v {
				if s, ok := s.(string); ok {
					id.Scopes = append(id.Scopes, s)
				}
			}
		case []string:
			id.Scopes = append(id.Scopes, v...)
		}
	}
	id.held = heldOf(subject, claims)
	return id
}

func (id *Identity) flatten(prefix string, claims map[string]any, depth int) {
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		if len(id.text) >= mostClaims {
			return
		}
		v := claims[name]
		if sub, ok := v.(map[string]any); ok {
			if depth < mostDepth {
				id.flatten(prefix+name+".", sub, depth+1)
			}
			continue
		}
		if s, ok := textOf(v); ok {
			path := prefix + name
			if _, twice := id.text[path]; twice {
				// {"a.b": 1} and {"a": {"b": 2}}: whoever can name a claim must
				// not put his own over one that the provider vouches for. A text
				// with a NUL is none, see Claim.
				s = ambiguous
			}
			id.text[path] = s
		}
	}
}

// textOf is a scalar, or a list of scalars joined by commas, as a header can
// carry it.
func textOf(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return printable(v)
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		return printable(v.String())
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case int:
		return strconv.Itoa(v), true
	case []string:
		for _, s := range v {
			if strings.IndexByte(s, ',') >= 0 {
				return "", false
			}
		}
		return printable(strings.Join(v, ","))
	case []any:
		parts := make([]string, 0, len(v))
		for _, e := range v {
			if _, list := e.([]any); list {
				return "", false
			}
			// An element with a comma would be read as several.
			s, ok := textOf(e)
			if !ok || strings.IndexByte(s, ',') >= 0 {
				return "", false
			}
			parts = append(parts, s)
		}
		return printable(strings.Join(parts, ","))
	}
	return "", false
}

// printable refuses what could break a header line or a log.
func printable(s string) (string, bool) {
	if len(s) > mostText {
		return "", false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return "", false
		}
	}
	return s, true
}

// ambiguous stands for the text of a path that is that of two claims. No claim
// is this: printable refuses it.
const ambiguous = "\x00"

// Claim is a claim as text, by its path. ok is false when there is none, or none
// that fits a header. It allocates nothing.
func (id *Identity) Claim(path string) (text string, ok bool) {
	if id == nil {
		return "", false
	}
	text, ok = id.text[path]
	if text == ambiguous {
		return "", false
	}
	return text, ok
}

// HasScope tells whether the identity was granted scope.
func (id *Identity) HasScope(scope string) bool { return slices.Contains(id.Scopes, scope) }
