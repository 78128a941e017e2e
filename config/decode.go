package config

import (
	"errors"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"sluice/pool"
	"sluice/setting"
)

// decoder carries a YAML tree into structs. It goes on after a mistake, so that
// one pass finds all of them; what could not be read keeps its default.
type decoder struct {
	*report
	lookup   func(string) (string, bool) // the environment, for ${NAME}
	asked    map[string]bool             // variables that ${NAME} asked for
	aliases  map[*ast.AliasNode]ast.Node
	left     int       // values that may still be read; aliases can multiply them
	defaults *Defaults // what upstreams start from
}

func newDecoder(r *report, lookup func(string) (string, bool)) *decoder {
	return &decoder{report: r, lookup: lookup, asked: map[string]bool{}, aliases: map[*ast.AliasNode]ast.Node{}, left: maxValues}
}

func at(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{line: 1, column: 1}
	}
	return place{line: max(t.Position.Line, 1), column: max(t.Position.Column, 1)}
}

// nodePlace is where a reader sees n begin: a block mapping at its first key,
// not at the colon that is its token.
func nodePlace(n ast.Node) place {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return nodePlace(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return nodePlace(n.Key)
	case *ast.AnchorNode:
		if n.Value != nil {
			return nodePlace(n.Value)
		}
	}
	return at(n.GetToken())
}

// link binds every alias to the anchor above it. An anchor can be used only
// after its end, so no alias can hold itself.
func (d *decoder) link(n ast.Node, anchors map[string]ast.Node) {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			d.link(v, anchors)
		}
	case *ast.MappingValueNode:
		d.link(n.Key, anchors)
		d.link(n.Value, anchors)
	case *ast.SequenceNode:
		for _, v := range n.Values {
			d.link(v, anchors)
		}
	case *ast.MappingKeyNode:
		d.link(n.Value, anchors)
	case *ast.TagNode:
		d.link(n.Value, anchors)
	case *ast.AnchorNode:
		d.link(n.Value, anchors)
		anchors[n.Name.GetToken().Value] = n.Value
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		target, ok := anchors[name]
		if !ok {
			d.add(at(n.GetToken()), "", "expected an anchor &%s above this alias", setting.Key(name))
			return
		}
		d.aliases[n] = target
	}
}

// plain strips anchors and follows aliases. It returns nil when nothing can be
// read there, and has then said so.
func (d *decoder) plain(n ast.Node, path string) ast.Node {
	for {
		switch x := n.(type) {
		case *ast.AnchorNode:
			n = x.Value
		case *ast.AliasNode:
			target, ok := d.aliases[x]
			if !ok {
				d.cover(path) // link has said so
				return nil
			}
			n = target
		case *ast.TagNode:
			d.add(at(x.GetToken()), path, "expected a value without a tag, got %s", strings.TrimSpace(x.GetToken().Value))
			return nil
		default:
			return n
		}
		if n == nil {
			return nil
		}
	}
}

// spend counts one value and tells whether the bound is reached.
func (d *decoder) spend(n ast.Node, path string) bool {
	d.left--
	if d.left == 0 {
		d.add(nodePlace(n), path, "expected at most %d values after aliases are expanded", maxValues)
	}
	return d.left > 0
}

// value reads n into v, which f describes.
func (d *decoder) value(f *field, v reflect.Value, n ast.Node, path string) {
	if n = d.plain(n, path); n == nil || !d.spend(n, path) {
		return
	}
	if _, known := d.origin.places[path]; !known || kindOf(v.Type()).scalar() {
		d.origin.places[path] = nodePlace(n)
	}
	text, isScalar := scalarNode(n)
	if n.Type() == ast.NullType {
		d.add(nodePlace(n), path, "expected %s, got nothing", f.want())
		return
	}
	t := v.Type()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch k := kindOf(t); {
	case k.scalar():
		if !isScalar {
			d.add(nodePlace(n), path, "expected %s, got %s", f.want(), describe(n))
			return
		}
		d.scalar(f, deref(v), text, n, path)
	case isScalar && hasShorthand(t):
		d.origin.places[path] = nodePlace(n)
		d.short(v, t, text, n, path)
	case k == kindStruct && hasListForm(t) && n.Type() == ast.SequenceType:
		d.shortList(f, v, t, n, path)
	case k == kindStruct:
		d.block(f, v, t, n, path)
	case k == kindList:
		d.list(f, deref(v), n, path)
	case k == kindMap:
		d.mapping(f, deref(v), n, path)
	}
}

