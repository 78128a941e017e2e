package auth

// This file builds the signature base (RFC 9421 2.5): one line for each covered
// component, its identifier and its value, and the signature's own parameters.
// It reads the request's bytes as they were sent; nothing is decoded that the
// signer did not decode too.
//
// Invariants: identifiers are unique, whatever the order of their parameters;
// a component that is not understood to the last parameter is an error, never
// left out; no value holds a line break, for field values and targets of
// wire.Request hold none and what is decoded is encoded again.

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/dunglas/httpsfv"

	"sluice/setting"
	"sluice/wire"
)

// component is a component identifier (RFC 9421 2).
type component struct {
	name   string
	sf, bs bool
	key    string // of ;key
	hasKey bool
	param  string // of @query-param;name
	text   string // as the signer wrote it, with its parameters in his order
}

// String is the identifier for people.
func (k *component) String() string {
	if k.param != "" {
		return k.name + `;name="` + k.param + `"`
	}
	return k.name
}

var derivedComponents = []string{"@method", "@target-uri", "@authority", "@scheme", "@request-target", "@path", "@query", "@query-param"}

// registeredStructures are the types of structured fields that ;sf needs to
// know: of requests, from the registry of RFC 9651 7 and its neighbours.
var registeredStructures = map[string]string{
	"accept-ch": "list", "accept-signature": "dictionary", "available-dictionary": "item", "cache-status": "list",
	"capsule-protocol": "item", "cdn-cache-control": "dictionary", "client-cert": "item", "client-cert-chain": "list",
	"content-digest": "dictionary", "deprecation": "item", "dictionary-id": "item", "incremental": "item",
	"priority": "dictionary", "proxy-status": "list", "repr-digest": "dictionary", "signature": "dictionary",
	"signature-input": "dictionary", "want-content-digest": "dictionary", "want-repr-digest": "dictionary",
}

// parseComponent reads a component of a configuration: a field's name in any
// case, a derived component, or @query-param;name="x".
func parseComponent(text string) (component, error) {
	name, rest, more := strings.Cut(text, ";")
	if !strings.HasPrefix(name, "@") {
		if more || !isToken(name) {
			return component{}, fmt.Errorf("expected the name of a header or a derived component such as @method, got %q", text)
		}
		return component{name: strings.ToLower(name)}, nil
	}
	if !slices.Contains(derivedComponents, name) {
		err := fmt.Sprintf("expected one of %s or the name of a header, got %q", strings.Join(derivedComponents, ", "), text)
		if near := setting.Nearest(name, derivedComponents); near != "" {
			err += ", did you mean " + near + "?"
		}
		return component{}, errors.New(err)
	}
	if name != "@query-param" {
		if more {
			return component{}, fmt.Errorf("expected %s without parameters, got %q", name, text)
		}
		return component{name: name}, nil
	}
	item, err := httpsfv.UnmarshalItem([]string{`"` + name + `";` + rest})
	if err != nil || !more {
		return component{}, fmt.Errorf(`expected @query-param;name="NAME", got %q`, text)
	}
	k, err := componentOf(&item)
	if err != nil || k.param == "" {
		return component{}, fmt.Errorf(`expected @query-param;name="NAME" with NAME as it is encoded in a URL, got %q`, text)
	}
	return k, nil
}

// componentOf reads an identifier that a signer sent.
func componentOf(item *httpsfv.Item) (k component, err error) {
	name, ok := item.Value.(string)
	if !ok || name == "" {
		return k, errors.New(sigMalformed)
	}
	k.name = name
	if k.text, err = httpsfv.Marshal(*item); err != nil {
		return k, errors.New(sigMalformed)
	}
	derived := name[0] == '@'
	switch {
	case derived && !slices.Contains(derivedComponents, name):
		return k, errors.New(sigUnsupported + printableName(name))
	case !derived && (!isToken(name) || name != strings.ToLower(name)):
		return k, errors.New(sigMalformed)
	}
	for _, p := range item.Params.Names() {
		v, _ := item.Params.Get(p)
		flag := v == true
		switch {
		case p == "sf" && flag && !derived:
			k.sf = true
		case p == "bs" && flag && !derived:
			k.bs = true
		case p == "key" && !derived:
			k.key, k.hasKey = v.(string)
			if !k.hasKey {
				return k, errors.New(sigMalformed)
			}
		case p == "name" && name == "@query-param":
			k.param, _ = v.(string)
		default:
			// tr: a trailer has not come yet. req: only responses have it.
			return k, errors.New(sigUnsupported + printableName(name) + ";" + p)
		}
	}
	if k.bs && (k.sf || k.hasKey) || name == "@query-param" && k.param == "" {
		return k, errors.New(sigMalformed)
	}
	return k, nil
}

