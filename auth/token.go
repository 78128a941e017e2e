package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"unicode/utf8"
)

// This file reads a compact JWS (RFC 7515 7.1) as strictly as its grammar allows:
// two readers must not be able to take two meanings from one token.

// Why a token cannot be read.
var (
	errTokenParts    = errors.New("token is not three parts with dots between")
	errTokenJWE      = errors.New("token is encrypted (JWE), which is not taken")
	errTokenEncoding = errors.New("token is not base64url without padding")
	errTokenHeader   = errors.New("token header is not a JSON object with each member once")
	errTokenClaims   = errors.New("token payload is not a JSON object with each member once")
	errTokenAlg      = errors.New("token header has no alg")
	errTokenKid      = errors.New("token header has a kid that is no text, or too long")
	errTokenCrit     = errors.New("token header asks for extensions (crit) that are not known")
	errTokenNested   = errors.New("token holds another token (cty)")
)

const (
	mostKid       = 256
	mostJSONDepth = 16
)

// strictURL refuses line breaks, padding and bits that no encoder writes.
var strictURL = base64.RawURLEncoding.Strict()

// compact is a JWS, read and not yet proven.
type compact struct {
	alg       string
	kid       string
	hasKid    bool
	typ       string
	signed    []byte // what the signature is over
	payload   []byte
	signature []byte
}

// parseCompact reads token. What its header says of keys (jwk, jku, x5c, x5u) is
// passed over: nobody proves himself with a key that he brings along.
func parseCompact(token []byte) (*compact, error) {
	dots := bytes.Count(token, []byte{'.'})
	switch {
	case dots == 4:
		return nil, errTokenJWE
	case dots != 2:
		return nil, errTokenParts
	}
	first, rest, _ := bytes.Cut(token, []byte{'.'})
	second, third, _ := bytes.Cut(rest, []byte{'.'})
	head, err1 := decodePart(first)
	payload, err2 := decodePart(second)
	signature, err3 := decodePart(third)
	if err1 != nil || err2 != nil || err3 != nil {
		return nil, errTokenEncoding
	}
	fields, ok := parseObject(head)
	if !ok {
		return nil, errTokenHeader
	}
	c := &compact{signed: token[:len(first)+1+len(second)], payload: payload, signature: signature}
	if c.alg, _ = fields["alg"].(string); c.alg == "" {
		return nil, errTokenAlg
	}
	for _, name := range []string{"crit", "b64", "zip", "enc"} {
		if _, ok := fields[name]; ok {
			return nil, errTokenCrit
		}
	}
	if v, ok := fields["kid"]; ok {
		if c.kid, c.hasKid = v.(string); !c.hasKid || len(c.kid) > mostKid {
			return nil, errTokenKid
		}
	}
	if v, ok := fields["typ"]; ok {
		if c.typ, ok = v.(string); !ok {
			return nil, errTokenHeader
		}
	}
	if _, ok := fields["cty"]; ok {
		return nil, errTokenNested
	}
	return c, nil
}

func decodePart(part []byte) ([]byte, error) {
	if bytes.ContainsAny(part, "\r\n") {
		return nil, errTokenEncoding
	}
	out := make([]byte, strictURL.DecodedLen(len(part)))
	n, err := strictURL.Decode(out, part)
	return out[:n], err
}

// parseObject reads one JSON object of bounded depth in which no object names a
// member twice; numbers stay as they are written.
func parseObject(b []byte) (map[string]any, bool) {
	if !utf8.Valid(b) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, ok := parseValue(d, 0)
	object, is := v.(map[string]any)
	if !ok || !is {
		return nil, false
	}
	_, err := d.Token()
	return object, err == io.EOF
}

// membersOnce reads the members of one JSON object, each of which may come once;
// what they are is not looked at.
func membersOnce(b []byte) (map[string]json.RawMessage, bool) {
	if !utf8.Valid(b) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	members := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		name, is := t.(string)
		_, twice := members[name]
		var value json.RawMessage
		if err != nil || !is || twice || d.Decode(&value) != nil {
			return nil, false
		}
		members[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, false
	}
	_, err := d.Token()
	return members, err == io.EOF
}

func parseValue(d *json.Decoder, depth int) (any, bool) {
	t, err := d.Token()
	if err != nil || depth > mostJSONDepth {
		return nil, false
	}
	switch t {
	case json.Delim('{'):
		object := map[string]any{}
		for d.More() {
			t, err := d.Token()
			name, is := t.(string)
			if _, twice := object[name]; err != nil || !is || twice {
				return nil, false
			}
			v, ok := parseValue(d, depth+1)
			if !ok {
				return nil, false
			}
			object[name] = v
		}
		_, err := d.Token()
		return object, err == nil
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, ok := parseValue(d, depth+1)
			if !ok {
				return nil, false
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err == nil
	}
	return t, true
}

// numericDate reads a NumericDate (RFC 7519 2) in Unix seconds. ok is false for
// what is none; there is false when the claim is missing.
func numericDate(claims map[string]any, name string) (seconds float64, there, ok bool) {
	v, there := claims[name]
	if !there {
		return 0, false, true
	}
	n, is := v.(json.Number)
	if !is {
		return 0, true, false
	}
	seconds, err := n.Float64()
	return seconds, true, err == nil && !math.IsNaN(seconds) && seconds >= 0 && seconds <= 1<<40
}