// expand replaces ${...} in a scalar and remembers that it is a secret.
func (d *decoder) expand(text string, n ast.Node, path string) (string, bool) {
	x, err := expand(text, d.lookup)
	for _, name := range x.names {
		d.asked[name] = true
	}
	d.origin.reads = append(d.origin.reads, x.files...)
	if err != nil {
		d.add(nodePlace(n), path, "%v", err)
		return "", false
	}
	if x.secret {
		d.origin.hide(path, x.shown, append(x.values, x.text)...)
	}
	return x.text, true
}

func (d *decoder) scalar(f *field, v reflect.Value, text string, n ast.Node, path string) {
	delete(d.origin.secrets, path) // one that was inherited
	text, ok := d.expand(text, n, path)
	if !ok {
		return
	}
	if f.secret && text != "" {
		if _, expression := d.origin.secrets[path]; !expression {
			d.origin.hide(path, setting.Hidden, text)
		}
	}
	before := reflect.New(v.Type()).Elem()
	before.Set(v)
	if err := f.parse(v, text); err != nil {
		v.Set(before)
		d.unexpected(nodePlace(n), path, err)
	}
}

// unexpected reports a value that could not be parsed, without showing it when
// it is a secret.
func (d *decoder) unexpected(p place, path string, err error) {
	var u *setting.Unexpected
	if errors.As(err, &u) && d.origin.isSecret(path) {
		err = &setting.Unexpected{Want: u.Want, Got: setting.Hidden}
	}
	d.add(p, path, "%v", err)
}

// short reads the short form of a block or list: one string.
func (d *decoder) short(v reflect.Value, t reflect.Type, text string, n ast.Node, path string) {
	text, ok := d.expand(text, n, path)
	if !ok {
		return
	}
	fresh := reflect.New(t)
	if t.Kind() == reflect.Struct {
		begin(fresh.Elem(), v)
	}
	fresh.Interface().(interface{ Shorthand(string) }).Shorthand(text)
	deref(v).Set(fresh.Elem())
}

// shortList reads the short form of a block that is a list of texts.
func (d *decoder) shortList(f *field, v reflect.Value, t reflect.Type, n ast.Node, path string) {
	var list []string
	d.origin.places[path] = nodePlace(n)
	d.list(f, reflect.ValueOf(&list).Elem(), n, path)
	fresh := reflect.New(t)
	begin(fresh.Elem(), v)
	fresh.Interface().(interface{ ShorthandList([]string) }).ShorthandList(list)
	deref(v).Set(fresh.Elem())
}

// begin gives a block that is about to be read the values it begins with: what
// v holds already, or the defaults where v is a pointer to nothing.
func begin(fresh, v reflect.Value) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			setDefaults(fresh)
			return
		}
		v = v.Elem()
	}
	fresh.Set(v)
}

func (d *decoder) block(f *field, v reflect.Value, t reflect.Type, n ast.Node, path string) {
	entries, ok := d.entries(n, path)
	if !ok {
		want := f.want()
		if hasShorthand(t) {
			want += " or its short form, a text"
		}
		d.add(nodePlace(n), path, "expected %s, got %s", want, describe(n))
		return
	}
	fresh := reflect.New(t).Elem()
	begin(fresh, v)
	fields := fieldsOf(t)
	for _, e := range entries {
		keyPath := setting.Join(path, setting.Key(e.key))
		sub := fieldByKey(fields, e.key)
		if sub == nil {
			d.unknown(e, keyPath, path, fields)
			continue
		}
		d.origin.places[keyPath] = at(e.token)
		d.value(sub, fresh.FieldByIndex(sub.index), e.value, keyPath)
	}
	deref(v).Set(fresh)
}

func fieldByKey(fields []field, key string) *field {
	for i := range fields {
		if fields[i].key == key {
			return &fields[i]
		}
	}
	return nil
}

func (d *decoder) unknown(e entry, keyPath, path string, fields []field) {
	known := keysOf(fields)
	if near := setting.Nearest(e.key, known); near != "" {
		// What the misspelt key leaves missing is this same mistake.
		d.cover(setting.Join(path, near))
		d.add(at(e.token), keyPath, "unknown key; did you mean %q?", near)
		return
	}
	d.add(at(e.token), keyPath, "unknown key; expected one of %s", strings.Join(known, ", "))
}

