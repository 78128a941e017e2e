package aggregate

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sluice/document"
	"sluice/setting"
)

// Branch is one branch of a configuration with what the package needs of it.
type Branch struct {
	BranchConfig
	Shape document.ShapeConfig
}

// Plan is an aggregation made ready.
type Plan struct {
	branches []branch // in the order that they are merged in
	steps    [][]int
	config   Config
	shape    *document.Shape // nil for none
	status   []statusRule
	formats  []document.Format
	body     bool // some branch needs the client's body
	facts    []document.Path
}

type branch struct {
	name     string
	group    string // the member of the whole that it becomes, empty for many
	config   BranchConfig
	path     *document.Template
	headers  []header
	body     *document.Template // nil for none
	shape    *document.Shape
	format   document.Format // Unknown goes by Content-Type
	fallback []byte
	needs    []int // branches that it refers to
}

type header struct {
	name  string
	value *document.Template
}

type statusRule struct {
	branch int // -1 for the whole
	what   string
	status int
}

// Names are the branches in the order that they are merged in.
func (p *Plan) Names() []string {
	names := make([]string, len(p.branches))
	for i := range p.branches {
		names[i] = p.branches[i].name
	}
	return names
}

// Steps are the branches in the order that they may be asked in: those of a step
// refer only to those of steps before.
func (p *Plan) Steps() [][]int { return p.steps }

// Needs are the branches that branch i refers to.
func (p *Plan) Needs(i int) []int { return p.branches[i].needs }

// NeedsBody tells whether some branch refers to the client's body.
func (p *Plan) NeedsBody() bool { return p.body }

// Facts are the values of the client's request that branches refer to, besides its
// body and the parameters of its path: whatever is composed hangs on them.
func (p *Plan) Facts() []document.Path { return p.facts }

// Max is the bytes that are read of branch i's answer.
func (p *Plan) Max(i int) int64 { return int64(p.branches[i].config.Max) }

// Completion is the name of the header that says whether all is there.
func (p *Plan) Completion() string { return p.config.Completion }

// Formats are what the whole may be sent in.
func (p *Plan) Formats() []document.Format { return p.formats }

// NewPlan compiles c and its branches, each of which has been validated. params
// are the parameters of the route's path. Mistakes go to branches and whole, the
// places of the two in the configuration.
func NewPlan(list map[string]Branch, c *Config, params []string, branches, whole *setting.Problems) *Plan {
	p := &Plan{config: *c}
	names := slices.Sorted(maps.Keys(list))
	if len(names) == 0 || len(names) > mostBranches {
		branches.Add("", "expected from 1 to %d branches, got %d", mostBranches, len(names))
		return nil
	}
	for i, name := range c.Order {
		at := at("order", i)
		switch at2 := slices.Index(names, name); {
		case at2 < 0:
			whole.Add(at, "unknown branch %q; expected one of %s", name, strings.Join(names, ", "))
		case slices.Contains(c.Order[:i], name):
			whole.Add(at, "expected each branch once, got %q again", name)
		default:
			names = append(slices.Delete(names, at2, at2+1), name)
		}
	}
	for _, name := range names {
		if slices.Contains(facts, name) || slices.Contains(params, name) {
			branches.Add(setting.Key(name), "expected a name that is not also one of %s", strings.Join(slices.Concat(facts, params), ", "))
		}
		p.branches = append(p.branches, branch{name: name, config: list[name].BranchConfig})
	}
	for i := range p.branches {
		p.compile(i, list[p.branches[i].name], names, params, branches.At(setting.Key(p.branches[i].name)))
	}
	p.conflicts(branches)
	if circle := p.order(); circle != "" {
		branches.Add("", "expected no circle of references, got %s", circle)
	}
	p.compileWhole(c, names, whole)
	return p
}

func (p *Plan) compile(i int, c Branch, names, params []string, problems *setting.Problems) {
	b := &p.branches[i]
	compile := func(key, text string, mode document.Mode) *document.Template {
		t, err := document.ParseTemplate(text, mode)
		if err != nil {
			return nil // Validate has told
		}
		for _, ref := range t.Paths() {
			name := ref.First()
			j := slices.Index(names, name)
			switch {
			case j == i:
				problems.Add(key, "expected another branch: {%s} refers to itself", ref)
			case j >= 0:
				if !slices.Contains(b.needs, j) {
					b.needs = append(b.needs, j)
				}
			case name == "body":
				p.body = true
			case slices.Contains(params, name):
			case slices.Contains(facts, name):
				if !slices.ContainsFunc(p.facts, func(f document.Path) bool { return f.String() == ref.String() }) {
					p.facts = append(p.facts, ref)
				}
			default:
				known := slices.Concat(names, params, facts)
				if near := setting.Nearest(name, known); near != "" {
					problems.Add(key, "unknown value {%s}; did you mean %s?", ref, near)
				} else {
					problems.Add(key, "unknown value {%s}; expected one of %s", ref, strings.Join(known, ", "))
				}
			}
		}
		return t
	}
	b.path = compile("path", c.Path, document.URL)
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		b.headers = append(b.headers, header{name, compile("headers."+setting.Key(name), c.Headers[name], document.Header)})
	}
	if c.Body != "" {
		b.body = compile("body", c.Body, document.BodyJSON)
	}
	if c.Default != "" {
		b.fallback = []byte(c.Default)
	}
	b.format = formats[c.Format]
	if b.group = b.name; c.Flat {
		b.group = ""
	}
	if c.Shape.Group != "" {
		if b.group = c.Shape.Group; c.Flat {
			problems.Add("group", "expected either flat or group")
		}
		c.Shape.Group = ""
	}
	b.shape, _ = document.NewShape(&c.Shape) // Validate has told
}

