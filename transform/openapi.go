package transform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"sluice/document"
)

// OpenAPI is a description of an API (OpenAPI 3.0 or 3.1) as far as requests can be
// held to it. It never changes and may be used by any number of goroutines.
type OpenAPI struct {
	Title      string
	Version    string // of the API
	Base       string // path of the first server, such as /v1; empty for none
	Operations []*Operation
}

// Operation is one method of one path.
type Operation struct {
	Method       string // GET
	Path         string // in the syntax of patterns: /users/{id}
	ID           string // operationId, empty for none
	Parameters   []Parameter
	BodyRequired bool
	BodyTypes    []string // media types of its body, by the alphabet; none: it has no body

	bodies []bodyType
	limits document.Limits
}

// Parameter is a parameter of an operation.
type Parameter struct {
	In       string // path, query, header or cookie
	Name     string
	Required bool

	key    string // its name as it is asked for
	empty  bool   // may be without a value
	json   bool   // is JSON in a text
	part   string // what parts the elements of an array; empty: it is none
	kinds  []string
	schema *schema // nil: anything
}

type bodyType struct {
	media  mediaType
	schema *schema // nil: anything
}

// isRead tells whether bodies in f are held to their schema.
func isRead(f document.Format) bool { return f == document.JSON || f == document.YAML }

const (
	mostDescription = 16 << 20 // bytes of the file
	mostOperations  = 4096
	mostParameters  = 128 // of an operation
	mostHops        = 16  // of references to references
	describedNodes  = defaultMax / bytesPerNode
	openAPIPlace    = "inline:///openapi"
)

var openAPIMethods = []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"}

