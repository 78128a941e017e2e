package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

func TestParseStat(t *testing.T) {
	f := func(text string, parent int, cpu time.Duration) {
		t.Helper()
		s, err := parseStat(text)
		if err != nil || s.parent != parent || s.cpu != cpu {
			t.Errorf("parseStat(%q) = %+v, %v; want parent %d, cpu %s", text, s, err, parent, cpu)
		}
	}
	f("7 (nginx) S 3 7 7 0 -1 4194560 1 0 0 0 10 20 3 4 20 0 1 0 5", 3, 370*time.Millisecond)
	f("7 (a) b (c) S 3 7 7 0 -1 4194560 1 0 0 0 1 0 0 0 20 0 1 0 5", 3, 10*time.Millisecond)

	for _, text := range []string{"", "7 (x) S 3", "no parenthesis", "7 (x) S q 7 7 0 -1 4194560 1 0 0 0 1 0 0 0", "7 (x) S 3 7 7 0 -1 4194560 1 0 0 0 1 z 0 0"} {
		if s, err := parseStat(text); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", text, s)
		}
	}
}

func TestParseCore(t *testing.T) {
	const text = "cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\ncpu1 10 0 5 9 9 9 9 2 0 0\nintr 5\n"
	got, err := parseCore(text, 1)
	if want := (coreTimes{150 * time.Millisecond, 20 * time.Millisecond}); err != nil || got != want {
		t.Errorf("core 1: %+v, %v, want %+v", got, err, want)
	}
	if _, err := parseCore(text, 2); err == nil {
		t.Error("core 2 is not there, want an error")
	}
}

func TestParseRSS(t *testing.T) {
	if n, err := parseRSS([]byte("00-ff ---p [rollup]\nRss:    12 kB\nPss: 3 kB\n")); err != nil || n != 12<<10 {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := parseRSS([]byte("Pss: 3 kB\n")); err == nil {
		t.Error("want an error without Rss")
	}
}

func TestParseWrk(t *testing.T) {
	r, err := parseWrk([]byte("Running 2s test\nRESULT {\"requests\":12,\"micros\":2000000,\"status\":2,\"timeout\":1,\"p99\":77}\n"))
	if err != nil || r.answered() != 10 || r.failed() != 3 || r.P99 != 77 {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, out := range []string{"", "RESULT {", "RESULT {\"requests\":0,\"micros\":5}\n", "RESULT {\"requests\":5,\"status\":5,\"micros\":5}\n"} {
		if _, err := parseWrk([]byte(out)); err == nil {
			t.Errorf("parseWrk(%q): want an error", out)
		}
	}
}

func TestMedian(t *testing.T) {
	f := func(want float64, v ...float64) {
		t.Helper()
		if got := median(v); got != want {
			t.Errorf("median(%v) = %v, want %v", v, got, want)
		}
	}
	f(0)
	f(3, 3)
	f(2, 3, 1, 2)
	f(2.5, 4, 1, 3, 2)
}

// The ratio is taken round by round: a slow round that hits both sides alike
// does not show in it, and a failed one is left out.
func TestSummariseByRound(t *testing.T) {
	r := report{Workload: "plain", Unit: "CPU us/request", Rounds: 3, Results: []result{
		{Name: "sluice", Samples: []sample{{Round: 0, CPUMicros: 10}, {Round: 1, CPUMicros: 40}, {Round: 2, CPUMicros: 10}}},
		{Name: "nginx", Samples: []sample{{Round: 0, CPUMicros: 20}, {Round: 1, CPUMicros: 80}, {Round: 2, Error: "lost"}}},
		{Name: "haproxy", Samples: []sample{{Round: 0, Error: "lost"}, {Round: 1, Error: "lost"}, {Round: 2, Error: "lost"}}},
	}}
	r.summarise()
	if c := r.Results[1]; c.Cost != 50 || c.OverSluice != 2 || c.SluiceOver != 0.5 {
		t.Errorf("nginx: %+v", c)
	}
	if c := r.Results[2]; c.Cost != 0 || c.OverSluice != 0 {
		t.Errorf("haproxy: %+v", c)
	}
	var b strings.Builder
	r.table(&b)
	for _, want := range []string{"| nginx | 50.0 | 20.0-80.0 | 2.00 | 0.50 |", "| haproxy | failed |", "- haproxy, round 1: lost"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("expected %q in\n%s", want, b.String())
		}
	}
	// Rows must have as many cells as their header.
	var cells []int
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "|") && !strings.Contains(line, "failed | |") {
			cells = append(cells, strings.Count(line, "|"))
		}
	}
	if len(slices.Compact(cells)) != 1 {
		t.Errorf("rows of different width:\n%s", b.String())
	}
}

