package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"sluice/pool"
	"sluice/setting"
)

// sources makes Sources of an environment and a command line.
func sources(t *testing.T, environ []string, args ...string) *Sources {
	t.Helper()
	src := &Sources{Environ: environ}
	fs := pflag.NewFlagSet("sluice", pflag.ContinueOnError)
	src.Register(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return src
}

func mustParse(t *testing.T, text string, src *Sources) *Config {
	t.Helper()
	cfg, err := Parse("sluice.yaml", []byte(text), src)
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, text)
	}
	return cfg
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const minimal = `
upstreams: { a: "http://a:1" }
routes: [{ name: r, upstream: a }]
`

func TestExampleLoads(t *testing.T) {
	cfg := mustParse(t, string(Example()), nil)
	users := cfg.Upstreams["users"]
	if len(users.Targets) != 2 || users.Targets[1].Weight != 2 || users.Targets[0].Weight != 1 {
		t.Errorf("targets = %+v", users.Targets)
	}
	if got := cfg.Listen[1].TLS; got == nil || got.MinVersion != "1.2" {
		t.Errorf("tls = %+v, want it with its defaults", got)
	}
	if got := cfg.Routes[1].Mirror.Share; got != 0.01 {
		t.Errorf("share = %v", got)
	}
	if got := cfg.Routes[2].Redirect; got.To != "/orders/{rest}" || got.Status != 308 {
		t.Errorf("redirect = %+v", got)
	}
	if got := cfg.Routes[3].Respond.Body; got != "User-agent: *\nDisallow: /\n" {
		t.Errorf("body = %q", got)
	}
}

func TestNothingNeedsAFile(t *testing.T) {
	cfg, err := Load(sources(t, nil, "--upstream", "http://127.0.0.1:9000", "--upstream", "http://127.0.0.1:9001"))
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Listen) != 1 || cfg.Listen[0].Address != ":8080" {
		t.Errorf("listen = %+v, want :8080", cfg.Listen)
	}
	if got := cfg.Upstreams["default"]; len(got.Targets) != 2 || got.Connections.Max != 512 || got.Balance != "round_robin" {
		t.Errorf("upstream = %+v, want two targets and the defaults", got)
	}
	if len(cfg.Routes) != 1 || cfg.Routes[0].Match.Path != "/*" || cfg.Routes[0].Upstream != "default" || !cfg.Routes[0].Upgrade {
		t.Errorf("routes = %+v, want one that matches everything", cfg.Routes)
	}
	if got := cfg.Locate("routes[0].name"); got != "--upstream" {
		t.Errorf("the route comes from %q, want --upstream", got)
	}
}

func TestPrecedence(t *testing.T) {
	path := writeFile(t, "sluice.yaml", minimal+`
listen: [":1"]
server: { max_header: 2KiB, max_requests: 2, header_timeout: 2s }
admin: { pprof: true }
forwarded: { trusted: [10.0.0.0/8] }
`)
	environ := []string{
		"SLUICE_SERVER_MAX_REQUESTS=3", "SLUICE_SERVER_HEADER_TIMEOUT=3s", "SLUICE_LISTEN=:3, :33",
		"SLUICE_FORWARDED_TRUSTED=10.3.0.0/16,10.4.0.0/16", "SLUICE_DEFAULTS_CONNECTIONS_MAX=33",
	}
	src := sources(t, environ, "-c", path, "--server-header-timeout", "4s", "--admin-pprof=false")
	cfg, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what      string
		got, want any
		where     string
		path      string
	}{
		{"the file wins over the default", cfg.Server.MaxHeader, setting.Size(2 << 10), path + ":6:23", "server.max_header"},
		{"the variable wins over the file", cfg.Server.MaxRequests, 3, "SLUICE_SERVER_MAX_REQUESTS", "server.max_requests"},
		{"the flag wins over both", cfg.Server.HeaderTimeout.Std(), 4 * time.Second, "--server-header-timeout", "server.header_timeout"},
		{"a boolean flag", cfg.Admin.Pprof, false, "--admin-pprof", "admin.pprof"},
		{"a list in a variable", cfg.Forwarded.Trusted, []string{"10.3.0.0/16", "10.4.0.0/16"}, "SLUICE_FORWARDED_TRUSTED", "forwarded.trusted[1]"},
		{"listen in a variable", []string{cfg.Listen[0].Address, cfg.Listen[1].Address}, []string{":3", ":33"}, "SLUICE_LISTEN", "listen[1].address"},
		{"the default of upstreams", cfg.Upstreams["a"].Connections.Max, 33, path + ":2:17", "upstreams.a.connections.max"},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", c.what, c.got, c.want)
		}
		if got := cfg.Locate(c.path); got != c.where {
			t.Errorf("%s: %s is located at %s, want %s", c.what, c.path, got, c.where)
		}
	}

	// The same sources read a changed file again.
	if err := os.WriteFile(path, []byte(minimal+"server: { max_header: 8KiB }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	if again.Server.MaxHeader != 8<<10 || again.Server.HeaderTimeout.Std() != 4*time.Second {
		t.Errorf("after the reload server = %+v", again.Server)
	}
	if again.Hash() == cfg.Hash() {
		t.Error("the hash stays the same after a change")
	}

	src = sources(t, []string{"SLUICE_CONFIG=" + path, "SLUICE_LISTEN=:3"}, "--listen", ":4", "--upstream", "http://b:1")
	if cfg, err = Load(src); err != nil {
		t.Fatal(err)
	}
	if len(cfg.Listen) != 1 || cfg.Listen[0].Address != ":4" {
		t.Errorf("listen = %+v, want the flag's", cfg.Listen)
	}
	if len(cfg.Routes) != 1 || cfg.Routes[0].Name != "r" {
		t.Errorf("--upstream replaced the routes of the file: %+v", cfg.Routes)
	}
}