// LoadOpenAPI reads the file at path, YAML or JSON. References lead to places within
// it; one that does not is a mistake, as is a schema that is none. Parameters of
// paths are called as patterns allow: what is no letter, digit or _ becomes _.
func LoadOpenAPI(path string) (*OpenAPI, error) {
	text, err := readFile(path, mostDescription)
	if err != nil {
		return nil, err
	}
	root, err := decodeSchema(text, isYAML(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	l := &openAPILoader{root: root, files: &schemaFiles{docs: map[string]any{openAPIPlace: root}, closed: true}}
	api, err := l.load()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return api, nil
}

type openAPILoader struct {
	root  any
	files *schemaFiles
	draft *jsonschema.Draft
}

// node is a value and its place, a JSON Pointer.
type node struct {
	value map[string]any
	place string
}

func escaped(name string) string {
	return pointerEscapes.Replace(name)
}

// object is the object at value, through references.
func (l *openAPILoader) object(value any, place string) (node, error) {
	for range mostHops {
		object, ok := value.(map[string]any)
		if !ok {
			return node{}, fmt.Errorf("expected an object at %s", shown(place, mostPointer))
		}
		ref, ok := object["$ref"].(string)
		if !ok {
			return node{object, place}, nil
		}
		pointer, ok := strings.CutPrefix(ref, "#")
		if !ok {
			return node{}, fmt.Errorf("expected a reference within the document at %s, got %q", shown(place, mostPointer), shown(ref, mostPointer))
		}
		if pointer, err := url.PathUnescape(pointer); err == nil {
			place = pointer
		}
		if value, ok = l.lookup(place); !ok {
			return node{}, fmt.Errorf("expected something at %q, which a reference leads to", shown(ref, mostPointer))
		}
	}
	return node{}, fmt.Errorf("expected at most %d references in a row at %s", mostHops, shown(place, mostPointer))
}

var pointerUnescapes = strings.NewReplacer("~1", "/", "~0", "~")

func (l *openAPILoader) lookup(pointer string) (value any, ok bool) {
	value = l.root
	if pointer == "" {
		return value, true
	}
	for _, name := range strings.Split(pointer, "/")[1:] {
		name = pointerUnescapes.Replace(name)
		switch v := value.(type) {
		case map[string]any:
			if value, ok = v[name]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(v) {
				return nil, false
			}
			value = v[i]
		default:
			return nil, false
		}
	}
	return value, strings.HasPrefix(pointer, "/")
}

func (l *openAPILoader) load() (*OpenAPI, error) {
	root, ok := l.root.(map[string]any)
	version, _ := root["openapi"].(string)
	switch {
	case ok && strings.HasPrefix(version, "3.0."):
		l.draft = jsonschema.Draft4
	case ok && strings.HasPrefix(version, "3.1."):
		l.draft = jsonschema.Draft2020
	default:
		return nil, fmt.Errorf("expected openapi: 3.0.x or 3.1.x, got %q", shown(version, mostCode))
	}
	l.adapt(l.root)
	api := new(OpenAPI)
	if info, ok := root["info"].(map[string]any); ok {
		api.Title, _ = info["title"].(string)
		api.Version, _ = info["version"].(string)
	}
	api.Base = basePath(root["servers"])
	paths, _ := root["paths"].(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if !strings.HasPrefix(path, "/") {
			continue // x-...
		}
		item, err := l.object(paths[path], "/paths/"+escaped(path))
		if err != nil {
			return nil, err
		}
		for _, method := range openAPIMethods {
			if _, ok := item.value[method]; !ok {
				continue
			}
			if len(api.Operations) == mostOperations {
				return nil, fmt.Errorf("expected at most %d operations", mostOperations)
			}
			o, err := l.operation(path, method, item)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", strings.ToUpper(method), path, err)
			}
			api.Operations = append(api.Operations, o)
		}
	}
	if len(api.Operations) == 0 {
		return nil, errors.New("expected paths with operations")
	}
	return api, nil
}

// basePath is the path of the first server, where nothing is left open in it.
func basePath(servers any) string {
	list, _ := servers.([]any)
	if len(list) == 0 {
		return ""
	}
	server, _ := list[0].(map[string]any)
	text, _ := server["url"].(string)
	u, err := url.Parse(text)
	if err != nil || strings.Contains(text, "{") {
		return ""
	}
	return strings.TrimSuffix(u.Path, "/")
}

// adapt turns what OpenAPI says in its own words into what JSON Schema says: null is
// a type (3.0), and what is readOnly is not required of a request.
func (l *openAPILoader) adapt(value any) {
	switch v := value.(type) {
	case []any:
		for _, one := range v {
			l.adapt(one)
		}
	case map[string]any:
		for _, one := range v {
			l.adapt(one)
		}
		if kind, ok := v["type"].(string); ok && v["nullable"] == true && l.draft == jsonschema.Draft4 {
			v["type"] = []any{kind, "null"}
			if list, ok := v["enum"].([]any); ok && !slices.Contains(list, nil) {
				v["enum"] = append(slices.Clone(list), nil)
			}
		}
		required, _ := v["required"].([]any)
		properties, _ := v["properties"].(map[string]any)
		if len(required) == 0 || len(properties) == 0 {
			return
		}
		rest := slices.DeleteFunc(slices.Clone(required), func(name any) bool {
			text, _ := name.(string)
			property, _ := properties[text].(map[string]any)
			return property["readOnly"] == true
		})
		if v["required"] = rest; len(rest) == 0 {
			delete(v, "required")
		}
	}
}

func (l *openAPILoader) operation(path, method string, item node) (*Operation, error) {
	op, err := l.object(item.value[method], item.place+"/"+method)
	if err != nil {
		return nil, err
	}
	o := &Operation{Method: strings.ToUpper(method), limits: document.Limits{Bytes: mostMax, Nodes: describedNodes}}
	o.ID, _ = op.value["operationId"].(string)
	var names map[string]string
	if o.Path, names, err = patternOf(path); err != nil {
		return nil, err
	}
	var places []string // of schemas
	var users []**schema
	use := func(place string, at **schema) {
		places = append(places, openAPIPlace+"#"+(&url.URL{Path: place}).EscapedPath())
		users = append(users, at)
	}
	list, err := l.parameters(op, item)
	if err != nil {
		return nil, err
	}
	o.Parameters = make([]Parameter, 0, len(list)) // it must not move: schemas are put into it
	for _, p := range list {
		if err := l.parameter(o, p, names, use); err != nil {
			return nil, err
		}
	}
	if value, ok := op.value["requestBody"]; ok {
		if err := l.body(o, value, op.place+"/requestBody", use); err != nil {
			return nil, err
		}
	}
	if len(places) == 0 {
		return o, nil
	}
	all, err := newCheckers(l.files, places, l.draft, describedNodes)
	if err != nil {
		return nil, err
	}
	for i, at := range users {
		*at = &schema{all, i}
	}
	return o, nil
}

// patternOf is a path as a pattern, and the names in it as they are there.
func patternOf(path string) (pattern string, names map[string]string, err error) {
	names = map[string]string{}
	seen := map[string]bool{}
	for rest := path; ; {
		before, after, ok := strings.Cut(rest, "{")
		pattern += before
		if !ok {
			return pattern, names, nil
		}
		name, next, ok := strings.Cut(after, "}")
		if !ok || name == "" {
			return "", nil, errors.New("expected braces in pairs, with a name in them")
		}
		word := strings.Map(func(r rune) rune {
			if r == '_' || r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z' {
				return r
			}
			return '_'
		}, name)
		if seen[word] {
			return "", nil, fmt.Errorf("expected each parameter once, got {%s} again", word)
		}
		seen[word] = true
		names[name] = word
		pattern += "{" + word + "}"
		rest = next
	}
}

