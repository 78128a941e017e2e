package document

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sluice/setting"
)

// ShapeConfig is the shaping of one JSON document, in this order: target, query,
// pick, drop, rename, move, append, collection, group.
type ShapeConfig struct {
	Target     string            `yaml:"target" doc:"Path of the value that takes the document's place. Where it leads to nothing, that is an empty object."`
	Query      string            `yaml:"query" doc:"JMESPath expression whose result takes the document's place."`
	Pick       []string          `yaml:"pick" one:"true" doc:"The only paths that stay, such as id, user.name or items[*].id. None: all."`
	Drop       []string          `yaml:"drop" one:"true" doc:"Paths that are left out."`
	Rename     map[string]string `yaml:"rename" doc:"New names of fields, by path. A field that has the new name already is replaced. Paths are those before pick, drop and rename."`
	Move       map[string]string `yaml:"move" doc:"Where values go, by path: a path of names, or one with the same beginning up to its last *. Values of a path with more * become an array. What is there is replaced."`
	Append     map[string]string `yaml:"append" doc:"The same, but elements go to the end of the array that is there."`
	Collection string            `yaml:"collection" doc:"Name under which a document that is an array is put, so that it becomes an object."`
	Group      string            `yaml:"group" doc:"Name under which the document is put."`
}

const (
	mostName      = 256 // bytes of a name that is given
	mostTransfers = 64  // of move, and of append
)

// Validate reports what the tags cannot say: paths that cannot be read, and steps
// that contradict each other.
func (c *ShapeConfig) Validate(p *setting.Problems) { c.read(p) }

// shapeRead is a ShapeConfig with its paths read.
type shapeRead struct {
	target Path
	query  *query
	pick   []Path
	drop   []Path
	rename []entry
	move   []entry
	append []entry
}

// entry is one of rename, move or append.
type entry struct {
	at   string // its key in the configuration
	from Path
	to   Path
	name string
}

func (c *ShapeConfig) read(p *setting.Problems) (r shapeRead) {
	r.target, _ = readPath(p, "target", c.Target)
	if !r.target.One() {
		p.Add("target", "expected a path without *, got %q; query can choose among several", c.Target)
	}
	if c.Query != "" {
		var err error
		if r.query, err = newQuery(c.Query); err != nil {
			p.Add("query", "expected a JMESPath expression: %v", err)
		}
	}
	r.pick = readPaths(p, "pick", c.Pick)
	r.drop = readPaths(p, "drop", c.Drop)
	if n := len(c.Pick) + len(c.Drop) + len(c.Rename); n > mostRules {
		p.Add("", "expected at most %d entries of pick, drop and rename, got %d", mostRules, n)
	}
	r.readRenames(p, c.Rename)
	r.move = r.readTransfers(p, "move", c.Move)
	r.append = r.readTransfers(p, "append", c.Append)
	r.checkOrder(p)
	for i := range r.pick {
		if d, ok := r.dropped(r.pick[i]); ok {
			p.Add(at("pick", i), "expected a path that stays, but drop has %s", d)
		}
	}
	checkName(p, "group", c.Group)
	checkName(p, "collection", c.Collection)
	return r
}

func readPath(p *setting.Problems, at, text string) (Path, bool) {
	path, err := ParsePath(text)
	if err != nil {
		p.Add(at, "%v", err)
	}
	return path, err == nil
}

// readPaths reads those of a list that are good, and tells of the others.
func readPaths(p *setting.Problems, name string, list []string) (paths []Path) {
	for i, text := range list {
		path, ok := readPath(p, at(name, i), text)
		switch {
		case !ok:
			continue
		case len(path.steps) == 0:
			p.Add(at(name, i), "expected a path inside the document, got %q", text)
			continue
		}
		for _, other := range paths {
			if slices.Equal(path.steps, other.steps) {
				p.Add(at(name, i), "expected each path once, got %q again", text)
			}
		}
		paths = append(paths, path)
	}
	return paths
}

