package aggregate

import (
	"encoding/json"
	"strings"
	"testing"

	"sluice/document"
	"sluice/setting"
)

// plan compiles branches; the texts of mistakes are returned.
func plan(t testing.TB, branches map[string]Branch, c Config, params ...string) (*Plan, []string) {
	t.Helper()
	for name, b := range branches {
		if b.Path == "" {
			b.Path = "/" + name
		}
		if b.Max == 0 {
			b.Max = 1 << 20
		}
		branches[name] = b
	}
	p := new(setting.Problems)
	for name, b := range branches {
		b.Validate(p.At("aggregate." + name))
	}
	c.Validate(p.At("compose"))
	compiled := NewPlan(branches, &c, params, p.At("aggregate"), p.At("compose"))
	var texts []string
	for _, m := range p.List() {
		texts = append(texts, m.Path+": "+m.Expected)
	}
	return compiled, texts
}

func none(document.Path) ([]byte, bool) { return nil, false }

// composed is the whole that answers, JSON by branch, come to.
func composed(t *testing.T, p *Plan, answers map[string]Answer) (Whole, string) {
	t.Helper()
	parts := make([]Part, len(p.branches))
	for i, name := range p.Names() {
		a, ok := answers[name]
		if ok {
			if a.Status == 0 && a.Reason == OK {
				a.Status = 200
			}
			if a.Type == nil {
				a.Type = []byte("application/json")
			}
			parts[i] = p.Take(i, a)
		}
	}
	w, err := p.Compose(nil, parts, []byte("id"))
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(w.Body) {
		t.Fatalf("not JSON: %s", w.Body)
	}
	return w, string(w.Body)
}

func answer(text string) Answer { return Answer{Body: []byte(text)} }

func branchOf(text string) Branch {
	var b Branch
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "path":
			b.Path = value
		case "optional":
			b.Optional = true
		case "flat":
			b.Flat = true
		case "default":
			b.Default = value
		case "target":
			b.Shape.Target = value
		case "pick":
			b.Shape.Pick = append(b.Shape.Pick, value)
		case "drop":
			b.Shape.Drop = append(b.Shape.Drop, value)
		case "group":
			b.Shape.Group = value
		case "query":
			b.Shape.Query = value
		case "rename", "move", "append":
			from, to, _ := strings.Cut(value, ">")
			m := map[string]string{from: to}
			switch key {
			case "rename":
				b.Shape.Rename = m
			case "move":
				b.Shape.Move = m
			case "append":
				b.Shape.Append = m
			}
		}
	}
	b.Method, b.Format = "GET", "auto"
	return b
}

func branches(texts ...string) map[string]Branch {
	list := map[string]Branch{}
	for _, text := range texts {
		name, rest, _ := strings.Cut(text, " ")
		list[name] = branchOf(rest)
	}
	return list
}

func TestPlanOrder(t *testing.T) {
	p, mistakes := plan(t, branches("a", "b path=/{a.x}", "c path=/{b.x}/{a.y}", "d path=/{id}", "e path=/{d.z}"), Config{}, "id")
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	if got := strings.Join(p.Draw(), "; "); got != "1. a | d; 2. b <- a | e <- d; 3. c <- b, a" {
		t.Errorf("%s", got)
	}
}