func TestUpstreamsStartFromDefaults(t *testing.T) {
	cfg := mustParse(t, `
upstreams:
  short: "http://a:1"
  long: { targets: ["http://a:1"], connections: { idle: 7s }, balance: random }
defaults:
  connections: { max: 3, idle: 5s }
  timeouts: { connect: 9s }
  balance: hash
  resolve: 11s
  fail_timeout: 0
routes: [{ name: r, upstream: short }]
`, nil)
	short, long := cfg.Upstreams["short"], cfg.Upstreams["long"]
	if short.Connections.Max != 3 || short.Timeouts.Connect.Std() != 9*time.Second || short.Balance != "hash" || short.FailTimeout != 0 {
		t.Errorf("short = %+v", short)
	}
	if long.Connections.Max != 3 || long.Connections.Idle.Std() != 7*time.Second || long.Balance != "random" || long.Resolve.Std() != 11*time.Second {
		t.Errorf("long = %+v", long)
	}
}

// The defaults that a reader sees under "defaults" and under an upstream are
// declared twice and must agree.
func TestDefaultsAgree(t *testing.T) {
	upstream := fieldsOf(reflect.TypeFor[pool.Config]())
	for _, f := range fieldsOf(reflect.TypeFor[Defaults]()) {
		u := fieldByKey(upstream, f.key)
		if u == nil {
			t.Errorf("defaults.%s is no key of an upstream", f.key)
			continue
		}
		if u.def != f.def || u.min != f.min || u.max != f.max || !reflect.DeepEqual(u.enum, f.enum) || u.typ != f.typ {
			t.Errorf("defaults.%s differs from an upstream's own", f.key)
		}
	}
}

func TestYAML(t *testing.T) {
	f := func(text string, check func(c *Config) bool) {
		t.Helper()
		if cfg := mustParse(t, text, nil); !check(cfg) {
			t.Errorf("wrong values from\n%s\ngot\n%s", text, Redacted(cfg))
		}
	}
	f("\ufeff"+minimal, func(c *Config) bool { return len(c.Routes) == 1 })
	f(strings.ReplaceAll(minimal, "\n", "\r\n"), func(c *Config) bool { return len(c.Routes) == 1 })
	f("%YAML 1.2\n---"+minimal+"---\n", func(c *Config) bool { return len(c.Routes) == 1 })
	f("{\n\t\"upstreams\": {\"a\": \"http://a:1\"},\n\t\"routes\": [{\"name\": \"r\", \"upstream\": \"a\"}]\n}\n",
		func(c *Config) bool { return c.Routes[0].Upstream == "a" })
	f(`
defaults: { timeouts: &t { connect: 2s } }
upstreams:
  a: &a { targets: ["http://a:1"], timeouts: *t, balance: random }
  b: { <<: *a, balance: hash }
  c:
    <<: [*a, { host: target, balance: peak_ewma }]
routes: [{ name: r, upstream: b }]
`, func(c *Config) bool {
		b, cc := c.Upstreams["b"], c.Upstreams["c"]
		return b.Balance == "hash" && b.Timeouts.Connect.Std() == 2*time.Second && cc.Balance == "random" && cc.Host == "target"
	})
	f(minimal+`
log: { level: "debug" }
forwarded: { pseudonym: 007, via: False }
`, func(c *Config) bool { return c.Forwarded.Pseudonym == "007" && !c.Forwarded.Via })
	f(`
upstreams: { 404: "http://a:1" }
routes:
  - name: true
    upstream: 404
    request: { headers: { set: { X-Debug: true, X-N: 1e3, X-JSON: '{"a": 1}', X-S: "{scheme}" } } }
  - name: fixed
    match: /fixed
    respond: |
      two
      lines
`, func(c *Config) bool {
		h := c.Routes[0].Request.Headers.Set
		return c.Routes[0].Name == "true" && h["X-Debug"] == "true" && h["X-N"] == "1e3" && c.Routes[1].Respond.Body == "two\nlines\n"
	})
	f(minimal+"server: {}\n", func(c *Config) bool { return c.Server.MaxHeader == 32<<10 })
	f(`
upstreams: { a: "http://a:1" }
routes: [{ name: r, upstream: a, max_body: 0, match: { host: [B.Example.COM, "*.x"] } }, { name: s, match: /s, upstream: a }]
`, func(c *Config) bool {
		return c.Routes[0].MaxBody != nil && *c.Routes[0].MaxBody == 0 && c.Routes[1].MaxBody == nil && c.Routes[0].Match.Host[0] == "b.example.com"
	})
}

