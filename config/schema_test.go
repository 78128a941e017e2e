package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

func TestMarkdownIsCurrent(t *testing.T) {
	path := filepath.Join("..", "docs", "configuration.md")
	want := Markdown()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is stale: run go generate ./config", path)
	}
}

// walk visits every block of the schema once, with the path of a field to it.
func walk(t reflect.Type, path string, visit func(path string, block reflect.Type)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	visit(path, t)
	for _, f := range fieldsOf(t) {
		walk(f.typ, path+"."+f.key, visit)
	}
}

func TestTags(t *testing.T) {
	key := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	walk(reflect.TypeFor[Config](), "", func(path string, block reflect.Type) {
		seen := map[string]bool{}
		for _, f := range fieldsOf(block) {
			at := path + "." + f.key
			if !key.MatchString(f.key) || seen[f.key] {
				t.Errorf("%s: not a key of its own in lower case", at)
			}
			seen[f.key] = true
			if !strings.HasSuffix(f.doc, ".") || f.doc[:1] != strings.ToUpper(f.doc[:1]) && !strings.HasPrefix(f.doc, "host:port") && !strings.HasPrefix(f.doc, "http://") {
				t.Errorf("%s: doc is no sentence: %q", at, f.doc)
			}
			if f.hasDefault {
				if err := f.parse(reflect.New(f.typ).Elem(), f.def); err != nil {
					t.Errorf("%s: default: %v", at, err)
				}
			}
			if f.min != "" && f.max != "" && f.bound(f.min) > f.bound(f.max) {
				t.Errorf("%s: min above max", at)
			}
			if len(f.enum) > 0 && !f.hasDefault {
				t.Errorf("%s: the empty word is the default, and not allowed", at)
			}
			if !f.kind().scalar() && (f.hasDefault || f.min != "" || f.max != "") {
				t.Errorf("%s: a %s has neither default nor bounds", at, f.kind().noun())
			}
			if k := f.kind(); k != kindPercent && f.min == "" && f.max == "" && (k == kindInt || k == kindFloat) && len(f.enum) == 0 {
				t.Errorf("%s: a number without bounds", at)
			}
			_, _ = schemaValue(&f, f.typ), typeText(&f)
		}
	})
}

func TestKnobsAreUnique(t *testing.T) {
	flags := map[string]string{flagConfig: "", flagListen: "", flagUpstream: ""}
	envs := map[string]string{envConfig: "", envListen: "", envUpstream: ""}
	for _, k := range knobs() {
		if other, taken := flags[k.flag()]; taken {
			t.Errorf("--%s stands for %s and %s", k.flag(), other, k.path)
		}
		if other, taken := envs[k.env()]; taken {
			t.Errorf("%s stands for %s and %s", k.env(), other, k.path)
		}
		if fromKubernetes(k.env(), "") {
			t.Errorf("%s looks like a variable that Kubernetes makes", k.env())
		}
		flags[k.flag()], envs[k.env()] = k.path, k.path
	}
}

func TestRedactedLoads(t *testing.T) {
	for _, text := range []string{string(Example()), minimal, `
upstreams:
  "a/b.c:1": "http://a:1"
  n: { targets: ["http://a:1"], hash: { header: X }, balance: hash, tls: { ca: x, server_name: y } }
admin: { address: "" }
routes:
  - name: odd
    match: { headers: { X-A: "~^[a-z]+$", X-B: "*", X-C: "" }, query: { "a b": "- x", "#": "# no comment" } }
    respond:
      type: "text/html; charset=utf-8"
      body: "line\n\n  indented: {x}\ttab \"quoted\" 'single' \\ $${HOME} é \u2028 end \n"
  - { name: yes, match: /yes, upstream: n, max_body: 0, response_timeout: 90s, path_form: raw, upgrade: false,
      response: { headers: { set: { X-1: "007", X-2: "null", X-3: "1e3", X-4: "true", X-5: "~", X-6: "a: b", X-7: "2001-01-01", X-8: "0x1F" } } } }
`} {
		cfg := mustParse(t, text, nil)
		shown := Redacted(cfg)
		again, err := Parse("again", shown, nil)
		if err != nil {
			t.Errorf("%v\nin\n%s", err, shown)
			continue
		}
		cfg.origin, again.origin = nil, nil
		if got, want := fmt.Sprintf("%+v", plainValue(again)), fmt.Sprintf("%+v", plainValue(cfg)); got != want {
			t.Errorf("got\n%s\nwant\n%s\nthrough\n%s", got, want, shown)
		}
	}
}

// plainValue prints like the config but through JSON, which follows pointers.
func plainValue(cfg *Config) string {
	text, err := json.Marshal(cfg)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func TestRedactedHides(t *testing.T) {
	secret := writeFile(t, "secret", "fileword")
	src := sources(t, []string{"PW=hunter2!", "B=random", "T=http://hunter2!:1", "M=5"}, "--server-max-requests", "4")
	cfg := mustParse(t, `
defaults: { balance: "${B}", connections: { max: "${M}" } }
server: { max_requests: "${M}", max_connections: "${M}" }
upstreams:
  short: "${T}"
  list: { targets: ["http://10.9.9.9:1", { url: "${T}", weight: 2 }], tls: { cert: c, key: keyword }, balance: hash }
routes:
  - name: r
    upstream: short
    request:
      headers:
        add: { cookie: "a=literal1", X-Api-Key: literal2, X-My-Token: literal3, X-Keyed: shown4 }
        set: { Authorization: "Bearer ${PW}", X-F: "${file:`+secret+`}", X-D: "${NONE:-fallback}" }
  - name: away
    match: /away
    redirect: "https://user:word@host/{path}/@x"
  - name: fixed
    match: /fixed
    respond: { body: x, headers: { Set-Cookie: "a=literal5", Client-SECRET: literal6 } }
`, src)
	shown := string(Redacted(cfg))
	for _, secret := range []string{"hunter2", "fileword", "keyword", "fallback", "word@", "literal", ": random", " 5\n"} {
		if strings.Contains(shown, secret) {
			t.Errorf("%q is shown:\n%s", secret, shown)
		}
	}
	for _, want := range []string{
		"Authorization: \"Bearer ${PW}\"", "short: ${T}", "- url: ${T}", "X-D: ${NONE}", "max_requests: 4", "to: \"https://***@host/{path}/@x\"", "key: \"***\"", "balance: ${B}", "balance: hash",
		"cookie: \"***\"", "X-Api-Key: \"***\"", "X-Keyed: shown4", "Set-Cookie: \"***\"",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not shown:\n%s", want, shown)
		}
	}
	if cfg.Upstreams["short"].Balance != "random" || cfg.Upstreams["list"].Connections.Max != 5 {
		t.Errorf("the defaults did not arrive: %+v", cfg.Upstreams)
	}
}

func FuzzRedactedText(f *testing.F) {
	for _, s := range []string{"", " ", "a: b", "- x", "'", "\"", "\\", "# x", "x #y", "null", "0x1F", "1_000", "é\u2028\u0085", "a\nb\n", "\n", "|", "${", "$${", "&a", "*a", "!t", "%", "@", "`", "---", "...", "? x", "[", "{}", "\t", "a\tb", "1e3", ".inf", "<<", "~", "y", "=", "x: ", ":", "-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if _, column := invalidByte([]byte(body)); column != 0 || strings.ContainsAny(body, "\r") {
			t.Skip()
		}
		cfg := mustParse(t, minimal, nil)
		cfg.Routes[0].Upstream, cfg.Routes[0].Respond = "", &Respond{Status: 200, Body: body}
		shown := Redacted(cfg)
		again, err := Parse("again", shown, nil)
		if err != nil {
			t.Fatalf("%q: %v\n%s", body, err, shown)
		}
		want := urlCredentials.ReplaceAllString(body, "://***@")
		if got := again.Routes[0].Respond.Body; got != want {
			t.Fatalf("%q comes back as %q\n%s", body, got, shown)
		}
	})
}

// schemaCheck is a JSON Schema validator for the keywords that Schema uses.
type schemaCheck struct{ root map[string]any }

func (c schemaCheck) check(schema map[string]any, value any) error {
	for keyword := range schema {
		switch keyword {
		case "$schema", "$defs", "$ref", "title", "description", "default", "writeOnly", "type", "enum", "pattern",
			"minimum", "maximum", "items", "properties", "additionalProperties", "anyOf":
		default:
			return fmt.Errorf("unknown keyword %s", keyword)
		}
	}
	if ref, ok := schema["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/$defs/")
		return c.check(c.root["$defs"].(map[string]any)[name].(map[string]any), value)
	}
	if choices, ok := schema["anyOf"].([]any); ok {
		var errs []string
		for _, s := range choices {
			err := c.check(s.(map[string]any), value)
			if err == nil {
				return nil
			}
			errs = append(errs, err.Error())
		}
		return fmt.Errorf("none of: %s", strings.Join(errs, "; "))
	}
	if types, ok := schema["type"]; ok && !typeFits(types, value) {
		return fmt.Errorf("%v is no %v", value, types)
	}
	if enum, ok := schema["enum"].([]any); ok {
		found := false
		for _, e := range enum {
			found = found || reflect.DeepEqual(e, value)
		}
		if !found {
			return fmt.Errorf("%v is none of %v", value, enum)
		}
	}
	switch v := value.(type) {
	case string:
		if p, ok := schema["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			return fmt.Errorf("%q does not match %s", v, p)
		}
	case float64:
		if m, ok := schema["minimum"].(float64); ok && v < m {
			return fmt.Errorf("%v is below %v", v, m)
		}
		if m, ok := schema["maximum"].(float64); ok && v > m {
			return fmt.Errorf("%v is above %v", v, m)
		}
	case []any:
		for i, item := range v {
			if err := c.check(schema["items"].(map[string]any), item); err != nil {
				return fmt.Errorf("[%d]: %w", i, err)
			}
		}
	case map[string]any:
		properties, _ := schema["properties"].(map[string]any)
		for key, item := range v {
			sub, ok := properties[key].(map[string]any)
			if !ok {
				sub, ok = schema["additionalProperties"].(map[string]any)
			}
			if !ok {
				return fmt.Errorf("unknown key %s", key)
			}
			if err := c.check(sub, item); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	return nil
}

func typeFits(types, value any) bool {
	list, ok := types.([]any)
	if !ok {
		list = []any{types}
	}
	for _, t := range list {
		switch v := value.(type) {
		case string:
			ok = t == "string"
		case bool:
			ok = t == "boolean"
		case float64:
			ok = t == "number" || t == "integer" && v == float64(int64(v))
		case []any:
			ok = t == "array"
		case map[string]any:
			ok = t == "object"
		default:
			ok = false
		}
		if ok {
			return true
		}
	}
	return false
}

func TestSchema(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	check := func(text string) error {
		t.Helper()
		asJSON, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var value any
		if err := json.Unmarshal(asJSON, &value); err != nil {
			t.Fatal(err)
		}
		return schemaCheck{root}.check(root, value)
	}
	for _, text := range []string{
		string(Example()), minimal,
		string(Redacted(mustParse(t, string(Example()), nil))),
		`{server: {max_requests: "${N}", max_body: 0, idle_timeout: "${T:-5s}"}, listen: [":1"], shutdown: {delay: 0}}`,
		`{listen: [{address: ":1", tls: {min_version: 1.2}}], upstreams: {a: "http://a"}}`,
		`{routes: [{redirect: {status: 301}, mirror: {share: 0.5}, match: {host: a}}]}`,
	} {
		if err := check(text); err != nil {
			t.Errorf("%v\nin\n%s", err, text)
		}
	}
	for _, text := range []string{
		`{lisen: []}`, `{listen: {}}`, `{server: {max_requests: -1}}`, `{server: {max_body: x}}`, `{server: {idle_timeout: 5}}`,
		`{server: {max_header: 5}}`, `{log: {level: loud}}`, `{admin: {pprof: 1}}`, `{upstreams: {a: {blance: x}}}`,
		`{routes: [{redirect: {status: 200}}]}`, `{routes: [{mirror: {share: 2}}]}`, `{listen: [{tls: {min_version: 1.1}}]}`,
	} {
		if check(text) == nil {
			t.Errorf("the schema allows %s", text)
		}
	}
	walk(reflect.TypeFor[Config](), "", func(path string, block reflect.Type) {
		if s := schemaBlock(block); s["additionalProperties"] != false {
			t.Errorf("%s allows unknown keys", path)
		}
	})
}
