package document

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/jmespath-community/go-jmespath/pkg/functions"
	"github.com/jmespath-community/go-jmespath/pkg/interpreter"
	"github.com/jmespath-community/go-jmespath/pkg/parsing"
)

// query is a JMESPath expression. It alone decodes documents, and allocates.
//
// The library counts in float64 and knows no other number. So numbers are decoded
// to that, and the text that each had is remembered beside it: a number of the
// document that reaches the result is written as it was. Of two numbers that
// differ but are the same float64 the second stays a text of digits (json.Number)
// inside, which can be passed on and compared with == but not counted with; so do
// those too large for a float64. Where one value is written in two ways, 1 and 1.0,
// both become the shorter.
type query struct {
	tree   parsing.ASTNode
	caller interpreter.FunctionCaller
}

const (
	mostQuery = 4096     // bytes
	mostMade  = 16 << 20 // bytes of one text that a function makes
)

func newQuery(text string) (q *query, err error) {
	if len(text) > mostQuery {
		return nil, fmt.Errorf("expected at most %d bytes, got %d", mostQuery, len(text))
	}
	defer recovered(&err)
	tree, err := parsing.NewParser().Parse(text)
	if err != nil {
		return nil, err
	}
	return &query{ordered(tree), interpreter.NewFunctionCaller(queryFunctions()...)}, nil
}

// recovered turns a panic of the library, which has some on wrong arguments, into
// an error: one document must not end the process.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("the query failed: %v", r)
	}
}

// orderedValues is the name of our function for *, of which no expression can
// speak.
const orderedValues = "*values"

// ordered makes the members that a * goes over come in the order of their names:
// the library takes them as a Go map gives them, each time differently.
func ordered(n parsing.ASTNode) parsing.ASTNode {
	n.Children = slices.Clone(n.Children)
	for i := range n.Children {
		n.Children[i] = ordered(n.Children[i])
	}
	if n.NodeType == parsing.ASTValueProjection && len(n.Children) == 2 {
		n.NodeType = parsing.ASTProjection
		n.Children[0] = parsing.ASTNode{NodeType: parsing.ASTFunctionExpression, Value: orderedValues, Children: []parsing.ASTNode{n.Children[0]}}
	}
	return n
}

// queryFunctions are those of the library, but in a fixed order where it has none,
// and within bounds where one text can become very long.
func queryFunctions() []functions.FunctionEntry {
	list := functions.GetDefaultFunctions()
	for i := range list {
		f := &list[i]
		of := f.Handler
		switch f.Name {
		case "keys":
			f.Handler = func(args []any) (any, error) {
				names := []any{}
				for _, name := range slices.Sorted(maps.Keys(args[0].(map[string]any))) {
					names = append(names, name)
				}
				return names, nil
			}
		case "values":
			f.Handler = func(args []any) (any, error) { return valuesInOrder(args[0]), nil }
		case "items":
			f.Handler = func(args []any) (any, error) {
				m, pairs := args[0].(map[string]any), []any{}
				for _, name := range slices.Sorted(maps.Keys(m)) {
					pairs = append(pairs, []any{name, m[name]})
				}
				return pairs, nil
			}
		case "sort_by":
			// It sorts in place, which may be in the expression itself.
			f.Handler = func(args []any) (any, error) {
				return of([]any{slices.Clone(args[0].([]any)), args[1]})
			}
		case "pad_left", "pad_right":
			f.Handler = bounded(of, func(args []any) float64 { return args[1].(float64) })
		case "join":
			f.Handler = bounded(of, func(args []any) float64 {
				items := args[1].([]any)
				length := float64(len(args[0].(string))) * float64(len(items))
				for _, item := range items {
					length += float64(len(item.(string)))
				}
				return length
			})
		case "replace":
			f.Handler = bounded(of, func(args []any) float64 {
				text := args[0].(string)
				return float64(len(text)) + float64(strings.Count(text, args[1].(string)))*float64(len(args[2].(string)))
			})
		}
	}
	return append(list, functions.FunctionEntry{
		Name:      orderedValues,
		Arguments: []functions.ArgSpec{{Types: []functions.JpType{functions.JpAny}}},
		Handler:   func(args []any) (any, error) { return valuesInOrder(args[0]), nil },
	})
}

// valuesInOrder is nil of what is no object.
func valuesInOrder(object any) any {
	m, ok := object.(map[string]any)
	if !ok {
		return nil
	}
	values := []any{}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		values = append(values, m[name])
	}
	return values
}

func bounded(f functions.JpFunction, length func([]any) float64) functions.JpFunction {
	return func(args []any) (any, error) {
		if length(args) > mostMade {
			return nil, tooLarge(0, "expected a query to make texts of at most %d bytes", mostMade)
		}
		return f(args)
	}
}

// run is the result of the query over a document, which is checked against lim.
func (q *query) run(doc []byte, lim Limits) (result []byte, err error) {
	defer recovered(&err)
	d := decoding{b: doc, numbers: map[float64]digits{}}
	tree, _ := d.value(0)
	if d.bad {
		return nil, errBad
	}
	found, err := interpreter.NewInterpreter(tree, q.caller, nil).Execute(q.tree, tree)
	if err != nil {
		var r *Refused
		if errors.As(err, &r) {
			return nil, r
		}
		return nil, fmt.Errorf("the query failed: %w", err)
	}
	e := encoding{most: lim.Bytes, depth: lim.Depth, nodes: lim.Nodes, decoding: &d}
	if err := e.value(found, 0); err != nil {
		return nil, err
	}
	return e.dst, nil
}

