package transform

import (
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"sluice/setting"
)

// QueryConfig is what becomes of a query, in the order keep, remove, rename, set,
// add. Names are compared by what they stand for, however they are encoded.
type QueryConfig struct {
	Keep   []string          `yaml:"keep" one:"true" doc:"The only parameters that stay. None: all."`
	Remove []string          `yaml:"remove" one:"true" doc:"Parameters that are left out."`
	Rename map[string]string `yaml:"rename" doc:"New names of parameters."`
	Set    map[string]string `yaml:"set" doc:"Values of parameters, which take the place of those that were sent. {words} of the request may be in them."`
	Add    map[string]string `yaml:"add" doc:"Parameters that are added, whatever was sent. {words} of the request may be in them."`
}

const (
	mostEntries = 64 // of each list and map
	mostName    = 256
	mostValue   = 4096 // of a template
)

// Validate reports what the tags cannot say.
func (c *QueryConfig) Validate(p *setting.Problems) {
	validatePairs(p, c.Keep, c.Remove, c.Rename, c.Set, isParameter, "the name of a parameter")
	validateMap(p, "add", c.Add, isParameter, "the name of a parameter")
}

func isParameter(name string) bool { return utf8.ValidString(name) }

// validatePairs checks what queries and cookies have in common.
func validatePairs(p *setting.Problems, keep, remove []string, rename, set map[string]string, good func(string) bool, what string) {
	for _, list := range []struct {
		key   string
		names []string
	}{{"keep", keep}, {"remove", remove}} {
		if len(list.names) > mostEntries {
			p.Add(list.key, "expected at most %d entries, got %d", mostEntries, len(list.names))
		}
		for i, name := range list.names {
			switch {
			case !isNameOf(name, good):
				p.Add(at(list.key, i), "expected %s, of at most %d bytes, got %q", what, mostName, name)
			case slices.Contains(list.names[:i], name):
				p.Add(at(list.key, i), "expected each name once, got %q again", name)
			case list.key == "remove" && slices.Contains(keep, name):
				p.Add(at(list.key, i), "expected a name that is not in keep too, got %q", name)
			}
		}
	}
	validateMap(p, "rename", rename, good, what)
	for _, name := range slices.Sorted(maps.Keys(rename)) {
		path, to := setting.Join("rename", setting.Key(name)), rename[name]
		switch {
		case !isNameOf(to, good):
			p.Add(path, "expected %s, of at most %d bytes, got %q", what, mostName, to)
		case to == name:
			p.Add(path, "expected another name than it has")
		case slices.Contains(remove, name):
			p.Add(path, "expected a name that is not in remove too")
		case len(keep) > 0 && !slices.Contains(keep, name):
			p.Add(path, "expected a name that keep has too")
		}
	}
	validateMap(p, "set", set, good, what)
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if slices.Contains(remove, name) {
			p.Add(setting.Join("set", setting.Key(name)), "expected a name that is not in remove too: set replaces what was sent")
		}
	}
}

func validateMap(p *setting.Problems, key string, m map[string]string, good func(string) bool, what string) {
	if len(m) > mostEntries {
		p.Add(key, "expected at most %d entries, got %d", mostEntries, len(m))
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		path := setting.Join(key, setting.Key(name))
		if !isNameOf(name, good) {
			p.Add(path, "expected %s, of at most %d bytes", what, mostName)
		}
		if len(m[name]) > mostValue {
			p.Add(path, "expected a text of at most %d bytes, got %d", mostValue, len(m[name]))
		}
	}
}

func isNameOf(name string, good func(string) bool) bool {
	return name != "" && len(name) <= mostName && good(name)
}

// pair is a name and a template, or a new name, ready to be written.
type pair struct {
	name  string
	text  string
	ready []byte // the name as it is written
}

func sortedPairs(m map[string]string, ready func(p *pair)) (list []pair) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		p := pair{name: name, text: m[name]}
		ready(&p)
		list = append(list, p)
	}
	return list
}

func find(list []pair, name []byte) int {
	for i := range list {
		if list[i].name == string(name) {
			return i
		}
	}
	return -1
}

func holds(list []string, name []byte) bool {
	for _, one := range list {
		if one == string(name) {
			return true
		}
	}
	return false
}

// Query is a QueryConfig made ready. It never changes and may be used by any number
// of goroutines.
type Query struct {
	keep, remove []string
	rename       []pair
	set, add     []pair // by name
}

