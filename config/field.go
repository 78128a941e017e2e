package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"sluice/setting"
)

// kind is what a field looks like to the person who writes it.
type kind int

const (
	kindText kind = iota
	kindBool
	kindInt
	kindFloat
	kindDuration
	kindSize
	kindPercent
	kindStruct
	kindList
	kindMap
)

var (
	durationType = reflect.TypeFor[setting.Duration]()
	sizeType     = reflect.TypeFor[setting.Size]()
	percentType  = reflect.TypeFor[setting.Percent]()
	listForm     = reflect.TypeFor[interface{ ShorthandList([]string) }]()
	shorthand    = reflect.TypeFor[interface{ Shorthand(string) }]()
	validator    = reflect.TypeFor[interface{ Validate(*setting.Problems) }]()
)

// kindOf looks through pointers: a pointer only says that absence differs from
// zero. A type that no configuration can be written in is a bug.
func kindOf(t reflect.Type) kind {
	switch t {
	case durationType:
		return kindDuration
	case sizeType:
		return kindSize
	case percentType:
		return kindPercent
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.String:
		return kindText
	case reflect.Bool:
		return kindBool
	case reflect.Int, reflect.Int64:
		return kindInt
	case reflect.Float64:
		return kindFloat
	case reflect.Struct:
		return kindStruct
	case reflect.Slice:
		return kindList
	case reflect.Map:
		return kindMap
	}
	panic("BUG: config: no notation for " + t.String())
}

func (k kind) scalar() bool { return k < kindStruct }

// noun names k in help texts and tables.
func (k kind) noun() string {
	return [...]string{"text", "boolean", "number", "number", "duration", "size", "share", "block", "list", "map"}[k]
}

func hasShorthand(t reflect.Type) bool { return reflect.PointerTo(t).Implements(shorthand) }

// hasListForm tells whether a block of type t may be written as a list of texts.
func hasListForm(t reflect.Type) bool { return reflect.PointerTo(t).Implements(listForm) }

// field is one key of a block, read off a struct field and its tags.
type field struct {
	key        string
	doc        string
	def        string
	hasDefault bool
	min, max   string
	enum       []string
	secret     bool
	one        bool // a list whose only entry needs no list around it
	typ        reflect.Type
	index      []int // of the struct field, through embedded structs
}

func (f *field) kind() kind { return kindOf(f.typ) }

var fieldCache sync.Map // reflect.Type -> []field

// fieldsOf returns the keys of the block t in the order of its declaration. The
// keys of a struct that is embedded are the block's own.
func fieldsOf(t reflect.Type) []field {
	if cached, ok := fieldCache.Load(t); ok {
		return cached.([]field)
	}
	fields := appendFields(nil, t, nil)
	cached, _ := fieldCache.LoadOrStore(t, fields)
	return cached.([]field)
}

func appendFields(fields []field, t reflect.Type, at []int) []field {
	for i := range t.NumField() {
		sf := t.Field(i)
		if !sf.IsExported() {
			continue
		}
		index := append(at[:len(at):len(at)], i)
		if sf.Anonymous {
			fields = appendFields(fields, sf.Type, index)
			continue
		}
		f := field{
			key: sf.Tag.Get("yaml"),
			doc: sf.Tag.Get("doc"),
			min: sf.Tag.Get("min"), max: sf.Tag.Get("max"),
			secret: sf.Tag.Get("secret") == "true",
			one:    sf.Tag.Get("one") == "true",
			typ:    sf.Type,
			index:  index,
		}
		if f.key == "" {
			panic(fmt.Sprintf("BUG: config: %s.%s has no yaml tag", t, sf.Name))
		}
		f.def, f.hasDefault = sf.Tag.Lookup("default")
		if words := sf.Tag.Get("enum"); words != "" {
			f.enum = strings.Split(words, ",")
		}
		fields = append(fields, f)
	}
	return fields
}

func keysOf(fields []field) []string {
	keys := make([]string, len(fields))
	for i := range fields {
		keys[i] = fields[i].key
	}
	return keys
}

