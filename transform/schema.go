package transform

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"sluice/document"
)

// What a schema and a document that is held against it may cost. The library keeps
// every failure until it is done, and alternatives within each other multiply, so
// that a document of a megabyte could take gigabytes or hours without these.
const (
	mostSchema   = 4 << 20 // bytes of a schema, and of each file that it refers to
	mostFiles    = 64
	bytesPerNode = 16 // of a body's max, for each value
	fewestNodes  = 4096
	workPerNode  = 6  // schemas that may be held against values, for each value that a document may have
	workPerByte  = 16 // and for each byte that it does have,
	leastWork    = 10_000
	deepStep     = 16  // a document this deep takes twice the work, for each failure says where it is
	mostDigits   = 512 // of a number, and its largest exponent
	mostFailures = 16
	mostPointer  = 256
	mostExpected = 256
)

func nodesWithin(most int) int { return max(fewestNodes, most/bytesPerNode) }

// schema is a JSON Schema that any number of goroutines may hold documents against.
type schema struct {
	*checkers
	at int // of the schemas that a checker has
}

// checkers makes and keeps checkers of the same schemas: each counts, and so is for
// one goroutine at a time. There are at most as many as goroutines can run; who
// finds none waits for one of those, which work and do not wait themselves.
type checkers struct {
	nodes   int // that a document may have
	compile func() (*checker, error)
	idle    chan *checker
	made    atomic.Int32
}

// checker is schemas, compiled, that count what they do.
type checker struct {
	roots []*jsonschema.Schema
	ready bool // they are compiled; counting begins
	left  int
}

// errSpent is what a checker panics with when there is nothing left.
var errSpent = errors.New("a document that takes too much to check")

// isInline tells a schema from the name of a file with one.
func isInline(text string) bool {
	text = strings.TrimSpace(text)
	return strings.HasPrefix(text, "{") || text == "true" || text == "false"
}

