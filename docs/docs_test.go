// Package docs_test holds the documents to the code: what they list is all
// there is, what they show loads, and what they link to exists.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"sluice/config"
	"sluice/fault"
	"sluice/gateway"
	"sluice/observe"
)

// TestSeries: docs/operations.md has every series of the code and no other.
func TestSeries(t *testing.T) {
	declared := regexp.MustCompile(`New(?:Gauge|Counter|Histogram)Series\("(sluice_\w+)"`)
	var code []string
	for _, pattern := range []string{"../*.go", "../*/*.go"} {
		for _, file := range glob(t, pattern) {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, m := range declared.FindAllStringSubmatch(read(t, file), -1) {
				code = append(code, m[1])
			}
		}
	}
	var text []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(sluice_\\w+)`").FindAllStringSubmatch(read(t, "operations.md"), -1) {
		text = append(text, m[1])
	}
	same(t, "series", code, text)
}

// TestProblems: docs/operations.md has every kind of fault, with its status.
func TestProblems(t *testing.T) {
	var code, text []string
	doc := read(t, "operations.md")
	for k := fault.Kind(1); int(k) < len(fault.Names()); k++ {
		code = append(code, k.Name())
	}
	section := doc[strings.Index(doc, "## Problems"):strings.Index(doc, "## TLS")]
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*?) \\|").FindAllStringSubmatch(section, -1) {
		for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(row[1], -1) {
			text = append(text, m[1])
		}
	}
	same(t, "kinds of fault", code, text)
}

// TestAccessLogKeys: docs/operations.md has every key of a line.
func TestAccessLogKeys(t *testing.T) {
	code := []string{"time"}
	for _, m := range regexp.MustCompile("`,\"(\\w+)\":").FindAllStringSubmatch(read(t, "../observe/access.go"), -1) {
		code = append(code, m[1])
	}
	doc := read(t, "operations.md")
	section := doc[strings.Index(doc, "## Access log"):strings.Index(doc, "## Problems")]
	var text []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*?) \\|").FindAllStringSubmatch(section, -1) {
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[1], -1) {
			text = append(text, m[1])
		}
	}
	same(t, "keys of the access log", code, text)
}

// TestNormalForm tries every row of the table of docs/routing.md.
func TestNormalForm(t *testing.T) {
	doc := read(t, "routing.md")
	section := doc[strings.Index(doc, "## The path's normal form"):strings.Index(doc, "### path_form: raw")]
	explain := explainer(t, "routes: [{name: all, respond: x}]")
	code := regexp.MustCompile("`([^`]+)`")
	tried := 0
	for _, row := range regexp.MustCompile("(?m)^\\| (`/.*?) \\| (.*?) \\|").FindAllStringSubmatch(section, -1) {
		results := code.FindAllStringSubmatch(row[2], -1)
		for i, sent := range code.FindAllStringSubmatch(row[1], -1) {
			tried++
			got := explain("GET", "http://h"+sent[1])
			if row[2] == "400" {
				if got != "" && !strings.Contains(got, "answer    400 bad-request") {
					t.Errorf("%s: got %s, expected 400", sent[1], got)
				}
				continue
			}
			want := results[min(i, len(results)-1)][1]
			if !strings.HasPrefix(got, "match     path "+want+"\n") {
				t.Errorf("%s: got %s, expected %s", sent[1], got, want)
			}
		}
	}
	if tried < 20 {
		t.Errorf("tried %d paths, expected the whole table", tried)
	}
}

// TestPatterns tries every row of the table of patterns in docs/routing.md.
func TestPatterns(t *testing.T) {
	doc := read(t, "routing.md")
	section := doc[strings.Index(doc, "### Path\n"):strings.Index(doc, "### Headers and query")]
	code := regexp.MustCompile("`(/[^`]*)`")
	tried := 0
	for _, row := range regexp.MustCompile("(?m)^\\| `(/.*?)` \\| (.*?) \\| (.*?)\\|").FindAllStringSubmatch(section, -1) {
		explain := explainer(t, `routes: [{name: it, match: "`+row[1]+`", respond: x}]`)
		for i, cell := range row[2:] {
			for _, path := range code.FindAllStringSubmatch(cell, -1) {
				if strings.Contains(path[1], "*") {
					continue // speaks of another pattern
				}
				tried++
				matched := strings.Contains(explain("GET", "http://h"+path[1]), `route "it"`)
				if want := i == 0; matched != want {
					t.Errorf("%s and %s: matched is %v, expected %v", row[1], path[1], matched, want)
				}
			}
		}
	}
	if tried < 15 {
		t.Errorf("tried %d paths, expected the whole table", tried)
	}
}

// TestStages: docs/request.md has the stages of serve, in its order.
func TestStages(t *testing.T) {
	_, body, _ := strings.Cut(read(t, "../proxy/serve.go"), "\nfunc (e *Engine) serve(")
	body, _, _ = strings.Cut(body, "\n}\n")
	var code []string
	for _, m := range regexp.MustCompile(`\bx\.(\w+)\(`).FindAllStringSubmatch(body, -1) {
		if m[1] != "finish" { // deferred: it stands first and runs last
			code = append(code, m[1])
		}
	}
	code = append(code, "finish")
	doc := read(t, "request.md")
	section := doc[strings.Index(doc, "## The stages"):strings.Index(doc, "## Bodies")]
	var text []string
	for _, m := range regexp.MustCompile(`(?m)^\| \*\*(\w+)\*\*`).FindAllStringSubmatch(section, -1) {
		if slices.Contains(code, m[1]) {
			text = append(text, m[1])
		}
	}
	if !slices.Equal(code, text) {
		t.Errorf("serve has the stages %v, docs/request.md has %v", code, text)
	}
}

// TestHouse: docs/architecture.md speaks of every folder with code in it.
func TestHouse(t *testing.T) {
	doc := read(t, "architecture.md")
	for _, file := range append(glob(t, "../*/*.go"), glob(t, "../*/*/*.go")...) {
		room, _, _ := strings.Cut(strings.TrimPrefix(file, "../"), "/")
		if !regexp.MustCompile(`\b` + room + `\b`).MatchString(doc) {
			t.Errorf("%s is not in docs/architecture.md", room)
		}
	}
}

// TestDependencies: docs/dependencies.md speaks of every module of go.mod.
func TestDependencies(t *testing.T) {
	doc := read(t, "dependencies.md")
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+`).FindAllStringSubmatch(read(t, "../go.mod"), -1) {
		_, short, _ := strings.Cut(m[1], "/")
		if !strings.Contains(doc, "`"+m[1]+"`") && !strings.Contains(doc, "`"+short+"`") {
			t.Errorf("%s is in go.mod and not in docs/dependencies.md", m[1])
		}
	}
}

// TestConfigurations loads every whole configuration that a document shows.
func TestConfigurations(t *testing.T) {
	found := 0
	for _, file := range documents(t) {
		for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(read(t, file), -1) {
			if !regexp.MustCompile(`(?m)^routes:`).MatchString(m[1]) {
				continue
			}
			found++
			// Secrets come from the environment of whoever tries it.
			sources := &config.Sources{}
			for _, name := range regexp.MustCompile(`\$\{([A-Z_]+)\}`).FindAllStringSubmatch(m[1], -1) {
				sources.Environ = append(sources.Environ, name[1]+"="+strings.Repeat("x", 48))
			}
			if _, err := config.Parse(file, []byte(m[1]), sources); err != nil {
				t.Error(err)
			}
		}
	}
	if found < 3 {
		t.Errorf("found %d configurations in the documents, expected more", found)
	}
}

// TestLinks follows every link between the documents, anchors too.
func TestLinks(t *testing.T) {
	for _, file := range documents(t) {
		for _, m := range regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`).FindAllStringSubmatch(read(t, file), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to := file
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(file), m[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: link to %s: %v", file, m[1], err)
				continue
			}
			if m[2] != "" && !slices.Contains(anchors(read(t, to)), m[2]) {
				t.Errorf("%s: no heading for %s%s", file, m[1], m[2])
			}
		}
	}
}

func anchors(doc string) (list []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(doc, -1) {
		a := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(m[1]), "")
		list = append(list, "#"+strings.ReplaceAll(a, " ", "-"))
	}
	return list
}

// explainer compiles a configuration; what it returns is "" for a request that
// is no HTTP.
func explainer(t *testing.T, text string) func(method, url string) string {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log.Access.Enabled = false
	g := gateway.New(observe.NewMetrics(observe.Build{}, fault.Names()), zerolog.Nop())
	t.Cleanup(g.Close)
	next, err := g.Prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Discard(next) })
	return func(method, url string) string {
		text, _ := g.Explain(next, method, url, nil)
		return text
	}
}

func documents(t *testing.T) []string {
	return slices.Concat(glob(t, "*.md"), glob(t, "../*.md"), glob(t, "../*/README.md"), glob(t, "../bench/*/README.md"))
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func same(t *testing.T, what string, code, text []string) {
	t.Helper()
	for _, name := range code {
		if !slices.Contains(text, name) {
			t.Errorf("%s: %s is in the code and not in the document", what, name)
		}
	}
	for _, name := range text {
		if !slices.Contains(code, name) {
			t.Errorf("%s: %s is in the document and not in the code", what, name)
		}
	}
}