// digits is where a number stands in a document.
type digits struct {
	from, to int
	several  bool // the same value stands somewhere else in other digits
}

type decoding struct {
	b       []byte
	numbers map[float64]digits
	bad     bool
}

func (d *decoding) value(i int) (v any, end int) {
	b := d.b
	w, object, ok := opened(b, i)
	switch {
	case object:
		m := map[string]any{}
		for {
			name, value := w.member()
			if value < 0 {
				break
			}
			m[string(appendUnescaped(nil, name))], w.i = d.value(value)
		}
		d.bad = d.bad || w.bad
		return m, w.i
	case ok:
		list := []any{}
		for value := w.next(); value >= 0; value = w.next() {
			v, w.i = d.value(value)
			list = append(list, v)
		}
		d.bad = d.bad || w.bad
		return list, w.i
	}
	if end = skip(b, i); end < 0 {
		d.bad = true
		return nil, len(b)
	}
	switch b[i] {
	case '"':
		return string(appendUnescaped(nil, b[i+1:end-1])), end
	case 't':
		return true, end
	case 'f':
		return false, end
	case 'n':
		return nil, end
	}
	return d.number(i, end), end
}

func (d *decoding) number(i, end int) any {
	text := string(d.b[i:end])
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return json.Number(text)
	}
	if f == 0 {
		switch short, _ := decimal(text); {
		case short != "":
			return json.Number(text) // too small
		case text[0] == '-':
			return f // -0 equals 0, and is kept apart by its sign
		}
	}
	seen, ok := d.numbers[f]
	if !ok {
		d.numbers[f] = digits{from: i, to: end}
		return f
	}
	if before := string(d.b[seen.from:seen.to]); before != text {
		if !sameValue(before, text) {
			return json.Number(text)
		}
		seen.several = true
		d.numbers[f] = seen
	}
	return f
}

// sameValue tells whether two JSON numbers are equal, however large.
func sameValue(a, b string) bool {
	da, ea := decimal(a)
	db, eb := decimal(b)
	return da == db && ea == eb
}

// decimal is a JSON number as digits with their sign, without zeroes around them,
// and the power of ten that they are multiplied by.
func decimal(text string) (digits string, exponent int64) {
	sign := ""
	if text[0] == '-' {
		sign, text = "-", text[1:]
	}
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		exponent, _ = strconv.ParseInt(text[i+1:], 10, 64)
		text = text[:i]
	}
	if i := strings.IndexByte(text, '.'); i >= 0 {
		exponent -= int64(len(text) - i - 1)
		text = text[:i] + text[i+1:]
	}
	text = strings.TrimLeft(text, "0")
	short := strings.TrimRight(text, "0")
	if short == "" {
		return "", 0
	}
	return sign + short, exponent + int64(len(text)-len(short))
}

type encoding struct {
	*decoding
	dst                []byte
	most, depth, nodes int
}

func (e *encoding) value(v any, depth int) error {
	e.nodes--
	switch {
	case len(e.dst) > e.most:
		return tooLong(e.most)
	case depth > e.depth:
		return tooLarge(0, "expected a query to nest at most %d arrays and objects", e.depth)
	case e.nodes < 0:
		return tooLarge(0, "expected a query to give fewer values")
	}
	switch v := v.(type) {
	case nil:
		e.dst = append(e.dst, "null"...)
	case bool:
		e.dst = strconv.AppendBool(e.dst, v)
	case string:
		e.dst = AppendString(e.dst, v)
	case json.Number:
		e.dst = append(e.dst, v...)
	case float64:
		return e.number(v)
	case []any:
		e.dst = append(e.dst, '[')
		for i, one := range v {
			if i > 0 {
				e.dst = append(e.dst, ',')
			}
			if err := e.value(one, depth+1); err != nil {
				return err
			}
		}
		e.dst = append(e.dst, ']')
	case map[string]any:
		e.dst = append(e.dst, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				e.dst = append(e.dst, ',')
			}
			e.dst = append(AppendString(e.dst, name), ':')
			if err := e.value(v[name], depth+1); err != nil {
				return err
			}
		}
		e.dst = append(e.dst, '}')
	default:
		return fmt.Errorf("the query failed: expected a result that JSON has, got %T", v)
	}
	return nil
}

func (e *encoding) number(f float64) error {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return errors.New("the query failed: expected a number that JSON has, got " + strconv.FormatFloat(f, 'g', -1, 64))
	}
	if f == 0 && math.Signbit(f) {
		e.dst = append(e.dst, "-0"...)
		return nil
	}
	if seen, ok := e.numbers[f]; ok && !seen.several {
		e.dst = append(e.dst, e.b[seen.from:seen.to]...)
		return nil
	}
	e.dst = appendFloat(e.dst, f)
	return nil
}

// appendFloat writes f as short as it can be, without an exponent where that is
// usual.
func appendFloat(dst []byte, f float64) []byte {
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	}
	return strconv.AppendFloat(dst, f, 'f', -1, 64)
}