// want says what the value of f is expected to be.
func (f *field) want() string {
	if len(f.enum) > 0 {
		return "one of " + strings.Join(f.enum, ", ")
	}
	k := f.kind()
	bounds := f.bounds()
	switch {
	case k == kindText:
		return "a text"
	case k == kindBool:
		return "true or false"
	case k == kindInt:
		return "a whole number" + bounds
	case k == kindFloat:
		return "a number" + bounds
	case k == kindDuration && bounds == "":
		return "a duration such as 250ms, 10s or 1h30m"
	case k == kindDuration:
		return "a duration" + bounds
	case k == kindSize && bounds == "":
		return "a size such as 512, 64KiB or 1MiB"
	case k == kindSize:
		return "a size" + bounds
	case k == kindPercent && bounds == "":
		return "a share such as 50% or 0.5, between 0 and 1"
	case k == kindPercent:
		return "a share" + bounds
	case k == kindList:
		return "a list"
	default:
		return "a mapping of keys"
	}
}

// bounds says the bounds of f with a space before, or nothing.
func (f *field) bounds() string {
	switch {
	case f.min != "" && f.max != "":
		return " from " + f.min + " to " + f.max
	case f.min != "":
		return " of at least " + f.min
	case f.max != "":
		return " of at most " + f.max
	}
	return ""
}

// parse reads text into v, which has the type of f or its element type, and
// holds it to f's enum and bounds. The value of v is undefined after an error.
func (f *field) parse(v reflect.Value, text string) error {
	number, err := parseScalar(v, text)
	unexpected := &setting.Unexpected{Want: f.want(), Got: text}
	if err != nil {
		return unexpected
	}
	if len(f.enum) > 0 && !contains(f.enum, text) {
		return unexpected
	}
	if f.min != "" && number < f.bound(f.min) || f.max != "" && number > f.bound(f.max) {
		return unexpected
	}
	return nil
}

func contains(words []string, word string) bool {
	for _, w := range words {
		if w == word {
			return true
		}
	}
	return false
}

// bound reads a min or max tag, which is written like the value itself.
func (f *field) bound(text string) float64 {
	v := reflect.New(f.typ).Elem()
	number, err := parseScalar(v, text)
	if err != nil {
		panic(fmt.Sprintf("BUG: config: bound %q of %s: %v", text, f.key, err))
	}
	return number
}

// parseScalar sets v to what text says and returns numbers also as a float64,
// for the comparison with bounds.
func parseScalar(v reflect.Value, text string) (float64, error) {
	switch kindOf(v.Type()) {
	case kindText:
		deref(v).SetString(text)
		return 0, nil
	case kindBool:
		// Narrower than strconv.ParseBool: 1 and T are not YAML.
		switch text {
		case "true", "True", "TRUE":
			deref(v).SetBool(true)
		case "false", "False", "FALSE":
			deref(v).SetBool(false)
		default:
			return 0, strconv.ErrSyntax
		}
		return 0, nil
	case kindInt:
		// 010 is ten to one reader and eight to another.
		if digits := strings.TrimPrefix(text, "-"); len(digits) > 1 && digits[0] == '0' || strings.HasPrefix(text, "+") {
			return 0, strconv.ErrSyntax
		}
		n, err := strconv.ParseInt(text, 10, 64)
		deref(v).SetInt(n)
		return float64(n), err
	case kindFloat:
		x, err := strconv.ParseFloat(text, 64)
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return 0, strconv.ErrRange
		}
		deref(v).SetFloat(x)
		return x, err
	case kindDuration:
		d, err := setting.ParseDuration(text)
		deref(v).SetInt(int64(d))
		return float64(d), err
	case kindSize:
		z, err := setting.ParseSize(text)
		deref(v).SetInt(int64(z))
		return float64(z), err
	case kindPercent:
		p, err := setting.ParsePercent(text)
		deref(v).SetFloat(float64(p))
		return float64(p), err
	}
	panic("BUG: config: not a scalar: " + v.Type().String())
}

// deref follows pointers from v and makes what they lack.
func deref(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	return v
}

// setDefaults fills the block v with the values of its default tags, nested
// blocks too. Pointers, lists and maps stay nil.
func setDefaults(v reflect.Value) {
	for _, f := range fieldsOf(v.Type()) {
		fv := v.FieldByIndex(f.index)
		if f.typ.Kind() == reflect.Struct {
			setDefaults(fv)
		}
		if !f.hasDefault {
			continue
		}
		if err := f.parse(fv, f.def); err != nil {
			panic(fmt.Sprintf("BUG: config: default of %s.%s: %v", v.Type(), f.key, err))
		}
	}
}

// scalarText writes the scalar v the way parseScalar reads it.
func scalarText(v reflect.Value) string {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch x := v.Interface().(type) {
	case setting.Duration:
		return x.String()
	case setting.Size:
		return x.String()
	case setting.Percent:
		return x.String()
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Int, reflect.Int64:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	}
	return v.String()
}