var formats = map[string]document.Format{
	"json": document.JSON, "ndjson": document.NDJSON, "xml": document.XML, "rss": document.RSS, "atom": document.Atom,
	"yaml": document.YAML, "text": document.Text,
}

// conflicts reports what would silently take another's place, where that shows
// without an answer.
func (p *Plan) conflicts(problems *setting.Problems) {
	for i := range p.branches {
		b := &p.branches[i]
		if b.config.Flat && b.fallback != nil && !isObject(b.fallback) {
			problems.Add(setting.Key(b.name)+".default", "expected a JSON object of a flat branch")
		}
		for _, other := range p.branches[:i] {
			if b.group != "" && b.group == other.group && !p.config.Deep {
				problems.Add(setting.Key(b.name)+".group", "expected a name of its own, got %q, which is that of branch %q: with compose.deep they would be merged", b.group, other.name)
			}
		}
	}
}

// order finds the steps. It returns a circle, such as a -> b -> a, when there is
// one.
func (p *Plan) order() string {
	step := make([]int, len(p.branches)) // 0: not known yet, -1: being looked at
	var walk func(i int, way []string) string
	walk = func(i int, way []string) string {
		switch {
		case step[i] > 0:
			return ""
		case step[i] < 0:
			return strings.Join(append(way[slices.Index(way, p.branches[i].name):], p.branches[i].name), " -> ")
		}
		step[i] = -1
		most := 0
		for _, j := range p.branches[i].needs {
			if circle := walk(j, append(way, p.branches[i].name)); circle != "" {
				return circle
			}
			most = max(most, step[j])
		}
		step[i] = most + 1
		for len(p.steps) <= most {
			p.steps = append(p.steps, nil)
		}
		p.steps[most] = append(p.steps[most], i)
		return ""
	}
	for i := range p.branches {
		if circle := walk(i, nil); circle != "" {
			return circle
		}
	}
	for _, s := range p.steps {
		slices.Sort(s)
	}
	return ""
}

func (p *Plan) compileWhole(c *Config, names []string, problems *setting.Problems) {
	for _, key := range slices.Sorted(maps.Keys(c.Status)) {
		name, what, ok := statusKey(key)
		i := slices.Index(names, name)
		if !ok || name != "" && i < 0 {
			problems.Add("status."+setting.Key(key), "expected complete, incomplete, BRANCH, BRANCH:404, BRANCH:4xx or BRANCH:%s, of branch %s", strings.Join(reasonNames[1:], ", BRANCH:"), strings.Join(names, ", "))
			continue
		}
		if name == "" {
			i = -1
		}
		p.status = append(p.status, statusRule{i, what, c.Status[key]})
	}
	slices.SortStableFunc(p.status, func(a, b statusRule) int { return rank(a) - rank(b) })
	for _, f := range c.Formats {
		p.formats = append(p.formats, formats[f])
	}
	if len(p.formats) == 0 {
		p.formats = []document.Format{document.JSON}
	}
	if c.Shape != nil {
		p.shape, _ = document.NewShape(c.Shape)
	}
}

// rank orders rules by how much they say.
func rank(r statusRule) int {
	switch {
	case r.branch < 0:
		return 4
	case r.what == "":
		return 3
	case strings.HasSuffix(r.what, "xx"):
		return 2
	}
	return 1
}

// Draw draws the branches and what they wait for, a line for each step.
func (p *Plan) Draw() []string {
	var lines []string
	for n, step := range p.steps {
		var words []string
		for _, i := range step {
			b := &p.branches[i]
			word := b.name
			if b.config.Optional {
				word += "?"
			}
			for k, j := range b.needs {
				if k == 0 {
					word += " <- "
				} else {
					word += ", "
				}
				word += p.branches[j].name
			}
			words = append(words, word)
		}
		lines = append(lines, fmt.Sprintf("%s. %s", strconv.Itoa(n+1), strings.Join(words, " | ")))
	}
	return lines
}
