package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"
)

//go:embed configs
var configFiles embed.FS

var configs = template.Must(template.ParseFS(configFiles, "configs/*.tmpl"))

// workload is one way of loading a contender.
type workload struct {
	name   string
	method string
	path   string
	bytes  int  // of body that one request moves, as the origin or wrk sends it
	upload bool // the body goes to the origin
	idle   bool // connections are counted, not requests
	cached bool // answered from the gateway's memory
	policy bool // callers carry tokens, and gateways do with them what they can
}

var workloads = []workload{
	{name: "plain", method: "GET", path: "/1k", bytes: plainBytes},
	{name: "body1m", method: "GET", path: "/1m", bytes: 1 << 20},
	{name: "upload1m", method: "POST", path: "/upload", bytes: 1 << 20, upload: true},
	{name: "policy", method: "GET", path: "/1k", bytes: plainBytes, policy: true},
	{name: "hit1k", method: "GET", path: "/1k", bytes: plainBytes, cached: true},
	{name: "hit64k", method: "GET", path: "/64k", bytes: 64 << 10, cached: true},
	{name: "idle", method: "GET", path: "/1k", bytes: plainBytes, idle: true},
}

const plainBytes = 1024

// contender is a gateway that can be measured.
type contender struct {
	name    string
	binary  string   // looked up on PATH; empty for what this program brings itself
	version []string // arguments that print the version
	configs []string // templates, written to the run's folder without .tmpl
	argv    []string // arguments, as templates over site
	env     []string
	beside  [][]string // more processes whose cost counts too, as templates
	stdout  bool       // the access log is its standard output
	only    string     // the only workload that it takes part in
	bare    bool       // forwards plainly, whatever the workload
	noLog   bool       // has no access log
}

// floor is the contender that is no gateway: a TCP relay in Go.
const floor = "floor"

var contenders = []contender{
	{name: floor, argv: []string{"relay", "-listen", "{{.Listen}}", "-to", "{{.Origin}}"}, only: "plain", noLog: true},
	{name: "sluice", version: []string{"version"}, configs: []string{"sluice.yaml"}, argv: []string{"-c", "{{.Dir}}/sluice.yaml"}},
	{name: "nginx", binary: "nginx", version: []string{"-v"}, configs: []string{"nginx.conf"},
		argv: []string{"-p", "{{.Dir}}", "-c", "{{.Dir}}/nginx.conf", "-e", "{{.Dir}}/error.log"}},
	{name: "haproxy", binary: "haproxy", version: []string{"-v"}, configs: []string{"haproxy.cfg"},
		argv: []string{"-db", "-f", "{{.Dir}}/haproxy.cfg"}, stdout: true},
	// What the whole chain costs is read beside plain forwarding of the same load.
	{name: "sluice-plain", configs: []string{"sluice.yaml"}, argv: []string{"-c", "{{.Dir}}/sluice.yaml"}, only: "policy", bare: true},
	{name: "haproxy-plain", binary: "haproxy", configs: []string{"haproxy.cfg"},
		argv: []string{"-db", "-f", "{{.Dir}}/haproxy.cfg"}, stdout: true, only: "policy", bare: true},
	{name: "caddy", binary: "caddy", version: []string{"version"}, configs: []string{"Caddyfile"},
		argv: []string{"run", "--adapter", "caddyfile", "--config", "{{.Dir}}/Caddyfile"},
		env:  []string{"XDG_DATA_HOME={{.Dir}}", "XDG_CONFIG_HOME={{.Dir}}"}},
	{name: "traefik", binary: "traefik", version: []string{"version"}, configs: []string{"traefik.yaml", "traefik-routes.yaml"},
		argv: []string{"--configFile={{.Dir}}/traefik.yaml"}},
	{name: "krakend", binary: "krakend", version: []string{"version"}, configs: []string{"krakend.json"},
		argv: []string{"run", "-c", "{{.Dir}}/krakend.json"}, env: []string{"USAGE_DISABLE=1"}, stdout: true},
	{name: "envoy", binary: "envoy", version: []string{"--version"}, configs: []string{"envoy.yaml"},
		argv: []string{"-c", "{{.Dir}}/envoy.yaml", "--concurrency", "1", "-l", "warning", "--disable-hot-restart"}},
	{name: "varnish", binary: "varnishd", version: []string{"-V"}, configs: []string{"varnish.vcl"},
		argv:   []string{"-F", "-j", "none", "-n", "{{.Dir}}/varnish", "-a", "{{.Listen}}", "-f", "{{.Dir}}/varnish.vcl", "-s", "malloc,64m", "-p", "timeout_idle=300"},
		beside: [][]string{{"varnishncsa", "-n", "{{.Dir}}/varnish", "-t", "10", "-w", "{{.Dir}}/access.log"}}},
}

// site is what the templates of one run may use.
type site struct {
	Dir         string // of this run, on tmpfs
	Listen      string // host:port that clients connect to
	Admin       string // host:port for metrics
	Origin      string // host:port of the origin
	Log         string // file of the access log; empty for none
	Connections int    // that must fit
	Files       uint64 // descriptors allowed
	Root        bool
	Upload      bool
	Method      string
	Path        string
	Body        string // the 1 KiB answer, for the origin
	Cached      bool   // keep answers and answer from memory
	Policy      bool   // check tokens, limit rates, tell the origin who it is
	JWKS, PEM   string // files with the callers' key
}

// The halves of the addresses, for configs that write them apart.