// newSchema compiles a schema, inline or in a file, for documents of so many values.
func newSchema(text string, nodes int) (*schema, error) {
	files := &schemaFiles{docs: map[string]any{}}
	where := "inline:///schema"
	if isInline(text) {
		doc, err := decodeSchema([]byte(text), false)
		if err != nil {
			return nil, err
		}
		files.docs[where] = doc
	} else {
		path, err := filepath.Abs(text)
		if err != nil {
			return nil, err
		}
		where = (&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String()
	}
	c, err := newCheckers(files, []string{where}, jsonschema.Draft2020, nodes)
	if err != nil {
		return nil, err
	}
	return &schema{checkers: c}, nil
}

// newCheckers compiles the schemas at places, which may have fragments.
func newCheckers(files *schemaFiles, places []string, draft *jsonschema.Draft, nodes int) (*checkers, error) {
	s := &checkers{nodes: nodes, idle: make(chan *checker, runtime.GOMAXPROCS(0))}
	s.compile = func() (*checker, error) { return newChecker(files, places, draft) }
	c, err := s.compile()
	if err != nil {
		return nil, err
	}
	s.made.Add(1)
	s.idle <- c
	return s, nil
}

// take is a checker that is idle, or is made.
func (s *checkers) take() *checker {
	select {
	case c := <-s.idle:
		return c
	default:
	}
	if int(s.made.Add(1)) <= cap(s.idle) {
		if c, err := s.compile(); err == nil { // as before, of the same documents
			return c
		}
	}
	s.made.Add(-1)
	return <-s.idle
}

func newChecker(files *schemaFiles, places []string, draft *jsonschema.Draft) (*checker, error) {
	c := new(checker)
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(draft)
	compiler.UseLoader(files)
	compiler.AssertFormat()
	compiler.AssertVocabs()
	for _, f := range numberFormats {
		compiler.RegisterFormat(f)
	}
	// A vocabulary is shown every schema as it is compiled, also those that only a
	// $dynamicRef leads to.
	var all []*jsonschema.Schema
	compiler.RegisterVocabulary(&jsonschema.Vocabulary{
		URL: "urn:sluice:counted",
		Compile: func(ctx *jsonschema.CompilerContext, _ map[string]any) (jsonschema.SchemaExt, error) {
			all = append(all, ctx.Enqueue(nil))
			return nil, nil
		},
	})
	for _, where := range places {
		root, err := compiler.Compile(where)
		if err != nil {
			return nil, fmt.Errorf("expected a JSON Schema: %s", shown(err.Error(), 1<<10))
		}
		c.roots = append(c.roots, root)
	}
	for _, s := range all {
		c.count(s)
	}
	c.ready = true
	return c, nil
}

// count makes c notice when s is held against something: formats are what is looked
// at first and is ours to give. It takes over uniqueItems too, for which the library
// compares element with element where hashes agree, and those can be made to, and
// propertyNames, whose failures it may put in the wrong place.
func (c *checker) count(s *jsonschema.Schema) {
	format, unique, names := s.Format, s.UniqueItems, s.PropertyNames
	s.UniqueItems, s.PropertyNames = false, nil
	name := ""
	if format != nil {
		name = format.Name
	}
	s.Format = &jsonschema.Format{Name: name, Validate: func(v any) error {
		if !c.ready {
			return nil
		}
		cost := 1
		switch v := v.(type) {
		case []any:
			cost += len(v) / 4 // members of the wrong type are not seen here themselves
		case map[string]any:
			cost += len(v) / 4
		case string:
			cost += len(v) / 64
		}
		if c.left -= cost; c.left < 0 {
			panic(errSpent)
		}
		if list, ok := v.([]any); ok && unique {
			if i, j, ok := twice(list); ok {
				return &notUnique{i, j}
			}
		}
		if object, ok := v.(map[string]any); ok && names != nil {
			var bad *badName
			for member := range object {
				if names.Validate(member) != nil && (bad == nil || member < bad.name) {
					bad = &badName{member}
				}
			}
			if bad != nil {
				return bad
			}
		}
		if format != nil {
			return format.Validate(v)
		}
		return nil
	}}
}

// badName is the failure of propertyNames.
type badName struct{ name string }

func (b *badName) Error() string {
	return "another name than " + strconv.Quote(b.name[:min(len(b.name), mostPointer)])
}

// notUnique is the failure of uniqueItems.
type notUnique struct{ first, again int }

func (n *notUnique) Error() string {
	return fmt.Sprintf("each element once, got elements %d and %d equal", n.first, n.again)
}

// twice finds two elements that are equal.
func twice(list []any) (first, again int, ok bool) {
	seen := make(map[string]int, len(list))
	var text []byte
	for i, v := range list {
		text = appendCanonical(text[:0], v)
		if first, ok = seen[string(text)]; ok {
			return first, i, true
		}
		seen[string(text)] = i
	}
	return 0, 0, false
}

// appendCanonical appends what is the same for equal values, and for no others.
func appendCanonical(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, 'n')
	case bool:
		return strconv.AppendBool(dst, v)
	case string:
		return appendCounted(append(dst, 's'), v)
	case json.Number:
		return appendCounted(append(dst, '#'), canonicalNumber(string(v)))
	case []any:
		dst = strconv.AppendInt(append(dst, '['), int64(len(v)), 10)
		for _, one := range v {
			dst = appendCanonical(append(dst, ','), one)
		}
		return append(dst, ']')
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		dst = strconv.AppendInt(append(dst, '{'), int64(len(v)), 10)
		for _, name := range names {
			dst = appendCanonical(appendCounted(append(dst, ','), name), v[name])
		}
		return append(dst, '}')
	}
	return dst
}

func appendCounted(dst []byte, text string) []byte {
	dst = append(strconv.AppendInt(dst, int64(len(text)), 10), ':')
	return append(dst, text...)
}

// canonicalNumber is a JSON number as digits without zeroes around them, and the
// power of ten that they are multiplied by.
func canonicalNumber(text string) string {
	sign, exponent := "", 0
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		exponent, _ = strconv.Atoi(text[i+1:]) // is bounded
		text = text[:i]
	}
	if whole, fraction, ok := strings.Cut(text, "."); ok {
		exponent -= len(fraction)
		text = whole + fraction
	}
	text = strings.TrimLeft(text, "0")
	short := strings.TrimRight(text, "0")
	if short == "" {
		return "0"
	}
	return sign + short + "e" + strconv.Itoa(exponent+len(text)-len(short))
}