func TestSaveNamesTheDay(t *testing.T) {
	r := report{Workload: "idle", Started: time.Date(2026, 11, 5, 23, 0, 0, 0, time.UTC)}
	dir := filepath.Join(t.TempDir(), "new")
	name, err := r.save(dir)
	if err != nil || name != filepath.Join(dir, "2026-11-05-idle.json") {
		t.Fatalf("got %q, %v", name, err)
	}
	text, err := os.ReadFile(name)
	var back report
	if err != nil || json.Unmarshal(text, &back) != nil || back.Workload != "idle" {
		t.Errorf("read back %+v, %v", back, err)
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-workload", "plain,idle", "-contenders", "sluice, nginx"})
	if err != nil || len(o.workloads) != 2 || !slices.Equal(o.contenders, []string{"sluice", "nginx"}) || o.rounds != 5 {
		t.Errorf("got %+v, %v", o, err)
	}
	f := func(want string, args ...string) {
		t.Helper()
		if _, err := parseOptions(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want it to say %q", args, err, want)
		}
	}
	f("1 to 100", "-rounds", "0")
	f("expected plain", "-workload", "fast")
	f("expected one of", "-contenders", "apache")
	f("flags only", "plain")
}

// Every config of every contender must come out whole, with and without a log.
func TestConfigs(t *testing.T) {
	for _, c := range contenders {
		for _, log := range []string{"", "access.log"} {
			t.Run(fmt.Sprintf("%s,log=%t", c.name, log != ""), func(t *testing.T) {
				s := site{Dir: t.TempDir(), Listen: "127.0.0.1:15001", Admin: "127.0.0.1:15002", Origin: "127.0.0.1:15003",
					Connections: 4096, Files: 8192, Root: os.Geteuid() == 0, Method: "GET", Path: "/1k"}
				if log != "" {
					s.Log = filepath.Join(s.Dir, log)
				}
				for _, name := range c.configs {
					if err := s.writeConfig(name); err != nil {
						t.Fatal(err)
					}
					file := filepath.Join(s.Dir, name)
					text, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					if strings.Contains(string(text), "<no value>") || !strings.Contains(string(text)+s.Dir, "1500") {
						t.Errorf("%s:\n%s", name, text)
					}
					if logged := strings.Contains(string(text), s.Dir+"/access.log"); log == "" && logged {
						t.Errorf("%s logs although it should not:\n%s", name, text)
					}
					var v any
					switch filepath.Ext(name) {
					case ".yaml":
						err = yaml.Unmarshal(text, &v)
					case ".json":
						err = json.Unmarshal(text, &v)
					}
					if err != nil {
						t.Errorf("%s: %v\n%s", name, err, text)
					}
				}
				for _, list := range append(c.beside, c.argv, c.env) {
					if _, err := s.fillAll(list); err != nil {
						t.Error(err)
					}
				}
				ownCheck(t, c, s.Dir)
			})
		}
	}
}

// ownCheck lets the program itself read its config where it is installed.
func ownCheck(t *testing.T, c contender, dir string) {
	args := map[string][]string{
		"nginx":   {"-t", "-e", dir + "/error.log", "-p", dir, "-c", dir + "/nginx.conf"},
		"haproxy": {"-c", "-f", dir + "/haproxy.cfg"},
		"caddy":   {"validate", "--adapter", "caddyfile", "--config", dir + "/Caddyfile"},
		"envoy":   {"--mode", "validate", "-c", dir + "/envoy.yaml"},
		"varnish": {"-j", "none", "-C", "-n", dir + "/varnish", "-f", dir + "/varnish.vcl"},
	}[c.name]
	path := ""
	if c.binary != "" {
		path = lookUp(c)
	}
	if args == nil || path == "" {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, path, args...).CombinedOutput(); err != nil {
		t.Errorf("%s does not accept its config: %v\n%s", c.name, err, out)
	}
}

func TestRelayCopiesBothWays(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(discard))
	defer origin.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = relay(l, origin.Listener.Addr().String())
	}()
	defer func() { _ = l.Close(); <-ended }()

	resp, err := http.Post("http://"+l.Addr().String()+"/", "", strings.NewReader(strings.Repeat("x", 100000)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "100000\n" {
		t.Errorf("got %q, %v", body, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestIdleConnections(t *testing.T) {
	kick := make(chan net.Conn, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			select {
			case kick <- c:
			default:
			}
		}
	}
	s.Start()
	defer s.Close()
	set, err := openIdle(t.Context(), s.Listener.Addr().String(), "/", 50)
	if err != nil {
		t.Fatal(err)
	}
	defer set.close()
	if dead, err := set.askAll(t.Context()); dead != 0 || err != nil {
		t.Errorf("all live: got %d dead, %v", dead, err)
	}
	_ = (<-kick).Close()
	if dead, err := set.askAll(t.Context()); dead != 1 || err != nil {
		t.Errorf("one was closed: got %d dead, %v", dead, err)
	}
	s.Config.SetKeepAlivesEnabled(false)
	if _, err := openIdle(t.Context(), s.Listener.Addr().String(), "/", 5); err == nil {
		t.Error("a server without keep-alive: want an error")
	}
}

// A program is measured and ended together with its children.
func TestProcessTree(t *testing.T) {
	dir := t.TempDir()
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cores, err := allowedCores()
	if err != nil {
		t.Fatal(err)
	}
	p, err := start(cores[:1], dir, out, []string{"PEER=yes"}, "sh", "-c", `sh -c 'echo $PEER; grep Cpus_allowed_list /proc/self/status; exec sleep 600' & wait`)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	want := fmt.Sprintf("yes\nCpus_allowed_list:\t%d\n", cores[0])
	err = until(ctx, p, func() error {
		text, err := os.ReadFile(out.Name())
		if err == nil && string(text) != want {
			err = fmt.Errorf("got %q, want %q", text, want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	tree, err := treeOf(p.pid)
	if err != nil || len(tree) != 2 {
		t.Errorf("expected the shell and its child, got %v, %v", tree, err)
	}
	if n, err := residentOf(p.pid); err != nil || n <= 0 {
		t.Errorf("resident: %d, %v", n, err)
	}
	p.stop()
	if p.alive() == nil {
		t.Error("still alive after stop")
	}
	if tree, _ := treeOf(p.pid); len(tree) != 0 {
		t.Errorf("left behind: %v", tree)
	}
}

func TestEachStopsAtTheFirstError(t *testing.T) {
	want := fmt.Errorf("third")
	err := each(t.Context(), 1000, func(i int) error {
		if i == 3 {
			return want
		}
		return nil
	})
	if err != want {
		t.Errorf("got %v, want %v", err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := each(ctx, 10, func(int) error { return nil }); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("7 (nginx) S 3 7 7 0 -1 4194560 1 0 0 0 10 20 3 4 20 0 1 0 5")
	f.Add(")")
	f.Fuzz(func(_ *testing.T, text string) { _, _ = parseStat(text) })
}

func FuzzParseWrk(f *testing.F) {
	f.Add([]byte("RESULT {\"requests\":12,\"micros\":2}\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		if r, err := parseWrk(out); err == nil && r.answered() <= 0 {
			t.Errorf("accepted %+v", r)
		}
	})
}