// parameters are those of the operation, and of the path where it has no others of
// the name and place.
func (l *openAPILoader) parameters(op, item node) (list []node, err error) {
	seen := map[[2]any]bool{}
	for _, from := range []node{op, item} {
		values, _ := from.value["parameters"].([]any)
		for i, value := range values {
			p, err := l.object(value, from.place+"/parameters/"+strconv.Itoa(i))
			if err != nil {
				return nil, err
			}
			in, _ := p.value["in"].(string)
			name, _ := p.value["name"].(string)
			key := [2]any{in, name}
			if in == "header" {
				key[1] = strings.ToLower(name)
			}
			if seen[key] {
				continue
			}
			seen[key] = true
			list = append(list, p)
		}
	}
	if len(list) > mostParameters {
		return nil, fmt.Errorf("expected at most %d parameters, got %d", mostParameters, len(list))
	}
	return list, nil
}

// parameter adds one to o. What a text by its name does not tell, an object or an
// array that is spread over many, is not checked as a whole: of the array its
// elements are, and the object not at all.
func (l *openAPILoader) parameter(o *Operation, n node, names map[string]string, use func(string, **schema)) error {
	p := Parameter{}
	p.In, _ = n.value["in"].(string)
	p.Name, _ = n.value["name"].(string)
	p.Required = n.value["required"] == true
	p.empty = n.value["allowEmptyValue"] == true
	p.key = p.Name
	switch p.In {
	case "path":
		word, ok := names[p.Name]
		if !ok {
			return fmt.Errorf("expected {%s} in the path, for it is a parameter", shown(p.Name, mostCode))
		}
		p.key, p.Required = word, true
	case "header":
		switch strings.ToLower(p.Name) {
		case "accept", "content-type", "authorization":
			return nil // are said elsewhere
		}
	case "query", "cookie":
	default:
		return fmt.Errorf("expected in: path, query, header or cookie of parameter %q, got %q", shown(p.Name, mostCode), shown(p.In, mostCode))
	}
	place, has := n.place+"/schema", n.value["schema"] != nil
	if media, ok := n.value["content"].(map[string]any); ok {
		for name, value := range media {
			if content, ok := value.(map[string]any); ok && content["schema"] != nil && document.FormatOf([]byte(name)) == document.JSON {
				place, has, p.json = n.place+"/content/"+escaped(name)+"/schema", true, true
			}
		}
	}
	o.Parameters = append(o.Parameters, p)
	if !has {
		return nil
	}
	to := &o.Parameters[len(o.Parameters)-1]
	if to.json {
		use(place, &to.schema)
		return nil
	}
	value, _ := l.lookup(place)
	to.kinds = l.kinds(value, place, mostHops/2)
	switch {
	case slices.Contains(to.kinds, "object") && !slices.Contains(to.kinds, "string"):
		if p.In == "query" || p.In == "cookie" {
			o.Parameters = o.Parameters[:len(o.Parameters)-1]
		}
		return nil
	case !slices.Contains(to.kinds, "array") || slices.Contains(to.kinds, "string"):
		use(place, &to.schema)
		return nil
	}
	s, err := l.object(value, place)
	if err != nil {
		return err
	}
	items, has := s.value["items"]
	to.kinds = l.kinds(items, s.place+"/items", mostHops/2)
	style, _ := n.value["style"].(string)
	explode, said := n.value["explode"].(bool)
	if !said {
		explode = p.In == "cookie" || p.In == "query" && (style == "" || style == "form")
	}
	switch {
	case explode && (p.In == "query" || p.In == "cookie"):
		if has {
			use(s.place+"/items", &to.schema)
		}
		return nil
	case style == "spaceDelimited":
		to.part = " "
	case style == "pipeDelimited":
		to.part = "|"
	case style == "label", style == "matrix":
		return nil // are not read
	default:
		to.part = ","
	}
	use(place, &to.schema)
	return nil
}