// check holds doc, which has passed document.Check, against the schema. Its errors
// are *Refusal.
func (s *schema) check(doc []byte) error {
	value, depth, err := decode(doc)
	if err != nil {
		return err
	}
	found, err := s.failures(value, len(doc), depth)
	if err != nil {
		return &Refusal{Status: 422, Detail: "expected a body that can be checked, got " + err.Error()}
	}
	return refusalOf("expected a body that the schema allows", found.list, found.more)
}

// refusalOf is the refusal of what has these failures, nil for none.
func refusalOf(detail string, failures []Failure, more int) error {
	if len(failures) == 0 {
		return nil
	}
	slices.SortStableFunc(failures, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(a.In, b.In), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Pointer, b.Pointer), cmp.Compare(a.Expected, b.Expected))
	})
	failures = slices.Compact(failures)
	r := &Refusal{Status: 422, Detail: detail, Failures: failures, More: more}
	if n := len(failures) - mostFailures; n > 0 {
		r.Failures = slices.Clone(failures[:mostFailures])
		r.More += n
	}
	return r
}

// failures is what the schema does not allow of value, which was so many bytes, and
// levels deep. err is errSpent.
func (s *schema) failures(value any, size, depth int) (found failing, err error) {
	c := s.take()
	defer func() {
		s.idle <- c
		if r := recover(); r != nil {
			if r != any(errSpent) {
				panic(r)
			}
			found, err = failing{}, errSpent
		}
	}()
	c.left = min(s.nodes*workPerNode, leastWork+workPerByte*size) / (1 + depth/deepStep)
	var invalid *jsonschema.ValidationError
	if errors.As(c.roots[s.at].Validate(value), &invalid) {
		found.take(invalid)
	}
	return found, nil
}

// decode is doc as the library has it, and how deep it is. Numbers that are large
// enough to take long are refused.
func decode(doc []byte) (value any, depth int, err error) {
	depth, ok := survey(doc)
	if !ok {
		return nil, 0, &Refusal{Status: 422, Detail: fmt.Sprintf("expected numbers of at most %d digits, with exponents from -%[1]d to %[1]d", mostDigits)}
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		return nil, 0, &Refusal{Status: 422, Detail: "expected JSON: " + shown(err.Error(), mostDetail)}
	}
	return value, depth, nil
}

// survey finds how deep doc is. ok is false where a number has more than mostDigits
// digits, or an exponent beyond it.
func survey(doc []byte) (depth int, ok bool) {
	open := 0
	for i := 0; i < len(doc); i++ {
		c := doc[i]
		switch {
		case c == '{' || c == '[':
			open++
			depth = max(depth, open)
		case c == '}' || c == ']':
			open--
		case c == '"':
			for i++; i < len(doc) && doc[i] != '"'; i++ {
				if doc[i] == '\\' {
					i++
				}
			}
		case c == '-' || c >= '0' && c <= '9':
			start, exponent := i, -1
			for i++; i < len(doc) && (doc[i] >= '0' && doc[i] <= '9' || strings.IndexByte("+-.eE", doc[i]) >= 0); i++ {
				if doc[i]|0x20 == 'e' {
					exponent = i + 1
				}
			}
			if i-start > mostDigits {
				return 0, false
			}
			if exponent >= 0 {
				n, err := strconv.Atoi(string(doc[exponent:i]))
				if err != nil || n > mostDigits || n < -mostDigits {
					return 0, false
				}
			}
			i--
		}
	}
	return depth, true
}

// failing collects failures.
type failing struct {
	list []Failure
	more int // beyond mostSorted
}

// mostSorted bounds the failures that are looked at, to tell of the first of them.
const mostSorted = 1024

func (f *failing) add(e *jsonschema.ValidationError, member, expected string) {
	if len(f.list) == mostSorted {
		f.more++
		return
	}
	f.list = append(f.list, Failure{Pointer: pointerTo(e.InstanceLocation, member), Expected: "expected " + shown(expected, mostExpected)})
}

