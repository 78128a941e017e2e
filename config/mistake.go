package config

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"sluice/setting"
)

// maxMistakes bounds the report: whoever sees a hundred mistakes has handed in
// the wrong file.
const maxMistakes = 100

// Mistake is one thing that is wrong with a configuration.
type Mistake struct {
	Where    string // sluice.yaml:12:7, SLUICE_LISTEN, --listen; where to mend it
	Path     string // upstreams.users.balance; "" where Where says it all
	Expected string // what was expected, and what was there
	place    place
}

func (m Mistake) String() string {
	parts := make([]string, 0, 3)
	for _, part := range []string{m.Where, m.Path, m.Expected} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

// Mistakes is the error of a configuration: everything that is wrong with it,
// in the order of the file, then the environment, then the flags.
type Mistakes struct {
	List []Mistake
	More int // how many were found beyond the first hundred
}

// Error writes one mistake a line.
func (m *Mistakes) Error() string {
	var b strings.Builder
	for i, mistake := range m.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(mistake.String())
	}
	if m.More > 0 {
		fmt.Fprintf(&b, "\n... and %d more", m.More)
	}
	return b.String()
}

// place is where a value was written: a position in the file, or the name of a
// variable or flag. The zero place is nowhere: a default.
type place struct {
	line, column int
	name         string
}

// rank orders places: the file, then variables, then flags.
func (p place) rank() int {
	switch {
	case p.name == "":
		return 0
	case strings.HasPrefix(p.name, "--"):
		return 2
	}
	return 1
}

func (p place) before(q place) bool {
	if p.rank() != q.rank() {
		return p.rank() < q.rank()
	}
	if p.rank() > 0 {
		return p.name < q.name
	}
	return p.line < q.line || p.line == q.line && p.column < q.column
}

// origin remembers where each value of a Config came from, and which of them
// must never be shown.
type origin struct {
	file    string            // as it was named; "" without a file
	reads   []string          // the files that the configuration depends on
	places  map[string]place  // by key path
	secrets map[string]string // by key path: the expression that stands for the value
	values  []string          // secret texts; longest first once settled
}

func newOrigin(file string) *origin {
	return &origin{file: file, places: map[string]place{}, secrets: map[string]string{}}
}

// parentPath cuts the last element off a key path. Keys that hold dots are cut
// in more steps; what is left is then known to nobody and is cut again.
func parentPath(path string) string {
	if i := strings.LastIndexAny(path, ".["); i > 0 {
		return path[:i]
	}
	return ""
}

// place finds where path, or the nearest block around it, was written.
func (o *origin) place(path string) place {
	for ; path != ""; path = parentPath(path) {
		if p, ok := o.places[path]; ok {
			return p
		}
	}
	return place{}
}

func (o *origin) where(p place) string {
	switch {
	case p.name != "":
		return p.name
	case p.line == 0:
		return o.file
	}
	return o.file + ":" + strconv.Itoa(p.line) + ":" + strconv.Itoa(p.column)
}

// isSecret tells whether a value at path, around it or under it is a secret.
func (o *origin) isSecret(path string) bool {
	for p := path; p != ""; p = parentPath(p) {
		if _, ok := o.secrets[p]; ok {
			return true
		}
	}
	for s := range o.secrets {
		if within(s, path) {
			return true
		}
	}
	return false
}

// within tells whether path lies at or under block.
func within(path, block string) bool {
	if !strings.HasPrefix(path, block) {
		return false
	}
	return len(path) == len(block) || block == "" || path[len(block)] == '.' || path[len(block)] == '['
}

func (o *origin) hide(path, expression string, values ...string) {
	o.secrets[path] = expression
	for _, v := range values {
		// Shorter texts would tear holes into every message and guard nothing.
		if len(v) >= 4 {
			o.values = append(o.values, v)
		}
	}
}

// settle ends the reading: nothing changes in o from here on. A secret that
// holds another one must go first, or its rest would stay.
func (o *origin) settle() {
	sort.Slice(o.values, func(i, j int) bool { return len(o.values[i]) > len(o.values[j]) })
}

// In a message a URL may be malformed, so everything up to the last @ goes; in
// a value that is shown as it is, only what a URL parser would call userinfo.
var (
	messageCredentials = regexp.MustCompile(`//[^\s"']*@`)
	urlCredentials     = regexp.MustCompile(`://[^/?#\s"']*@`)
)

// scrub takes the secrets out of a message.
func (o *origin) scrub(text string) string {
	for _, v := range o.values {
		text = strings.ReplaceAll(text, v, setting.Hidden)
		if q := strconv.Quote(v); q[1:len(q)-1] != v {
			text = strings.ReplaceAll(text, q[1:len(q)-1], setting.Hidden)
		}
	}
	return messageCredentials.ReplaceAllString(text, "//"+setting.Hidden+"@")
}

// report collects mistakes while a configuration is read.
type report struct {
	origin  *origin
	list    []Mistake
	covered []string // paths about which nothing more needs to be said
	count   int
}

// add records a mistake at a place of its own.
func (r *report) add(at place, path, format string, args ...any) {
	r.count++
	if len(r.list) < maxMistakes {
		r.cover(path)
		r.list = append(r.list, Mistake{Path: path, Expected: fmt.Sprintf(format, args...), place: at})
	}
}

// cover says that path has been spoken about.
func (r *report) cover(path string) {
	if path != "" {
		r.covered = append(r.covered, path)
	}
}

// problems adds what validation found, except for what merely follows from a
// mistake that was reported already.
func (r *report) problems(list []setting.Problem) {
	covered := r.covered
	for _, p := range list {
		follows := false
		for _, c := range covered {
			follows = follows || within(p.Path, c) || within(c, p.Path)
		}
		if !follows {
			r.add(r.origin.place(p.Path), p.Path, "%s", p.Expected)
		}
	}
}

// err returns what was collected as an error: a *Mistakes, or nil.
func (r *report) err() error {
	if r.count == 0 {
		return nil
	}
	sort.SliceStable(r.list, func(i, j int) bool { return r.list[i].place.before(r.list[j].place) })
	for i := range r.list {
		m := &r.list[i]
		m.Where = r.origin.where(m.place)
		m.Path = clip(m.Path)
		m.Expected = clip(r.origin.scrub(m.Expected))
	}
	return &Mistakes{List: r.list, More: r.count - len(r.list)}
}

// clip shortens what a file of eight megabytes can put into one line.
func clip(text string) string {
	const longest = 400
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "..."
}