// printableName is a name that came from outside as a log may hold it.
func printableName(name string) string { return forRealm(name[:min(len(name), 64)]) }

// componentsOf reads all identifiers of a signature.
func componentsOf(items []httpsfv.Item) ([]component, error) {
	list := make([]component, 0, len(items))
	for i := range items {
		k, err := componentOf(&items[i])
		if err != nil {
			return nil, err
		}
		for j := range list {
			if l := &list[j]; l.name == k.name && l.sf == k.sf && l.bs == k.bs && l.hasKey == k.hasKey && l.key == k.key && l.param == k.param {
				return nil, errors.New(sigMalformed) // RFC 9421 2.5: each only once
			}
		}
		list = append(list, k)
	}
	return list, nil
}

// hasComponent tells whether all of the component name is covered: one member of
// a field is not the field.
func hasComponent(covered []component, name string) bool {
	for i := range covered {
		if covered[i].name == name && !covered[i].hasKey {
			return true
		}
	}
	return false
}

// isCovered tells whether k is covered, by itself or by what says the same.
func isCovered(covered []component, k *component) bool {
	has := func(name string) bool { return hasComponent(covered, name) }
	target := has("@target-uri")
	path := target || has("@request-target")
	switch k.name {
	case "@query-param":
		for i := range covered {
			if covered[i].name == k.name && covered[i].param == k.param {
				return true
			}
		}
		return path || has("@query")
	case "@authority", "@scheme":
		return target || has(k.name)
	case "@path", "@query":
		return path || has(k.name)
	case "@target-uri":
		return target || has("@authority") && (has("@request-target") || has("@path") && has("@query"))
	}
	return has(k.name)
}

// signatureBase is what was signed: the covered components of r, and the
// parameters of list.
func signatureBase(r *Request, covered []component, list httpsfv.InnerList, types map[string]string) ([]byte, error) {
	b := make([]byte, 0, 1<<10)
	for i := range covered {
		k := &covered[i]
		b = append(b, k.text...)
		b = append(b, ": "...)
		var err error
		if k.name[0] == '@' {
			b, err = appendDerived(b, r, k)
		} else {
			b, err = appendField(b, r, k, types)
		}
		if err != nil {
			return nil, err
		}
		if b = append(b, '\n'); len(b) > mostBase {
			return nil, errors.New(sigTooLarge)
		}
	}
	params, err := httpsfv.Marshal(list)
	if err != nil {
		return nil, errors.New(sigMalformed)
	}
	b = append(b, `"@signature-params": `...)
	return append(b, params...), nil
}

// appendDerived appends the value of a derived component (RFC 9421 2.2).
func appendDerived(b []byte, r *Request, k *component) ([]byte, error) {
	h := r.Head
	switch k.name {
	case "@method":
		return append(b, h.Method...), nil
	case "@scheme":
		return append(b, r.Scheme...), nil
	case "@authority":
		return appendAuthority(b, r), nil
	case "@request-target":
		return append(b, h.Target...), nil
	case "@path":
		return appendPath(b, h), nil
	case "@query":
		// 2.2.7: without a query the value is a single "?".
		b = append(b, '?')
		return append(b, h.Query...), nil
	case "@target-uri":
		b = append(b, r.Scheme...)
		b = append(b, "://"...)
		b = appendAuthority(b, r)
		if h.Form != wire.AsteriskForm {
			b = appendPath(b, h)
		}
		if h.HasQuery {
			b = append(b, '?')
			b = append(b, h.Query...)
		}
		return b, nil
	}
	return appendQueryParam(b, h.Query, k.param)
}

// appendAuthority appends the host in lower case, without the scheme's own port
// (RFC 9421 2.2.3, RFC 9110 4.2.3).
func appendAuthority(b []byte, r *Request) []byte {
	host := bytes.ToLower(r.Head.Host)
	if r.Scheme == "http" {
		host = bytes.TrimSuffix(host, []byte(":80"))
	} else {
		host = bytes.TrimSuffix(host, []byte(":443"))
	}
	return append(b, bytes.TrimSuffix(host, []byte(":"))...)
}

// appendPath appends the path as it was sent; none at all is "/" (2.2.6).
func appendPath(b []byte, h *wire.Request) []byte {
	if len(h.Path) == 0 || h.Form == wire.AsteriskForm || h.Path[0] != '/' {
		return append(b, '/')
	}
	return append(b, h.Path...)
}