func (d *decoder) list(f *field, v reflect.Value, n ast.Node, path string) {
	seq, ok := n.(*ast.SequenceNode)
	if _, text := scalarNode(n); !ok && f.one && (text || isMapping(n)) {
		// One entry stands for a list of one.
		seq, ok = &ast.SequenceNode{BaseNode: &ast.BaseNode{}, Values: []ast.Node{n}}, true
	}
	if !ok {
		d.add(nodePlace(n), path, "expected a list, got %s", describe(n))
		return
	}
	element := *f
	element.typ, element.one = v.Type().Elem(), false
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		if element.typ.Kind() == reflect.Struct {
			setDefaults(out.Index(i))
		}
		d.value(&element, out.Index(i), item, path+"["+strconv.Itoa(i)+"]")
	}
	v.Set(out)
}

func isMapping(n ast.Node) bool {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}

func (d *decoder) mapping(f *field, v reflect.Value, n ast.Node, path string) {
	entries, ok := d.entries(n, path)
	if !ok {
		d.add(nodePlace(n), path, "expected a mapping of keys, got %s", describe(n))
		return
	}
	element := *f
	element.typ = v.Type().Elem()
	out := reflect.MakeMapWithSize(v.Type(), len(entries))
	for _, e := range entries {
		keyPath := setting.Join(path, setting.Key(e.key))
		d.origin.places[keyPath] = at(e.token)
		value := reflect.New(element.typ).Elem()
		if element.typ.Kind() == reflect.Struct {
			setDefaults(value)
			if upstream, ok := value.Addr().Interface().(*pool.Config); ok && d.defaults != nil {
				d.defaults.begin(upstream)
				d.origin.inherit("defaults", keyPath)
			}
		}
		d.value(&element, value, e.value, keyPath)
		out.SetMapIndex(reflect.ValueOf(e.key), value)
	}
	v.Set(out)
}

// entry is one key of a mapping.
type entry struct {
	key   string
	token *token.Token
	value ast.Node
}

// entries lists the keys of a mapping, with merge keys (<<) resolved and
// duplicates reported. ok is false when n is no mapping.
func (d *decoder) entries(n ast.Node, path string) (list []entry, ok bool) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		return nil, false
	}
	seen := make(map[string]*token.Token, len(values))
	var merges []ast.Node
	for _, v := range values {
		if v.Key.IsMergeKey() {
			merges = append(merges, v.Value)
			continue
		}
		key, t, ok := keyText(v.Key)
		if !ok {
			d.add(nodePlace(v.Key), path, "expected a plain key")
			continue
		}
		if first := seen[key]; first != nil {
			d.add(at(t), setting.Join(path, setting.Key(key)), "expected each key once, got it also in line %d", at(first).line)
			continue
		}
		seen[key] = t
		list = append(list, entry{key, t, v.Value})
	}
	for _, m := range merges {
		list = d.merge(list, seen, m, path)
	}
	return list, true
}

// merge appends the keys of m, a mapping or a list of them, that are not set.
func (d *decoder) merge(list []entry, seen map[string]*token.Token, m ast.Node, path string) []entry {
	if m = d.plain(m, path); m == nil || !d.spend(m, path) {
		return list
	}
	if seq, ok := m.(*ast.SequenceNode); ok {
		for _, item := range seq.Values {
			if item = d.plain(item, path); item == nil {
				continue
			}
			if item.Type() == ast.SequenceType {
				d.add(nodePlace(item), path, "expected a mapping to merge, got a list")
				continue
			}
			list = d.merge(list, seen, item, path)
		}
		return list
	}
	merged, ok := d.entries(m, path)
	if !ok {
		d.add(nodePlace(m), path, "expected a mapping to merge, got %s", describe(m))
		return list
	}
	for _, e := range merged {
		if !d.spend(m, path) {
			return list
		}
		if seen[e.key] == nil {
			seen[e.key] = e.token
			list = append(list, e)
		}
	}
	return list
}

// keyText returns a key as it was written: 404 and true are names too.
func keyText(key ast.MapKeyNode) (string, *token.Token, bool) {
	n := ast.Node(key)
	if explicit, ok := n.(*ast.MappingKeyNode); ok {
		n = explicit.Value
	}
	if n == nil || n.Type() == ast.NullType {
		return "", nil, false
	}
	text, ok := scalarNode(n)
	return text, n.GetToken(), ok
}

// scalarNode returns the text of a scalar as it was written: 007 stays 007.
func scalarNode(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// describe names what n is, never what it holds.
func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.BoolNode:
		return "a boolean"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	}
	return "a text"
}