// take adds the failures that e is made of. Of alternatives it goes into the one
// that was meant, as far as that shows.
func (f *failing) take(e *jsonschema.ValidationError) {
	switch k := e.ErrorKind.(type) {
	case *kind.Schema, *kind.Group, *kind.Reference, *kind.AllOf:
		for _, cause := range e.Causes {
			f.take(cause)
		}
		return
	case *kind.AnyOf:
		f.alternatives(e)
		return
	case *kind.OneOf:
		if len(k.Subschemas) == 0 {
			f.alternatives(e)
			return
		}
	case *kind.Required:
		for _, name := range k.Missing {
			f.add(e, name, "a value, for it is required")
		}
		return
	case *kind.Dependency:
		f.required(e, k.Missing, k.Prop)
		return
	case *kind.DependentRequired:
		f.required(e, k.Missing, k.Prop)
		return
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			f.add(e, name, "no member of this name")
		}
		return
	}
	if len(f.list) == mostSorted {
		f.more++
		return
	}
	f.add(e, "", expectation(e.ErrorKind))
}

func (f *failing) required(e *jsonschema.ValidationError, missing []string, because string) {
	for _, name := range missing {
		f.add(e, name, "a value, for it is required beside "+strconv.Quote(because))
	}
}

// alternatives goes into the one of several schemas that the value itself, and its
// members that tell kinds apart, did not rule out.
func (f *failing) alternatives(e *jsonschema.ValidationError) {
	var meant *jsonschema.ValidationError
	for _, cause := range e.Causes {
		if ruledOut(cause, len(e.InstanceLocation)) {
			continue
		}
		if meant != nil {
			meant = nil
			break
		}
		meant = cause
	}
	if meant == nil {
		f.add(e, "", "one of the "+strconv.Itoa(len(e.Causes))+" forms that are allowed")
		return
	}
	f.take(meant)
}

// ruledOut tells whether e says that the value at depth is of another type, or has
// another constant in itself or a member.
func ruledOut(e *jsonschema.ValidationError, depth int) bool {
	switch e.ErrorKind.(type) {
	case *kind.Group, *kind.Reference, *kind.AllOf:
		return slices.ContainsFunc(e.Causes, func(c *jsonschema.ValidationError) bool { return ruledOut(c, depth) })
	case *kind.Type:
		return len(e.InstanceLocation) == depth
	case *kind.Const, *kind.Enum:
		return len(e.InstanceLocation) <= depth+1
	}
	return false
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// pointerTo is the JSON Pointer to a place, and a member there if it is not empty.
func pointerTo(place []string, member string) string {
	var pointer []byte
	add := func(name string) {
		pointer = append(pointer, '/')
		pointer = append(pointer, pointerEscapes.Replace(name[:min(len(name), mostPointer)])...)
	}
	for _, name := range place {
		if add(name); len(pointer) > mostPointer {
			break
		}
	}
	if member != "" && len(pointer) <= mostPointer {
		add(member)
	}
	if len(pointer) > mostPointer {
		return shown(string(pointer), mostPointer)
	}
	return string(pointer)
}

// expectation says what a keyword wants.
func expectation(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return strings.Join(k.Want, " or ") + ", got " + k.Got
	case *kind.Enum:
		return "one of " + wanted(k.Want)
	case *kind.Const:
		return wanted([]any{k.Want})
	case *kind.Format:
		switch err := k.Err.(type) {
		case *notUnique:
			return err.Error()
		case *badName:
			return err.Error()
		}
		return "the format " + k.Want
	case *kind.Pattern:
		return "a text that matches " + k.Want
	case *kind.MinLength:
		return fmt.Sprintf("at least %d characters, got %d", k.Want, k.Got)
	case *kind.MaxLength:
		return fmt.Sprintf("at most %d characters, got %d", k.Want, k.Got)
	case *kind.MinItems:
		return fmt.Sprintf("at least %d elements, got %d", k.Want, k.Got)
	case *kind.MaxItems:
		return fmt.Sprintf("at most %d elements, got %d", k.Want, k.Got)
	case *kind.AdditionalItems:
		return fmt.Sprintf("%d elements less", k.Count)
	case *kind.MinProperties:
		return fmt.Sprintf("at least %d members, got %d", k.Want, k.Got)
	case *kind.MaxProperties:
		return fmt.Sprintf("at most %d members, got %d", k.Want, k.Got)
	case *kind.Minimum:
		return "at least " + decimal(k.Want.RatString(), k.Want.FloatString)
	case *kind.Maximum:
		return "at most " + decimal(k.Want.RatString(), k.Want.FloatString)
	case *kind.ExclusiveMinimum:
		return "more than " + decimal(k.Want.RatString(), k.Want.FloatString)
	case *kind.ExclusiveMaximum:
		return "less than " + decimal(k.Want.RatString(), k.Want.FloatString)
	case *kind.MultipleOf:
		return "a multiple of " + decimal(k.Want.RatString(), k.Want.FloatString)
	case *kind.Contains:
		return "an element that the schema asks for"
	case *kind.MinContains:
		return fmt.Sprintf("at least %d elements that the schema asks for, got %d", k.Want, len(k.Got))
	case *kind.MaxContains:
		return fmt.Sprintf("at most %d elements that the schema asks for, got %d", k.Want, len(k.Got))
	case *kind.OneOf:
		return "exactly one of the forms that are allowed, got more"
	case *kind.FalseSchema:
		return "nothing here"
	case *kind.Not:
		return "another value"
	}
	return "a value that the schema allows"
}