// NewQuery compiles c. It fails with the first of what Validate finds.
func NewQuery(c *QueryConfig) (*Query, error) {
	if err := firstProblem(c.Validate); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	encoded := func(p *pair) { p.ready = append(appendEncoded(nil, []byte(p.name)), '=') }
	return &Query{
		keep: slices.Clone(c.Keep), remove: slices.Clone(c.Remove),
		rename: sortedPairs(c.Rename, func(p *pair) { p.ready = appendEncoded(nil, []byte(p.text)) }),
		set:    sortedPairs(c.Set, encoded),
		add:    sortedPairs(c.Add, encoded),
	}, nil
}

// None tells whether there is nothing to do.
func (q *Query) None() bool {
	return len(q.keep)+len(q.remove)+len(q.rename)+len(q.set)+len(q.add) == 0
}

// Append appends query, which is without its "?", as it is to be sent: with its "?",
// or nothing where nothing is left. value appends what a template comes to, as plain
// text, which is percent-encoded here. What stays keeps its order and its encoding.
// Of a parameter that is set and was sent several times the first place counts; what
// was not sent comes at the end, by name. It allocates only when dst is too small.
func (q *Query) Append(dst, query []byte, value func(template string, dst []byte) []byte) []byte {
	start := len(dst)
	var done uint64             // which of set are written
	var room [mostName + 1]byte // what is longer than any name fills it
	for len(query) > 0 {
		one := query
		query = nil
		for i, c := range one {
			if c == '&' {
				one, query = one[:i], one[i+1:]
				break
			}
		}
		rawName, rest := one, []byte(nil)
		for i, c := range one {
			if c == '=' {
				rawName, rest = one[:i], one[i:]
				break
			}
		}
		name := decoded(room[:0], rawName)
		if len(q.keep) > 0 && !holds(q.keep, name) || holds(q.remove, name) {
			continue
		}
		var renamed []byte
		if i := find(q.rename, name); i >= 0 {
			renamed, name = q.rename[i].ready, append(room[:0], q.rename[i].text...)
		}
		if i := find(q.set, name); i >= 0 {
			if done&(1<<i) == 0 {
				done |= 1 << i
				dst = appendPair(separated(dst, start), &q.set[i], value)
			}
			continue
		}
		dst = separated(dst, start)
		if renamed != nil {
			dst = append(append(dst, renamed...), rest...)
		} else {
			dst = append(dst, one...)
		}
	}
	for i := range q.set {
		if done&(1<<i) == 0 {
			dst = appendPair(separated(dst, start), &q.set[i], value)
		}
	}
	for i := range q.add {
		dst = appendPair(separated(dst, start), &q.add[i], value)
	}
	if len(dst) == start+1 {
		return dst[:start] // one empty parameter
	}
	return dst
}

// separated appends what comes before the next parameter.
func separated(dst []byte, start int) []byte {
	if len(dst) == start {
		return append(dst, '?')
	}
	return append(dst, '&')
}

func appendPair(dst []byte, p *pair, value func(string, []byte) []byte) []byte {
	dst = append(dst, p.ready...)
	mark := len(dst)
	return encodeTail(value(p.text, dst), mark)
}

// decoded is a name without percent-encoding. One that is longer than any that is
// looked for comes back cut, and so is none of them.
func decoded(dst, raw []byte) []byte {
	for i := 0; i < len(raw) && len(dst) < cap(dst); i++ {
		c := raw[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%' && i+2 < len(raw) && hex(raw[i+1]) >= 0 && hex(raw[i+2]) >= 0:
			c = byte(hex(raw[i+1])<<4 | hex(raw[i+2]))
			i += 2
		}
		dst = append(dst, c)
	}
	return dst
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

func isUnreserved(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

const upperHex = "0123456789ABCDEF"

func appendEncoded(dst, text []byte) []byte {
	mark := len(dst)
	return encodeTail(append(dst, text...), mark)
}

// encodeTail percent-encodes b[mark:] where it stands.
func encodeTail(b []byte, mark int) []byte { return escapeTail(b, mark, isUnreserved) }

func escapeTail(b []byte, mark int, stays func(byte) bool) []byte {
	more := 0
	for _, c := range b[mark:] {
		if !stays(c) {
			more += 2
		}
	}
	if more == 0 {
		return b
	}
	from := len(b) - 1
	for range more {
		b = append(b, 0)
	}
	for to := len(b) - 1; from >= mark; from-- {
		c := b[from]
		if stays(c) {
			b[to] = c
			to--
			continue
		}
		b[to-2], b[to-1], b[to] = '%', upperHex[c>>4], upperHex[c&15]
		to -= 3
	}
	return b
}