// kinds are the types that a schema may allow, as far as it names them.
func (l *openAPILoader) kinds(value any, place string, left int) (list []string) {
	s, err := l.object(value, place)
	if err != nil || left == 0 {
		return nil
	}
	switch t := s.value["type"].(type) {
	case string:
		list = append(list, t)
	case []any:
		for _, one := range t {
			if text, ok := one.(string); ok {
				list = append(list, text)
			}
		}
	}
	for _, key := range []string{"anyOf", "oneOf", "allOf"} {
		of, _ := s.value[key].([]any)
		for i, one := range of {
			list = append(list, l.kinds(one, s.place+"/"+key+"/"+strconv.Itoa(i), left-1)...)
		}
	}
	return list
}

func (l *openAPILoader) body(o *Operation, value any, place string, use func(string, **schema)) error {
	n, err := l.object(value, place)
	if err != nil {
		return err
	}
	o.BodyRequired = n.value["required"] == true
	content, _ := n.value["content"].(map[string]any)
	if len(content) > mostTypes {
		return fmt.Errorf("expected at most %d media types, got %d", mostTypes, len(content))
	}
	o.bodies = make([]bodyType, len(content))
	for i, name := range slices.Sorted(maps.Keys(content)) {
		exact, _, _ := strings.Cut(name, ";")
		exact = strings.TrimSpace(exact)
		b := &o.bodies[i]
		var ok bool
		if b.media, ok = parseMediaType(exact); !ok {
			return fmt.Errorf("expected a media type such as application/json, got %q", shown(name, mostCode))
		}
		o.BodyTypes = append(o.BodyTypes, exact)
		media, _ := content[name].(map[string]any)
		if media["schema"] != nil && (b.media.exact == "" || isRead(document.FormatOf([]byte(exact)))) {
			use(n.place+"/content/"+escaped(name)+"/schema", &b.schema)
		}
	}
	return nil
}

// Check holds a request to the operation. params gives the text of a parameter by
// its place (path, query, header or cookie) and name, decoded, that of a path by its
// name in the pattern; of several it is the first. A body that is neither JSON nor
// YAML is held to its media type alone. The error is a *Refusal:
//
//	400  a parameter is missing or not allowed; there is no body, or none in its format
//	413  the body is beyond a bound: nested deeper than 200 levels, more than 65536 values
//	415  the body is of another media type
//	422  the body does not hold to its schema
func (o *Operation) Check(params func(in, name string) (string, bool), contentType, body []byte) error {
	var failures []Failure
	for i := range o.Parameters {
		p := &o.Parameters[i]
		text, ok := params(p.In, p.key)
		if !ok {
			if p.Required {
				failures = append(failures, Failure{In: p.In, Name: shown(p.Name, mostCode), Expected: "expected a value, for it is required"})
			}
			continue
		}
		for _, f := range p.check(text) {
			f.In, f.Name = p.In, shown(p.Name, mostCode)
			failures = append(failures, f)
		}
	}
	if err := refusalOf("expected the parameters that the operation has", failures, 0); err != nil {
		r := err.(*Refusal)
		r.Status = 400
		return r
	}
	return o.checkBody(contentType, body)
}

// check is what of a parameter's text is not allowed.
func (p *Parameter) check(text string) []Failure {
	const most = 64 << 10
	switch {
	case p.schema == nil, text == "" && p.empty:
		return nil
	case len(text) > most:
		return []Failure{{Expected: "expected a shorter value"}}
	}
	var value any
	switch {
	case p.json:
		if err := document.Check([]byte(text), document.Limits{Nodes: fewestNodes}, false); err != nil {
			return []Failure{{Expected: "expected JSON: " + shown(err.Error(), mostExpected)}}
		}
		var err error
		if value, _, err = decode([]byte(text)); err != nil {
			return []Failure{{Expected: "expected JSON with shorter numbers"}}
		}
	case p.part != "":
		list := []any{}
		for one := range strings.SplitSeq(text, p.part) {
			if len(list) == fewestNodes {
				return []Failure{{Expected: "expected fewer elements"}}
			}
			list = append(list, valueOf(one, p.kinds))
		}
		value = list
	default:
		value = valueOf(text, p.kinds)
	}
	found, err := p.schema.failures(value, len(text), 1)
	if err != nil {
		return []Failure{{Expected: "expected a value that can be checked, got " + err.Error()}}
	}
	return found.list
}

// valueOf is a text as a value of one of these types, a text where it can be none.
func valueOf(text string, kinds []string) any {
	if slices.Contains(kinds, "string") {
		return text
	}
	for _, kind := range kinds {
		switch {
		case kind == "boolean" && (text == "true" || text == "false"):
			return text == "true"
		case (kind == "integer" || kind == "number") && text != "" && (text[0] == '-' || text[0] >= '0' && text[0] <= '9'):
			if document.Check([]byte(text), document.Limits{}, true) != nil {
				continue
			}
			if _, ok := survey([]byte(text)); ok {
				return json.Number(strings.TrimSpace(text))
			}
		}
	}
	return text
}

func (o *Operation) checkBody(contentType, body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		if o.BodyRequired {
			return &Refusal{Status: 400, Detail: "expected a body"}
		}
		return nil
	}
	if len(o.bodies) == 0 {
		return nil // it says nothing of one
	}
	var room [mostType]byte
	name := lowerType(contentType, &room)
	var b *bodyType
	for i := range o.bodies {
		if one := &o.bodies[i]; name != nil && one.media.holds(name) && (b == nil || one.media.rank() > b.media.rank()) {
			b = one
		}
	}
	if b == nil {
		return &Refusal{Status: 415, Detail: "expected a body of one of the types " + shown(strings.Join(o.BodyTypes, ", "), mostDetail)}
	}
	format := document.FormatOf(name)
	if !isRead(format) {
		return nil
	}
	refused := func(err error) error {
		var r *document.Refused
		if errors.As(err, &r) && r.TooLarge {
			return &Refusal{Status: 413, Detail: "expected a body within limits: " + shown(err.Error(), mostDetail)}
		}
		return &Refusal{Status: 400, Detail: "expected a body in " + format.String() + ": " + shown(err.Error(), mostDetail)}
	}
	if !isUnicode(contentType) {
		return refused(errors.New("expected UTF-8, but Content-Type has another charset"))
	}
	doc := bytes.TrimPrefix(body, []byte("\ufeff"))
	var err error
	if format == document.JSON {
		err = document.Check(doc, o.limits, false)
	} else {
		doc, err = document.ToJSON(nil, body, format, o.limits)
	}
	if err != nil {
		return refused(err)
	}
	if b.schema == nil {
		return nil
	}
	return b.schema.check(doc)
}

// rank tells how much a media type says.
func (m *mediaType) rank() int {
	if m.exact != "" {
		return 1 << 10
	}
	return len(m.begin) + len(m.suffix)
}