func (s site) ListenHost() string { return host(s.Listen) }
func (s site) ListenPort() string { return port(s.Listen) }
func (s site) AdminHost() string  { return host(s.Admin) }
func (s site) AdminPort() string  { return port(s.Admin) }
func (s site) OriginHost() string { return host(s.Origin) }
func (s site) OriginPort() string { return port(s.Origin) }

func host(addr string) string { h, _, _ := net.SplitHostPort(addr); return h }
func port(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }

// fill renders a short template such as an argument.
func (s site) fill(text string) (string, error) {
	t, err := template.New("argument").Parse(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, s)
	return b.String(), err
}

func (s site) fillAll(texts []string) ([]string, error) {
	out := make([]string, len(texts))
	for i, text := range texts {
		filled, err := s.fill(text)
		if err != nil {
			return nil, err
		}
		out[i] = filled
	}
	return out, nil
}

// writeConfig renders the embedded template name.tmpl to the run's folder.
func (s site) writeConfig(name string) error {
	f, err := os.OpenFile(filepath.Join(s.Dir, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(configs.ExecuteTemplate(f, name+".tmpl", s), f.Close())
}

// runner is a contender that is up.
type runner struct {
	site
	processes []*process
	output    *os.File
	logFile   string // where access-log lines are counted; empty for none
}

// launch starts c for w in a folder of its own and waits until it forwards.
func (h *harness) launch(ctx context.Context, c contender, w workload) (_ *runner, err error) {
	dir, err := os.MkdirTemp(h.dir, c.name+"-")
	if err != nil {
		return nil, err
	}
	r := &runner{site: h.site(dir, w)}
	r.Policy = r.Policy && !c.bare
	defer func() {
		if err != nil {
			tail := tailOf(filepath.Join(dir, "output.log"), filepath.Join(dir, "error.log"))
			r.stop()
			if tail != "" {
				err = fmt.Errorf("%w\n%s", err, tail)
			}
		}
	}()
	if r.Listen, err = freePort(); err != nil {
		return nil, err
	}
	if r.Admin, err = freePort(); err != nil {
		return nil, err
	}
	if !h.opt.accessLog || c.noLog {
		r.Log = ""
	}
	for _, name := range c.configs {
		if err := r.writeConfig(name); err != nil {
			return nil, fmt.Errorf("%s: write the config: %w", c.name, err)
		}
	}
	out := filepath.Join(dir, "output.log")
	if r.output, err = os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	if r.logFile = r.Log; c.stdout && r.Log != "" {
		r.logFile = out
	}
	env, err := r.fillAll(c.env)
	if err != nil {
		return nil, err
	}
	args, err := r.fillAll(c.argv)
	if err != nil {
		return nil, err
	}
	main, err := start([]int{h.opt.core}, dir, r.output, env, append([]string{h.paths[c.name]}, args...)...)
	if err != nil {
		return nil, err
	}
	r.processes = append(r.processes, main)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := until(ctx, main, func() error { return h.probe(ctx, r.Listen, w) }); err != nil {
		return nil, fmt.Errorf("%s does not forward: %w", c.name, err)
	}
	if r.Log == "" {
		return r, nil
	}
	for _, argv := range c.beside {
		filled, err := r.fillAll(argv)
		if err != nil {
			return nil, err
		}
		p, err := start([]int{h.opt.core}, dir, r.output, env, filled...)
		if err != nil {
			return nil, err
		}
		r.processes = append(r.processes, p)
	}
	return r, nil
}

// pids are the roots of the runner's process trees.
func (r *runner) pids() []int {
	var pids []int
	for _, p := range r.processes {
		pids = append(pids, p.pid)
	}
	return pids
}

// halt ends the processes; the files stay until stop.
func (r *runner) halt() {
	for _, p := range slices.Backward(r.processes) {
		p.stop()
	}
	r.processes = nil
}

// stop ends the processes and removes the folder.
func (r *runner) stop() {
	r.halt()
	if r.output != nil {
		_ = r.output.Close()
	}
	_ = os.RemoveAll(r.Dir)
}

// probe sends one request of w and checks that the whole answer comes back.
func (h *harness) probe(ctx context.Context, addr string, w workload) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var body io.Reader
	want := int64(w.bytes)
	if w.upload {
		body = strings.NewReader(strings.Repeat("x", w.bytes))
		want = -1
	}
	req, err := http.NewRequestWithContext(ctx, w.method, "http://"+addr+w.path, body)
	if err != nil {
		return err
	}
	if w.policy {
		req.Header.Set("Authorization", "Bearer "+h.callers.tokens[0])
	}
	t := http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || want >= 0 && n != want {
		return fmt.Errorf("expected 200 and %d bytes from %s, got %s and %d", want, w.path, resp.Status, n)
	}
	return nil
}

// freePort finds a loopback port below the range from which the kernel takes
// client ports, so that no connection of a load can grab it in between.
func freePort() (string, error) {
	const low, high = 15000, 32000
	for range 200 {
		addr := fmt.Sprintf("127.0.0.1:%d", low+rand.IntN(high-low))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		return addr, l.Close()
	}
	return "", fmt.Errorf("expected a free port from %d to %d on 127.0.0.1", low, high)
}

// lookUp finds the binary of c, or "".
func lookUp(c contender) string {
	path, err := exec.LookPath(c.binary)
	if err != nil {
		// Debian keeps servers where users have no PATH.
		path = "/usr/sbin/" + c.binary
		if _, err := os.Stat(path); err != nil {
			return ""
		}
	}
	return path
}

// tailOf returns the last lines of the given files, for error messages.
func tailOf(files ...string) string {
	var out []string
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		out = append(out, lines[max(0, len(lines)-5):]...)
	}
	return strings.TrimSpace(strings.Join(out, "\n"))
}