// decimal is a number of a schema as it was meant: whole, or with its decimals.
func decimal(whole string, places func(int) string) string {
	if !strings.Contains(whole, "/") {
		return whole
	}
	return strings.TrimRight(places(12), "0")
}

func wanted(values []any) string {
	const most = 16
	var b strings.Builder
	for i, v := range values {
		if i == most {
			b.WriteString(", …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		text, err := json.Marshal(v)
		if err != nil {
			text = []byte("a value")
		}
		b.Write(text)
	}
	return b.String()
}

// numberFormats are those of OpenAPI that say something of a value.
var numberFormats = []*jsonschema.Format{
	{Name: "int32", Validate: func(v any) error { return isWithin(v, 32) }},
	{Name: "int64", Validate: func(v any) error { return isWithin(v, 64) }},
}

func isWithin(v any, bits int) error {
	n, ok := v.(json.Number)
	if !ok {
		return nil
	}
	digits, exponent, _ := strings.Cut(canonicalNumber(string(n)), "e")
	if places, _ := strconv.Atoi(exponent); places >= 0 && places < 20 {
		if _, err := strconv.ParseInt(digits+strings.Repeat("0", places), 10, bits); err == nil {
			return nil
		}
	}
	return fmt.Errorf("expected a whole number of %d bits", bits)
}

// schemaFiles reads the files that a schema is in and refers to, each once. Nothing
// comes over the network.
type schemaFiles struct {
	docs   map[string]any
	closed bool // there are no others
}

// Load is for the library.
func (f *schemaFiles) Load(where string) (any, error) {
	if doc, ok := f.docs[where]; ok {
		return doc, nil
	}
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "file" || f.closed {
		return nil, errors.New("expected what is at hand: schemas are not fetched")
	}
	if len(f.docs) >= mostFiles {
		return nil, fmt.Errorf("expected at most %d files", mostFiles)
	}
	text, err := readFile(filepath.FromSlash(u.Path), mostSchema)
	if err != nil {
		return nil, err
	}
	doc, err := decodeSchema(text, isYAML(u.Path))
	if err != nil {
		return nil, err
	}
	f.docs[where] = doc
	return doc, nil
}

func isYAML(path string) bool {
	ext := strings.ToLower(filepath.Ext(path))
	return ext == ".yaml" || ext == ".yml"
}

// readFile reads a file of at most so many bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("expected a file of at most %d bytes: %s", most, path)
	}
	return text, err
}

// decodeSchema reads a schema, or what holds some, strictly.
func decodeSchema(text []byte, yaml bool) (any, error) {
	format := document.JSON
	if yaml {
		format = document.YAML
	}
	doc, err := document.ToJSON(nil, text, format, document.Limits{Bytes: 4 * mostDescription})
	if err != nil {
		return nil, fmt.Errorf("expected %v: %w", format, err)
	}
	value, _, err := decode(doc)
	return value, err
}