func TestPlanMistakes(t *testing.T) {
	for _, c := range []struct {
		branches []string
		config   Config
		want     string
	}{
		{[]string{"a path=/{b.x}", "b path=/{c.x}", "c path=/{a.x}"}, Config{}, "aggregate: expected no circle of references, got a -> b -> c -> a"},
		{[]string{"a path=/{a.x}"}, Config{}, "refers to itself"},
		{[]string{"user", "b path=/{usr.x}"}, Config{}, "did you mean user?"},
		{[]string{"query"}, Config{}, "expected a name that is not also one of"},
		{[]string{"id"}, Config{}, "expected a name that is not also one of"},
		{[]string{"a", "b"}, Config{Order: []string{"b", "x"}}, "compose.order[1]: unknown branch"},
		{[]string{"a", "b"}, Config{Order: []string{"b", "b"}}, "each branch once"},
		{[]string{"a group=x", "b group=x"}, Config{}, "expected a name of its own"},
		{[]string{"a group=x flat"}, Config{}, "expected either flat or group"},
		{[]string{"a flat optional default=[]"}, Config{}, "expected a JSON object of a flat branch"},
		{[]string{"a default=1"}, Config{}, "expected optional beside it"},
		{[]string{"a optional default={"}, Config{}, "expected JSON"},
		{[]string{"a"}, Config{Status: map[string]int{"b:404": 200}}, "compose.status"},
		{[]string{"a"}, Config{Status: map[string]int{"a:4": 200}}, "compose.status"},
		{[]string{"a"}, Config{Status: map[string]int{"a": 304}}, "whose answer has a body"},
		{[]string{"a"}, Config{Static: []Static{{Value: "[]"}}}, "expected a JSON object"},
		{[]string{"a"}, Config{Formats: []string{"html"}}, "expected json, xml or yaml"},
		{[]string{"a path=x"}, Config{}, "expected a path that begins with /"},
		{[]string{"a path=/{"}, Config{}, "aggregate.a.path"},
		{nil, Config{}, "expected from 1 to 32 branches"},
	} {
		_, mistakes := plan(t, branches(c.branches...), c.config, "id")
		if !strings.Contains(strings.Join(mistakes, "\n"), c.want) {
			t.Errorf("%q %+v: got %q, want %q", c.branches, c.config, mistakes, c.want)
		}
	}
}

func TestPlanShapes(t *testing.T) {
	for _, c := range []struct {
		branches []string
		config   Config
		answers  map[string]Answer
		want     string
	}{
		{[]string{"a", "b"}, Config{}, map[string]Answer{"a": answer(`{"x":1}`), "b": answer(`[1,2]`)}, `{"a":{"x":1},"b":[1,2]}`},
		{[]string{"a flat", "b flat"}, Config{}, map[string]Answer{"a": answer(`{"x":1,"y":1}`), "b": answer(`{"y":2}`)}, `{"x":1,"y":2}`},
		{[]string{"a flat", "b flat"}, Config{Order: []string{"a"}}, map[string]Answer{"a": answer(`{"x":1,"y":1}`), "b": answer(`{"y":2}`)}, `{"y":1,"x":1}`},
		{[]string{"a flat", "b flat"}, Config{Deep: true}, map[string]Answer{"a": answer(`{"m":{"x":1}}`), "b": answer(`{"m":{"y":2}}`)}, `{"m":{"x":1,"y":2}}`},
		{[]string{"a flat"}, Config{}, map[string]Answer{"a": answer(`[1]`)}, `{"a":[1]}`},
		{[]string{"a group=other"}, Config{}, map[string]Answer{"a": answer(`1`)}, `{"other":1}`},
		{[]string{"a target=data.items"}, Config{}, map[string]Answer{"a": answer(`{"data":{"items":[1,2.50]}}`)}, `{"a":[1,2.50]}`},
		{[]string{"a pick=x.y pick=[*].z"}, Config{}, map[string]Answer{"a": answer(`{"x":{"y":1,"n":2},"z":3}`)}, `{"a":{"x":{"y":1}}}`},
		{[]string{"a pick=l[*].z"}, Config{}, map[string]Answer{"a": answer(`{"l":[{"z":3,"n":1},{"n":2}],"m":0}`)}, `{"a":{"l":[{"z":3},{}]}}`},
		{[]string{"a drop=l.*.n"}, Config{}, map[string]Answer{"a": answer(`{"l":[{"z":3,"n":1},{"n":2}],"m":0}`)}, `{"a":{"l":[{"z":3},{}],"m":0}}`},
		{[]string{"a rename=x.y>z"}, Config{}, map[string]Answer{"a": answer(`{"x":{"y":1}}`)}, `{"a":{"x":{"z":1}}}`},
		{[]string{"a move=x.y>z"}, Config{}, map[string]Answer{"a": answer(`{"x":{"y":1},"w":2}`)}, `{"a":{"x":{},"w":2,"z":1}}`},
		{[]string{"a append=x>y"}, Config{}, map[string]Answer{"a": answer(`{"x":[1],"y":[2]}`)}, `{"a":{"y":[2,1]}}`},
		{[]string{"a query=l[?n>`1`].z"}, Config{}, map[string]Answer{"a": answer(`{"l":[{"z":3,"n":1},{"z":4,"n":2}]}`)}, `{"a":[4]}`},
		{[]string{"a"}, Config{Shape: &document.ShapeConfig{Target: "a"}}, map[string]Answer{"a": answer(`{"x":1}`)}, `{"x":1}`},
		{[]string{"a", "b"}, Config{}, map[string]Answer{"a": {Status: 204}, "b": answer(`1`)}, `{"b":1}`},
	} {
		p, mistakes := plan(t, branches(c.branches...), c.config)
		if len(mistakes) > 0 {
			t.Errorf("%q: %q", c.branches, mistakes)
			continue
		}
		w, got := composed(t, p, c.answers)
		if got != c.want || w.Status != 200 || !w.Complete {
			t.Errorf("%q: got %d %s, want %s", c.branches, w.Status, got, c.want)
		}
	}
}