func checkName(p *setting.Problems, at, name string) {
	if len(name) > mostName || !utf8.ValidString(name) {
		p.Add(at, "expected a name of at most %d bytes of UTF-8, got %q", mostName, name)
	}
}

func (r *shapeRead) readRenames(p *setting.Problems, m map[string]string) {
	for _, text := range sortedKeys(m) {
		e := entry{at: setting.Join("rename", setting.Key(text)), name: m[text]}
		var ok bool
		if e.from, ok = readPath(p, e.at, text); !ok {
			continue
		}
		n := len(e.from.steps) - 1
		switch {
		case n < 0 || e.from.steps[n].kind != byName:
			p.Add(e.at, "expected the path of a field, whose last step is a name, got %q", text)
			continue
		case e.name == "":
			p.Add(e.at, "expected a new name")
			continue
		case e.name == e.from.steps[n].name:
			p.Add(e.at, "expected another name than it has")
			continue
		}
		checkName(p, e.at, e.name)
		if d, ok := r.dropped(e.from); ok {
			p.Add(e.at, "expected a field that stays, but drop has %s", d)
		}
		if !r.picked(e.from) {
			p.Add(e.at, "expected a field that pick keeps")
		}
		for _, other := range r.rename {
			if !meet(e.from.steps[:n], other.from.steps[:len(other.from.steps)-1]) || n != len(other.from.steps)-1 {
				continue
			}
			switch {
			case e.from.steps[n].name == other.from.steps[n].name:
				p.Add(e.at, "expected one new name for a field, got also %s", other.at)
			case e.name == other.name:
				p.Add(e.at, "expected a name that no other field of the object gets, got %q also for %s", e.name, other.at)
			}
		}
		r.rename = append(r.rename, e)
	}
}

func (r *shapeRead) readTransfers(p *setting.Problems, kind string, m map[string]string) (list []entry) {
	if len(m) > mostTransfers {
		p.Add(kind, "expected at most %d entries, got %d", mostTransfers, len(m))
		return nil
	}
	for _, text := range sortedKeys(m) {
		e := entry{at: setting.Join(kind, setting.Key(text))}
		var good, alsoGood bool
		e.from, good = readPath(p, e.at, text)
		e.to, alsoGood = readPath(p, e.at, m[text])
		if !good || !alsoGood {
			continue
		}
		if len(e.from.steps) == 0 || len(e.to.steps) == 0 {
			p.Add(e.at, "expected paths inside the document: target and group are for the whole of it")
			continue
		}
		if slices.Equal(e.from.steps, e.to.steps) {
			p.Add(e.at, "expected another path than it has")
			continue
		}
		shared := 0
		for i, s := range e.to.steps {
			if s.kind >= everyElement {
				shared = i + 1
			}
		}
		if shared >= len(e.from.steps) || !slices.Equal(e.from.steps[:min(shared, len(e.from.steps))], e.to.steps[:shared]) {
			p.Add(e.at, "expected a destination that begins like %q up to its last *, got %q: else it is not clear which value goes where", text, m[text])
			continue
		}
		if shared == len(e.to.steps) || slices.ContainsFunc(e.to.steps[shared:], func(s step) bool { return s.kind != byName }) {
			p.Add(e.at, "expected a destination of names, got %q", m[text])
			continue
		}
		if d, ok := r.dropped(r.before(e.from)); ok {
			p.Add(e.at, "expected a source that stays, but drop has %s", d)
		}
		if d, ok := r.dropped(e.to); ok {
			p.Add(e.at, "expected a destination that stays, but drop has %s", d)
		}
		if !r.picked(e.from) && !arrives(r.move, e.from) {
			p.Add(e.at, "expected a source that pick keeps")
		}
		for _, other := range r.rename {
			n := len(other.from.steps)
			if len(e.from.steps) >= n && covers(other.from.steps, e.from.steps[:n]) && !arrives(r.move, e.from) && !r.named(other, e.from.steps[n-1].name) {
				p.Add(e.at, "expected the name that the field has by then, %q: %s comes first", other.name, other.at)
			}
		}
		list = append(list, e)
	}
	return list
}

