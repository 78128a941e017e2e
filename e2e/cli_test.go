package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sluice/e2e/rig"
)

// outcome is what a command came to.
type outcome struct {
	code        int
	out, errors string
}

// command runs a command that ends by itself.
func command(t *testing.T, env []string, args ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	c := rig.Command{Binary: binary, Args: args, Env: env, Stdout: &out}.Exec()
	c.Stderr = &errs
	must(t, rig.Launch(c))
	late := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	defer late.Stop()
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	checkLog(t, errs.String())
	return outcome{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

// succeeds runs a command that must succeed without a word of complaint.
func succeeds(t *testing.T, args ...string) string {
	t.Helper()
	o := command(t, nil, args...)
	if o.code != 0 || o.errors != "" {
		t.Fatalf("sluice %s: expected success, got code %d: %s", strings.Join(args, " "), o.code, o.errors)
	}
	return o.out
}

func TestCommands(t *testing.T) {
	t.Parallel()
	config := written(t, "ok.yaml", `
listen: [":8080", "unix:/run/sluice.sock"]
upstreams: { a: "http://127.0.0.1:9000" }
routes: [{ name: all, upstream: a }]
`)
	f := func(want string, args ...string) {
		t.Helper()
		if out := succeeds(t, args...); !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("sluice %s: expected %q, got\n%s", strings.Join(args, " "), want, out)
		}
	}
	f(`^sluice \S+ \(.+, go1\.\d+.*\)\n$`, "version")
	f(`^sluice \S+ \(.+, go1\.\d+.*\)\n$`, "--version")
	f(`(?s)^Sluice is .*Usage:.*sluice check -c FILE.*Flags:.*--admin-address`, "help")
	f(`(?s)^Sluice is .*--upstream`, "--help")
	f(`(?s)^Sluice is .*--upstream`, "check", "--help")
	f(`^ok: 2 listeners, 1 upstreams, 1 routes\n$`, "check", "-c", config)
	f(`^ok: 1 listeners, 1 upstreams, 1 routes\n$`, "check", "--upstream", "http://127.0.0.1:9000")

	var schema map[string]any
	must(t, json.Unmarshal([]byte(succeeds(t, "schema")), &schema))
	if schema["$schema"] == nil || schema["properties"] == nil {
		t.Error("expected a JSON Schema with $schema and properties")
	}
}

// TestMistakes holds that whoever makes a mistake gets the right code and a few
// lines that say where and what, and nothing else.
func TestMistakes(t *testing.T) {
	t.Parallel()
	taken := given[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { _ = taken.Close() })
	inUse := taken.Addr().String()
	dir := t.TempDir()
	cert, key := newCertificate(t, "one")
	_, otherKey := newCertificate(t, "two")
	file := func(text string) string { return written(t, "sluice.yaml", text) }
	tls := func(cert, key string) string {
		return file(`listen: [{ address: "127.0.0.1:0", tls: { cert: ` + cert + `, key: ` + key + " } }]\n" +
			"upstreams: { a: \"http://127.0.0.1:1\" }\nroutes: [{ name: r, upstream: a }]\n")
	}
	const usage, fail = 2, 1
	serving := []string{"--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"}

	f := func(code int, args []string, env []string, want ...string) {
		t.Helper()
		o := command(t, env, args...)
		lines := strings.Split(strings.TrimSuffix(o.errors, "\n"), "\n")
		good := o.code == code && len(lines) == len(want) && o.out == ""
		for i := 0; good && i < len(want); i++ {
			good = regexp.MustCompile(want[i]).MatchString(lines[i])
		}
		if !good {
			t.Errorf("sluice %s: expected code %d and\n\t%s\ngot code %d and\n\t%s%s", strings.Join(args, " "), code,
				strings.Join(want, "\n\t"), o.code, strings.Join(lines, "\n\t"), o.out)
		}
	}
	words := strings.Fields

	f(usage, words("chek"), nil, `^sluice: expected one of check, .*got "chek"; did you mean check\?`)
	f(usage, words("xyzzy"), nil, `^sluice: expected one of check, .*got "xyzzy"; sluice --help$`)
	f(usage, words("--uptream http://127.0.0.1:1"), nil, `unknown flag: --uptream; did you mean --upstream\?$`)
	f(usage, words("-z"), nil, `unknown shorthand flag: 'z'`)
	f(usage, words("--config"), nil, `flag needs an argument: --config`)
	f(usage, words("check more"), nil, `^sluice: expected no further arguments, got "more"`)
	f(usage, words("explain GET"), nil, `^sluice: expected sluice explain -c FILE METHOD URL`)
	f(usage, words("--admin-address nowhere --upstream http://127.0.0.1:1"), nil, `^--admin-address: .*expected host:port.*"nowhere"`)
	f(usage, words("--shutdown-grace soon --upstream http://127.0.0.1:1"), nil, `^--shutdown-grace: expected a duration such as .*"soon"`)
	f(usage, serving, []string{"SLUICE_ADMN_ADDRESS=x"}, `^SLUICE_ADMN_ADDRESS: unknown variable; did you mean SLUICE_ADMIN_ADDRESS\?$`)
	f(usage, nil, nil, `^routes: expected at least one route, or --upstream URL$`)
	f(fail, words("check"), nil, `^routes: expected at least one route, or --upstream URL$`)

	f(usage, []string{"-c", dir + "/none.yaml"}, nil, `none\.yaml: expected a readable file: no such file or directory$`)
	f(fail, []string{"check", "-c", dir + "/none.yaml"}, nil, `none\.yaml: expected a readable file: no such file or directory$`)
	f(usage, []string{"-c", dir}, nil, `: expected a readable file: is a directory$`)
	f(usage, []string{"-c", file("a: [b\n")}, nil, `sluice\.yaml:1:4: `)
	f(usage, []string{"-c", file("\x00\xff\x01")}, nil, `sluice\.yaml:1:1: expected UTF-8 text`)
	broken := `listen: [":80800"]
servr: { max_body: 1KiB }
upstreams:
  b: { targets: ["ftp://x"], balance: rond_robin }
routes:
  - name: r
    match: { pth: /x }
    upstream: nope
`
	mistakes := []string{
		`sluice\.yaml:1:10: listen\[0\]\.address: expected a port .*":80800"`,
		`sluice\.yaml:2:1: servr: unknown key; did you mean "server"\?`,
		`sluice\.yaml:4:18: upstreams\.b\.targets\[0\]\.url: expected http://host:port.*"ftp://x"`,
		`sluice\.yaml:4:39: upstreams\.b\.balance: expected one of round_robin, .*"rond_robin"`,
		`sluice\.yaml:7:14: routes\[0\]\.match\.pth: unknown key; did you mean "path"\?`,
		`sluice\.yaml:8:15: routes\[0\]\.upstream: unknown upstream "nope"; expected one of b`,
	}
	f(fail, []string{"check", "-c", file(broken)}, nil, mistakes...)
	f(usage, []string{"-c", file(broken)}, nil, mistakes...)
	f(fail, []string{"explain", "-c", file(broken), "GET", "http://h/"}, nil, mistakes...)

	f(fail, []string{"--upstream", "http://127.0.0.1:1", "--listen", inUse, "--admin-address", ""}, nil,
		`^sluice: --listen: listen\[0\]\.address: cannot open "`+inUse+`": address already in use$`)
	f(fail, []string{"--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin-address", inUse}, nil,
		`^sluice: admin\.address: `+inUse+` is in use by another process`)
	f(fail, []string{"--upstream", "http://127.0.0.1:1", "--listen", "unix:" + dir + "/none/s", "--admin-address", ""}, nil,
		`^sluice: --listen: listen\[0\]\.address: cannot open .*no such file or directory$`)
	f(fail, append(serving, "--log-access-output", dir+"/none/log"), nil,
		`^sluice: --log-access-output: log\.access\.output: expected an output that can be written: .*no such file or directory$`)
	f(fail, append(serving, "--log-output", dir+"/none/log"), nil, `^sluice: log\.output: cannot open.*no such file or directory$`)
	for _, command := range [][]string{{"-c"}, {"check", "-c"}} {
		f(fail, append(command, tls(cert, otherKey)), nil, `sluice\.yaml:1:\d+: listen\[0\]\.tls\.key: .*private key does not match public key$`)
		f(fail, append(command, tls(key, key)), nil, `sluice\.yaml:1:\d+: listen\[0\]\.tls\.cert: .*no certificate in it \(PEM expected\)$`)
		f(fail, append(command, tls(cert, filepath.Join(dir, "none.key"))), nil, `sluice\.yaml:1:\d+: listen\[0\]\.tls\.key: .*no such file or directory$`)
	}
}

func TestUpstreamWithoutFile(t *testing.T) {
	t.Parallel()
	b := backend(t, "only")
	g := serve(t, "--upstream", b.URL, "--listen", "127.0.0.1:0", "--admin-address", "127.0.0.1:0")
	res, body := exchange(t, http.MethodGet, "http://"+g.Doors[0]+"/echo/hello")
	if res.StatusCode != http.StatusOK || body != "hello\n" || res.Header.Get("X-Backend") != "only" {
		t.Errorf("expected the backend's answer, got %d %q", res.StatusCode, body)
	}
}

func TestUnreachableUpstream(t *testing.T) {
	t.Parallel()
	nobody := given[string](t)(rig.FreeAddress())
	g := serve(t, "--upstream", "http://"+nobody, "--listen", "127.0.0.1:0", "--admin-address", "")
	if g.Admin != "" {
		t.Errorf("expected no private door, got %s", g.Admin)
	}
	res, body := exchange(t, http.MethodGet, "http://"+g.Doors[0]+"/")
	wantProblem(t, res.StatusCode, res.Header.Get("Content-Type"), body, http.StatusBadGateway, "connect-failed")
	if strings.Contains(body, nobody) {
		t.Errorf("the client is told where the upstream is: %s", body)
	}
}

// wantProblem checks an error of the gateway's own.
func wantProblem(t *testing.T, status int, contentType, body string, want int, kind string) {
	t.Helper()
	var problem struct {
		Type      string `json:"type"`
		Status    int    `json:"status"`
		RequestID string `json:"request_id"`
	}
	if status != want || contentType != "application/problem+json" {
		t.Errorf("expected %d and a problem, got %d and %s: %s", want, status, contentType, body)
		return
	}
	if err := json.Unmarshal([]byte(body), &problem); err != nil {
		t.Errorf("expected a problem, got %q: %v", body, err)
	}
	if problem.Type != "urn:sluice:problem:"+kind || problem.Status != want || problem.RequestID == "" {
		t.Errorf("expected the problem %s with status %d and an id, got %s", kind, want, body)
	}
}

// TestPrecedence shows by what a target sees which source won: the file, then
// the environment, then flags.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	b := backend(t, "b")
	config := written(t, "sluice.yaml", silent+`
server: { max_body: 7KiB }
upstreams: { a: "`+b.URL+`" }
routes: [{ name: all, upstream: a }]
`+"\n")
	f := func(want string, env []string, args ...string) {
		t.Helper()
		g := serveWith(t, rig.Command{Args: append([]string{"-c", config}, args...), Env: env})
		res, body := exchange(t, http.MethodGet, "http://"+g.Doors[0]+"/headers")
		if via := "1.1 " + want; res.Header.Get("Via") != via || !strings.Contains(body, via) {
			t.Errorf("env %v, flags %v: expected Via %q both ways, got %q and %s", env, args, via, res.Header.Get("Via"), body)
		}
	}
	f("sluice", nil)
	f("from-env", []string{"SLUICE_FORWARDED_PSEUDONYM=from-env"})
	f("from-flag", []string{"SLUICE_FORWARDED_PSEUDONYM=from-env"}, "--forwarded-pseudonym", "from-flag")
	f("from-env", []string{"SLUICE_FORWARDED_PSEUDONYM=from-env", "SLUICE_CONFIG=" + t.TempDir() + "/none"})
}