func TestInterpolation(t *testing.T) {
	secret := writeFile(t, "secret", "from-file\r\n\n")
	environ := []string{"A=va", "EMPTY=", "SLUICE_TOKEN=tok", "N=7"}
	f := func(in, want string) {
		t.Helper()
		cfg := mustParse(t, `
upstreams: { a: { targets: ["http://a:1"], host: "${SLUICE_TOKEN}" } }
routes:
  - { name: r, upstream: a }
  - name: s
    match: /s
    respond: { body: '`+in+`' }
server: { max_requests: "${N}", max_header: "${N}KiB" }
`, &Sources{Environ: environ})
		if got := cfg.Routes[1].Respond.Body; got != want {
			t.Errorf("%s = %q, want %q", in, got, want)
		}
		if cfg.Server.MaxRequests != 7 || cfg.Server.MaxHeader != 7<<10 {
			t.Errorf("numbers from the environment: %+v", cfg.Server)
		}
	}
	f("${A}", "va")
	f("x ${A}${EMPTY}-${A} y", "x va-va y")
	f("${EMPTY:-d}${NONE:-e}${A:-f}", "deva")
	f("${NONE:-}", "")
	f("$${A} $$ $A $", "${A} $$ $A $")
	f("${file:"+secret+"}", "from-file")
	f("${SLUICE_TOKEN}", "tok")
}

func TestFiles(t *testing.T) {
	secret := writeFile(t, "secret", "x")
	path := writeFile(t, "sluice.yaml", minimal+"forwarded: { pseudonym: \"${file:"+secret+"}\" }\n")
	cfg, err := Load(&Sources{File: path})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Files(); !reflect.DeepEqual(got, []string{path, secret}) {
		t.Errorf("Files() = %q", got)
	}
}

func TestHash(t *testing.T) {
	hash := func(text string, environ ...string) string {
		return mustParse(t, text, &Sources{Environ: environ}).Hash()
	}
	base := hash(minimal)
	if got := hash("# a comment\nserver: { max_header: 32KiB }\n" + minimal); got != base {
		t.Error("a comment and a default written out change the hash")
	}
	if hash(minimal+"server: { max_header: 31KiB }\n") == base {
		t.Error("a changed value does not change the hash")
	}
	withSecret := minimal + "forwarded: { pseudonym: \"${P}\" }\n"
	if hash(withSecret, "P=one") == hash(withSecret, "P=two") {
		t.Error("a changed secret does not change the hash")
	}
}

func TestProblemsOfOthers(t *testing.T) {
	cfg := mustParse(t, minimal+"forwarded: { pseudonym: \"${P}\" }\n", &Sources{Environ: []string{"P=hunter2"}})
	if err := cfg.Err(cfg.Problems()); err != nil {
		t.Fatalf("no problems give the error %v", err)
	}
	p := cfg.Problems()
	p.At("routes[0]").Add("match", "conflicts with %q", "x")
	p.Add("forwarded.pseudonym", "expected something else, got %q", cfg.Forwarded.Pseudonym)
	p.Add("server", "says %s", cfg.Forwarded.Pseudonym)
	want := `sluice.yaml: server: says ***
sluice.yaml:3:10: routes[0].match: conflicts with "x"
sluice.yaml:4:25: forwarded.pseudonym: expected something else, got "***"`
	if err := cfg.Err(p); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if got := new(Config).Locate("routes"); got != "" {
		t.Errorf("a Config made by hand knows a position: %q", got)
	}
}

func TestFlags(t *testing.T) {
	fs := pflag.NewFlagSet("sluice", pflag.ContinueOnError)
	new(Sources).Register(fs)
	usage := fs.FlagUsages()
	for _, want := range []string{
		"-c, --config file", "--server-max-header size", "(default 32KiB)", "--log-level word", "--listen address",
	} {
		if !strings.Contains(usage, want) {
			t.Errorf("the usage lacks %q:\n%s", want, usage)
		}
	}
	err := ExplainFlag(fs, fs.Parse([]string{"--server-max-headr=1"}))
	if want := "unknown flag: --server-max-headr; did you mean --server-max-header?"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := ExplainFlag(fs, nil); err != nil {
		t.Error(err)
	}
}