// named tells whether another rename gives a field beside that of e this name.
func (r *shapeRead) named(e entry, name string) bool {
	for _, other := range r.rename {
		if n := len(e.from.steps); other.name == name && len(other.from.steps) == n && meet(other.from.steps[:n-1], e.from.steps[:n-1]) {
			return true
		}
	}
	return false
}

// checkOrder refuses moves, and appends, of which the result would depend on which
// comes first: a mapping has no order.
func (r *shapeRead) checkOrder(p *setting.Problems) {
	for kind, list := range [][]entry{r.move, r.append} {
		for i, e := range list {
			for _, other := range list[:i] {
				switch {
				case touch(e.from, other.from):
					p.Add(e.at, "expected a source apart from that of %s", other.at)
				case touch(e.from, other.to) || touch(e.to, other.from):
					p.Add(e.at, "expected paths apart from those of %s: which of them comes first is not said", other.at)
				case slices.Equal(e.to.steps, other.to.steps):
					if kind == 0 { // several may be appended to one
						p.Add(e.at, "expected a destination of its own, got that of %s", other.at)
					}
				case touch(e.to, other.to):
					p.Add(e.at, "expected a destination apart from that of %s", other.at)
				}
			}
		}
	}
}

// dropped tells whether drop takes out all that path leads to.
func (r *shapeRead) dropped(path Path) (by Path, ok bool) {
	for _, d := range r.drop {
		if len(d.steps) <= len(path.steps) && covers(d.steps, path.steps[:len(d.steps)]) {
			return d, true
		}
	}
	return Path{}, false
}

// picked tells whether pick may keep something of what path leads to.
func (r *shapeRead) picked(path Path) bool {
	path = r.before(path)
	for _, pick := range r.pick {
		n := min(len(pick.steps), len(path.steps))
		if meet(pick.steps[:n], path.steps[:n]) {
			return true
		}
	}
	return len(r.pick) == 0
}

// before is path with the names that fields have before they are renamed.
func (r *shapeRead) before(path Path) Path {
	steps := slices.Clone(path.steps)
	for i := range steps {
		for _, e := range r.rename {
			if n := i + 1; len(e.from.steps) == n && steps[i].kind == byName && steps[i].name == e.name && meet(e.from.steps[:i], steps[:i]) {
				steps[i].name = e.from.steps[i].name
				break
			}
		}
	}
	return Path{steps}
}

// arrives tells whether a move brings something to where path leads.
func arrives(moves []entry, path Path) bool {
	for _, e := range moves {
		n := min(len(e.to.steps), len(path.steps))
		if meet(e.to.steps[:n], path.steps[:n]) {
			return true
		}
	}
	return false
}

// covers tells whether general leads everywhere that special, of equal length,
// leads.
func covers(general, special []step) bool {
	for i, g := range general {
		switch s := special[i]; {
		case g.kind == everyChild, g == s:
		case g.kind == everyElement && s.kind == byIndex:
		default:
			return false
		}
	}
	return true
}

// meet tells whether two paths of equal length may lead to one value; of unequal
// length they do not.
func meet(a, b []step) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if x.kind > y.kind {
			x, y = y, x
		}
		switch {
		case y.kind == everyChild, x == y:
		case x.kind == byIndex && y.kind == everyElement:
		case x.kind == byIndex && y.kind == byIndex && (x.index < 0) != (y.index < 0):
		default:
			return false
		}
	}
	return true
}

// touch tells whether one path may lead into what the other leads to, or change
// the count of elements that the other goes by.
func touch(a, b Path) bool {
	n := min(len(a.steps), len(b.steps))
	if meet(a.steps[:n], b.steps[:n]) {
		return true
	}
	last := func(of, other Path) bool {
		i := len(of.steps) - 1
		return of.steps[i].kind == byIndex && i < len(other.steps) && other.steps[i].kind == byIndex && meet(of.steps[:i], other.steps[:i])
	}
	return last(a, b) || last(b, a)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, strings.Compare)
	return keys
}

// at is an element of a list in the configuration.
func at(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }
