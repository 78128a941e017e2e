package transform

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"sluice/setting"
)

func TestValidateBody(t *testing.T) {
	for name, c := range map[string]struct {
		config BodyConfig
		want   []string
	}{
		"nothing":           {BodyConfig{}, nil},
		"defaults":          {BodyConfig{From: "auto", To: "same", Max: 1 << 20, Over: "refuse", Invalid: "refuse"}, nil},
		"shape":             {BodyConfig{ShapeConfig: shape{Drop: []string{"a["}}}, []string{"drop[0]: expected ]"}},
		"words":             {BodyConfig{From: "csv", To: "csv", Over: "x", Invalid: "y"}, []string{"from: expected one of auto", "to: expected one of same", "over: expected refuse or pass", "invalid: expected refuse or pass"}},
		"max":               {BodyConfig{Max: 257 << 20}, []string{"max: expected at most 256MiB"}},
		"template":          {BodyConfig{Template: `{"a": }`}, []string{"template: "}},
		"template of text":  {BodyConfig{Template: `{"a": }`, To: "text"}, []string{"template: "}},
		"template, text":    {BodyConfig{Template: `Dear {a}`, To: "text"}, nil},
		"template, no json": {BodyConfig{Template: `Dear {a}`}, []string{"template: "}},
		"template twice":    {BodyConfig{Template: `{"a":{a},"a":{b}}`}, []string{"template: at byte"}},
		"template names":    {BodyConfig{Template: `{"{a}":1,"{b}":2,"x":3}`}, nil},
		"static":            {BodyConfig{Static: `[1]`}, []string{"static: expected a JSON object, got"}},
		"static, bad":       {BodyConfig{Static: `{"a":1,"a":2}`}, []string{"static: expected a JSON object: at byte 7"}},
		"static, text":      {BodyConfig{Static: `{}`, Template: "x", To: "text"}, []string{"static: expected no template"}},
		"statuses":          {BodyConfig{Statuses: []int{200, 404, 204, 304, 206, 100, 600}}, []string{"statuses[2]", "statuses[3]", "statuses[4]", "statuses[5]", "statuses[6]"}},
		"many statuses":     {BodyConfig{Statuses: slices.Repeat([]int{200}, 65)}, []string{"statuses: expected at most 64"}},
		"types":             {BodyConfig{From: "json", Types: []string{"application/json", "a/*", "*+json", "a/*+json", "*/*", "json", "a/b;c=d", "*/json", "a/**", "*", "", "+json", "*json"}}, slices.Repeat([]string{"types["}, 8)},
		"types, auto":       {BodyConfig{Types: []string{"application/json", "application/octet-stream"}}, []string{"types[1]: expected from beside it"}},
		"many types":        {BodyConfig{Types: slices.Repeat([]string{"text/xml"}, 65)}, []string{"types: expected at most 64"}},
		"feed":              {BodyConfig{From: "rss"}, []string{"to: expected another format beside from: rss"}},
		"feed json":         {BodyConfig{From: "atom", To: "json"}, nil},
		"schema, pass":      {BodyConfig{Schema: "true", Over: "pass"}, []string{"schema: expected over: refuse"}},
		"schema, pass 2":    {BodyConfig{Schema: "a.json", Invalid: "pass"}, []string{"schema: expected over: refuse"}},
		"schema, bad":       {BodyConfig{Schema: `{"type":1}`}, []string{"schema: expected a JSON Schema"}},
		"soap unused":       {BodyConfig{SOAP: &SOAPConfig{}}, []string{"soap: expected from: soap or to: soap"}},
		"soap":              {BodyConfig{To: "soap", SOAP: &SOAPConfig{Version: "1.2", Action: "urn:a", Prefix: "env", Namespace: "urn:b", Header: `<env:x/><y xmlns="urn:y">1</y>`}}, nil},
		"soap words":        {BodyConfig{To: "soap", SOAP: &SOAPConfig{Version: "2", Action: "a\"b", Prefix: "1a", Namespace: "ü"}}, []string{"soap.version", "soap.prefix", "soap.action", "soap.namespace"}},
		"soap prefix":       {BodyConfig{To: "soap", SOAP: &SOAPConfig{Prefix: "xmlx"}}, []string{"soap.prefix"}},
		"soap line":         {BodyConfig{To: "soap", SOAP: &SOAPConfig{Action: "a\r\nX: y"}}, []string{"soap.action"}},
		"soap header":       {BodyConfig{To: "soap", SOAP: &SOAPConfig{Header: "<a>"}}, []string{"soap.header: expected XML"}},
		"soap header ns":    {BodyConfig{To: "soap", SOAP: &SOAPConfig{Header: "<w:a/>"}}, []string{"soap.header: expected XML: expected a namespace for the prefix w"}},
		"soap header out":   {BodyConfig{To: "soap", SOAP: &SOAPConfig{Header: "</h><h>"}}, []string{"soap.header: expected XML"}},
		"soap header dtd":   {BodyConfig{To: "soap", SOAP: &SOAPConfig{Header: "<!DOCTYPE a>"}}, []string{"soap.header: expected XML"}},
	} {
		testMistakes(t, name, testProblems(c.config.Validate), c.want)
		if _, err := NewBody(&c.config, false); (err == nil) != (len(c.want) == 0) {
			t.Errorf("%s: NewBody: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		config  BodyConfig
		request bool
	}{
		"schema":   {BodyConfig{Schema: "true"}, false},
		"statuses": {BodyConfig{Statuses: []int{200}}, true},
		"accept":   {BodyConfig{To: "accept"}, true},
	} {
		if _, err := NewBody(&c.config, c.request); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestValidatePairs(t *testing.T) {
	long := strings.Repeat("a", mostName+1)
	many := map[string]string{}
	for i := range mostEntries + 1 {
		many[strings.Repeat("a", i+1)] = "x"
	}
	for name, c := range map[string]struct {
		config QueryConfig
		want   []string
	}{
		"nothing":     {QueryConfig{}, nil},
		"all":         {QueryConfig{Keep: []string{"a", "b"}, Rename: map[string]string{"a": "c"}, Set: map[string]string{"b": "{host}"}, Add: map[string]string{"b": ""}}, nil},
		"names":       {QueryConfig{Keep: []string{"", long, "a", "a"}, Remove: []string{"\xff"}}, []string{"keep[0]", "keep[1]", "keep[3]: expected each name once", "remove[0]"}},
		"both":        {QueryConfig{Keep: []string{"a"}, Remove: []string{"a"}}, []string{"remove[0]: expected a name that is not in keep"}},
		"rename":      {QueryConfig{Keep: []string{"z"}, Remove: []string{"c"}, Rename: map[string]string{"a": "a", "b": "", "c": "d", "e": "f"}}, []string{"rename.a: expected another", "rename.b: expected the name", "rename.c: expected a name that is not in remove", "rename.e: expected a name that keep"}},
		"set":         {QueryConfig{Remove: []string{"a"}, Set: map[string]string{"a": "1"}}, []string{"set.a: expected a name that is not in remove"}},
		"many":        {QueryConfig{Keep: slices.Sorted(maps.Keys(many)), Set: many, Add: many}, []string{"keep: expected at most 64", "set: expected at most 64", "add: expected at most 64"}},
		"value":       {QueryConfig{Add: map[string]string{"a": strings.Repeat("x", mostValue+1)}}, []string{"add.a: expected a text of at most"}},
		"odd, but ok": {QueryConfig{Remove: []string{"a b", "é&="}}, nil},
	} {
		testMistakes(t, name, testProblems(c.config.Validate), c.want)
	}
	testMistakes(t, "cookies", testProblems((&CookieConfig{Keep: []string{"a b"}, Set: map[string]string{"é": ""}}).Validate), []string{"keep[0]: expected the name of a cookie", `set."é"`})
}

func TestValidateSetCookie(t *testing.T) {
	age := func(d setting.Duration) *setting.Duration { return &d }
	for name, c := range map[string]struct {
		config SetCookieConfig
		want   []string
	}{
		"nothing": {SetCookieConfig{}, nil},
		"all":     {SetCookieConfig{Only: []string{"a"}, Secure: "on", HTTPOnly: "off", SameSite: "none", Domain: ".example.com", Path: "/a", MaxAge: age(3_600_000_000_000)}, nil},
		"none":    {SetCookieConfig{Domain: "none", Path: "none"}, nil},
		"words":   {SetCookieConfig{Secure: "yes", HTTPOnly: "no", SameSite: "Lax"}, []string{"secure", "http_only", "same_site"}},
		"site":    {SetCookieConfig{SameSite: "none"}, []string{"same_site: expected secure: on"}},
		"places":  {SetCookieConfig{Domain: "a b", Path: "a", Only: []string{";"}}, []string{"only[0]", "domain", "path"}},
		"places2": {SetCookieConfig{Domain: "a.b:80", Path: "/;x"}, []string{"domain", "path"}},
		"age":     {SetCookieConfig{MaxAge: age(1_500_000_000)}, []string{"max_age: expected whole seconds"}},
	} {
		testMistakes(t, name, testProblems(c.config.Validate), c.want)
	}
}