func TestComposeStatus(t *testing.T) {
	late, gone := Answer{Reason: Late}, Answer{Reason: Unreached}
	status := func(n int) Answer { return Answer{Status: n, Body: []byte(`{"inner":"detail"}`)} }
	good := answer(`{"x":1}`)
	for _, c := range []struct {
		branches []string
		rules    map[string]int
		answers  map[string]Answer
		status   int
		complete bool
		body     string // a part of it
	}{
		{[]string{"a", "b"}, nil, map[string]Answer{"a": good, "b": good}, 200, true, `"b":{"x":1}`},
		{[]string{"a", "b"}, nil, map[string]Answer{"a": good, "b": late}, 504, false, `"branch":"b"`},
		{[]string{"a", "b"}, nil, map[string]Answer{"a": good, "b": gone}, 503, false, `branch-unreached`},
		{[]string{"a", "b"}, nil, map[string]Answer{"a": good, "b": status(404)}, 404, false, `"status":404`},
		{[]string{"a", "b"}, nil, map[string]Answer{"a": good, "b": status(500)}, 502, false, `"status":500`},
		{[]string{"a", "b"}, nil, map[string]Answer{"a": good, "b": status(302)}, 502, false, `"status":302`},
		{[]string{"a", "b"}, nil, map[string]Answer{"a": good, "b": answer(`{"x":1,"x":2}`)}, 502, false, `branch-malformed`},
		{[]string{"a flat", "b flat optional"}, nil, map[string]Answer{"a": good, "b": answer(`"text"`)}, 200, false, `branch-malformed`},
		{[]string{"a flat", "b flat"}, nil, map[string]Answer{"a": good, "b": answer(`null`)}, 200, true, `{"x":1}`},
		{[]string{"a", "b"}, nil, map[string]Answer{"a": good, "b": answer("\xff")}, 502, false, `branch-malformed`},
		{[]string{"a", "b"}, nil, map[string]Answer{"a": good, "b": answer(strings.Repeat("[", 500))}, 502, false, `branch-malformed`},
		{[]string{"a", "b"}, nil, map[string]Answer{"a": good, "b": answer(`"` + strings.Repeat("x", 1<<20) + `"`)}, 502, false, `branch-too-large`},
		{[]string{"a", "b optional"}, nil, map[string]Answer{"a": good, "b": late}, 200, false, `"errors":[{"type":"urn:sluice:problem:branch-timeout","branch":"b"}]`},
		{[]string{"a optional", "b optional"}, nil, map[string]Answer{"a": gone, "b": late}, 200, false, `branch-timeout`},
		{[]string{"a optional", "b optional"}, map[string]int{"incomplete": 500}, map[string]Answer{"a": gone, "b": late}, 500, false, `branch-timeout`},
		{[]string{"a", "b optional default={\"d\":1}"}, nil, map[string]Answer{"a": good, "b": late}, 200, false, `"b":{"d":1}`},
		{[]string{"a", "b"}, map[string]int{"b:404": 200}, map[string]Answer{"a": good, "b": status(404)}, 200, false, `"a":{"x":1}`},
		{[]string{"a", "b"}, map[string]int{"b:4xx": 418, "b:404": 410}, map[string]Answer{"a": good, "b": status(404)}, 410, false, ``},
		{[]string{"a", "b"}, map[string]int{"b:4xx": 418, "b": 500}, map[string]Answer{"a": good, "b": status(401)}, 418, false, ``},
		{[]string{"a", "b"}, map[string]int{"b:timeout": 503}, map[string]Answer{"a": good, "b": late}, 503, false, ``},
		{[]string{"a", "b"}, map[string]int{"complete": 201}, map[string]Answer{"a": good, "b": good}, 201, true, ``},
	} {
		p, mistakes := plan(t, branches(c.branches...), Config{Status: c.rules, Errors: "errors"})
		if len(mistakes) > 0 {
			t.Errorf("%q: %q", c.branches, mistakes)
			continue
		}
		w, got := composed(t, p, c.answers)
		if w.Status != c.status || w.Complete != c.complete || !strings.Contains(got, c.body) || strings.Contains(got, "inner") {
			t.Errorf("%q %v: got %d %v %.200s, want %d %v %s", c.branches, c.rules, w.Status, w.Complete, got, c.status, c.complete, c.body)
		}
	}
}

func TestComposeStatic(t *testing.T) {
	var static []Static
	for _, when := range []string{"always", "success", "error", "complete", "incomplete"} {
		static = append(static, Static{when, `{"` + when + `":1}`})
	}
	p, mistakes := plan(t, branches("a optional", "b optional"), Config{Static: static})
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	for want, answers := range map[string]map[string]Answer{
		`{"a":1,"b":1,"always":1,"success":1,"complete":1}`: {"a": answer("1"), "b": answer("1")},
		`{"a":1,"always":1,"success":1,"incomplete":1}`:     {"a": answer("1"), "b": {Reason: Late}},
		`{"always":1,"error":1,"incomplete":1}`:             {"a": {Reason: Late}, "b": {Reason: Late}},
	} {
		if _, got := composed(t, p, answers); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestRequests(t *testing.T) {
	b := branches("a", "b path=/x/{a.s}/{id}?n={a.n}&o={a.o}")
	with := b["b"]
	with.Headers = map[string]string{"X-S": "{a.s}"}
	with.Body = `{"n":{a.n},"s":{a.s},"o":{a.o},"t":"is {a.s}"}`
	b["b"] = with
	p, mistakes := plan(t, b, Config{}, "id")
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	values := func(path document.Path) ([]byte, bool) { return []byte(`"7/8"`), path.First() == "id" }
	parts := []Part{{Doc: []byte(`{"s":"a b/../c","n":12345678901234567890,"o":{"k":[1]}}`)}, {}}
	r, without := p.Request(1, values, parts)
	if without.Reason != OK {
		t.Fatal(without.Reason)
	}
	if got := string(r.Target); got != `/x/a%20b%2F..%2Fc/7%2F8?n=12345678901234567890&o=%7B%22k%22%3A%5B1%5D%7D` {
		t.Errorf("target %s", got)
	}
	if got := string(r.Body); got != `{"n":12345678901234567890,"s":"a b/../c","o":{"k":[1]},"t":"is a b/../c"}` {
		t.Errorf("body %s", got)
	}
	if got := string(r.Headers[0].Value); got != "a b/../c" {
		t.Errorf("header %s", got)
	}
	if _, without := p.Request(1, values, []Part{{Reason: Late}, {}}); without.Reason != Skipped {
		t.Errorf("%v", without.Reason)
	}
	if _, without := p.Request(1, values, []Part{{Doc: []byte(`{}`)}, {}}); without.Reason != Unmade {
		t.Errorf("%v", without.Reason)
	}
	if _, without := p.Request(1, none, parts); without.Reason != Unmade {
		t.Errorf("%v", without.Reason)
	}
}

func FuzzCompose(f *testing.F) {
	p, _ := plan(f, branches("a flat", "b optional", "c optional pick=x.y drop=z"), Config{Errors: "errors", Deep: true})
	f.Add([]byte(`{"a":1}`), []byte(`[1,2]`), []byte(`{"x":{"y":1}}`))
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		w, got := composed(t, p, map[string]Answer{"a": {Body: a}, "b": {Body: b}, "c": {Body: c}})
		again, same := composed(t, p, map[string]Answer{"a": {Body: a}, "b": {Body: b}, "c": {Body: c}})
		if got != same || w.Status != again.Status {
			t.Errorf("%s and %s", got, same)
		}
	})
}