// appendQueryParam appends the value of one query parameter (RFC 9421 2.2.8):
// the query is read as a form, and name and value are encoded anew.
func appendQueryParam(b, query []byte, name string) ([]byte, error) {
	found := false
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte{'&'})
		k, v, _ := bytes.Cut(pair, []byte{'='})
		encoded, ok := appendFormEncoded(nil, k)
		if len(pair) == 0 || !ok || string(encoded) != name {
			continue
		}
		if found {
			// Which of them was meant? 2.2.8: such a parameter cannot be covered.
			return nil, errors.New(sigMalformed)
		}
		found = true
		if b, ok = appendFormEncoded(b, v); !ok {
			return nil, errors.New(sigUnsupported + "@query-param that is not UTF-8")
		}
	}
	if !found {
		return nil, errors.New(sigUnsupported + "@query-param that the request lacks")
	}
	return b, nil
}

// appendFormEncoded decodes a part of a form and encodes it in the one way that
// RFC 9421 2.2.8 asks for: a space is %20, and only letters, digits and *-._
// stand for themselves. ok is false for what is no UTF-8: a form's parser makes
// the same U+FFFD of all of it, so that a signature would hold for another value.
func appendFormEncoded(b, part []byte) (encoded []byte, ok bool) {
	const hex = "0123456789ABCDEF"
	plain := make([]byte, 0, len(part))
	for i := 0; i < len(part); i++ {
		c := part[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%' && i+2 < len(part):
			if hi, lo := fromHex(part[i+1]), fromHex(part[i+2]); hi >= 0 && lo >= 0 {
				c = byte(hi<<4 | lo)
				i += 2
			}
		}
		plain = append(plain, c)
	}
	for _, c := range plain {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '*' || c == '-' || c == '.' || c == '_' {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b, utf8.Valid(plain)
}

func fromHex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// appendField appends the value of a field (RFC 9421 2.1).
func appendField(b []byte, r *Request, k *component, types map[string]string) ([]byte, error) {
	var lines []string
	size := 0
	for i := range r.Head.Fields {
		f := &r.Head.Fields[i]
		if !namesField(f.Name, k.name) {
			continue
		}
		if f.Drop {
			return nil, errors.New(sigConnection)
		}
		if size += len(f.Value); size > mostBase {
			return nil, errors.New(sigTooLarge)
		}
		lines = append(lines, string(f.Value))
	}
	if lines == nil {
		return nil, errors.New("a covered field is missing: " + printableName(k.name))
	}
	switch {
	case k.bs:
		for i, line := range lines {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(b, ':')
			b = base64.StdEncoding.AppendEncode(b, []byte(line))
			b = append(b, ':')
		}
		return b, nil
	case k.hasKey:
		dictionary, err := httpsfv.UnmarshalDictionary(lines)
		if err != nil {
			return nil, errors.New("a field covered by ;key is no dictionary: " + printableName(k.name))
		}
		member, ok := dictionary.Get(k.key)
		if !ok {
			return nil, errors.New("a field covered by ;key lacks the key: " + printableName(k.name))
		}
		return appendStructured(b, member)
	case k.sf:
		return appendStrict(b, lines, k.name, types[k.name])
	}
	for i, line := range lines {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, line...)
	}
	return b, nil
}

// appendStrict appends a structured field in its one strict form (2.1.1), for
// which its type must be known.
func appendStrict(b []byte, lines []string, name, kind string) ([]byte, error) {
	var v httpsfv.StructuredFieldValue
	var err error
	switch kind {
	case "dictionary":
		v, err = httpsfv.UnmarshalDictionary(lines)
	case "list":
		v, err = httpsfv.UnmarshalList(lines)
	case "item":
		v, err = httpsfv.UnmarshalItem(lines)
	default:
		return nil, errors.New(sigUnsupported + printableName(name) + ";sf of a type that is not known, see signature.structured")
	}
	if err != nil {
		return nil, errors.New("a field covered by ;sf is no " + kind + ": " + printableName(name))
	}
	return appendStructured(b, v)
}

func appendStructured(b []byte, v any) ([]byte, error) {
	value, ok := v.(httpsfv.StructuredFieldValue)
	if !ok {
		return nil, errors.New(sigMalformed)
	}
	text, err := httpsfv.Marshal(value)
	if err != nil {
		return nil, errors.New(sigMalformed)
	}
	return append(b, text...), nil
}
