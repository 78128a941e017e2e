package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/bench/faults/backend"
	"sluice/bench/faults/load"
	"sluice/config"
	"sluice/fault"
	"sluice/gateway"
	"sluice/listen"
	"sluice/observe"
)

func TestMain(m *testing.M) {
	backend.ServeIfChild()
	os.Exit(m.Run())
}

// inProcess is the start of Sluice in this process.
func inProcess(s site) (running, error) {
	name := filepath.Join(s.Dir, "sluice.yaml")
	text, err := os.ReadFile(name)
	if err != nil {
		return running{}, err
	}
	cfg, err := config.Parse(name, text, &config.Sources{})
	if err != nil {
		return running{}, err
	}
	g := gateway.New(observe.NewMetrics(observe.Build{}, fault.Names()), zerolog.Nop())
	next, err := g.Prepare(cfg)
	if err != nil {
		g.Close()
		return running{}, err
	}
	g.Commit(next)
	doors := listen.New(listen.Options{HTTP1: g.Engine, Log: zerolog.Nop()})
	stop := func() error {
		doors.Close()
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		g.Engine.Drain(ctx)
		g.Close()
		return nil
	}
	if err := doors.Apply(cfg.Listen, cfg.Server); err != nil {
		_ = stop()
		return running{}, err
	}
	return running{pid: os.Getpid(), stop: stop}, nil
}

// Every outage in small: the machine may be busy with other tests, and single
// requests are a large share of a short load, so the bounds are wide.
func TestOutages(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of load")
	}
	b := &bench{
		dir: t.TempDir(), rate: 300, warmup: 1200 * time.Millisecond, length: 1800 * time.Millisecond,
		slack: slack{failed: 0.1, late: 500, extra: 0.1, inside: 50},
	}
	sluice := contender{name: subject, configs: contenders[0].configs, start: inProcess}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			r, err := b.run(t.Context(), s, sluice)
			if err != nil {
				t.Fatal(err)
			}
			o := &r.Outage
			t.Logf("failed %d of %d, stand-ins %d, p50 %v, p99 %v, longest %v ms, extra load %.1f %%, %v",
				o.Failed, o.Requests, o.Fallbacks, o.P50, o.P99, o.Max, 100*r.ExtraLoad, o.Outcomes)
			for _, b := range r.Bounds {
				if !b.Kept {
					t.Error(b)
				}
			}
			switch s.name {
			case "kill", "stuck", "dns", "slow", "errors", "mixed":
				if o.FailedShare > 0.1 {
					t.Errorf("expected at most 10 %% to fail, got %.1f %%", 100*o.FailedShare)
				}
			case "down":
				if r.During.Fallbacks == 0 || o.FailedShare > 0.1 {
					t.Errorf("expected the fixed answer to stand in, got %d stand-ins and %.1f %% failed", r.During.Fallbacks, 100*o.FailedShare)
				}
			case "queue":
				if r.During.Outcomes["503"] == 0 || r.During.Outcomes["200"] == 0 {
					t.Errorf("expected some to be served and some to be turned away, got %v", r.During.Outcomes)
				}
			case "storm":
				if o.FailedShare < 0.9 || r.ExtraLoad < 0.05 {
					t.Errorf("expected a storm, got %v and %.1f %% extra load", o.Outcomes, 100*r.ExtraLoad)
				}
			case "budget":
				if r.Inside.Answers < r.Outage.Requests || o.Outcomes[load.TimedOut.String()] > 0 {
					t.Errorf("expected every request answered and in the log, got %d lines, %v", r.Inside.Answers, o.Outcomes)
				}
			}
		})
	}
}

// The other contenders take their configurations and forward.
func TestPeers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of load")
	}
	for _, c := range contenders[1:] {
		binary := lookUp(c.name)
		if binary == "" {
			t.Logf("%s is not installed and left out", c.name)
			continue
		}
		for _, name := range []string{"down", "dns", "queue"} { // each takes another part of the templates
			s := scenarios[slices.Index(scenarioNames(), name)]
			t.Run(c.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				c.start = process(binary, c.argv)
				b := &bench{dir: t.TempDir(), rate: 100, warmup: 200 * time.Millisecond, length: time.Second}
				r, err := b.run(t.Context(), s, c)
				if err != nil {
					t.Fatal(err)
				}
				if s.tuning.Fallback && r.Outage.Fallbacks == 0 {
					t.Errorf("expected stand-ins, got %v", r.Outage.Outcomes)
				}
			})
		}
	}
}

func TestReport(t *testing.T) {
	r := &report{Started: time.Unix(0, 0).UTC(), Rate: 500, Warmup: 4, Length: 20, Rows: []*row{
		{Scenario: "hang", Title: "one hangs", Contender: "sluice", BackAfter: -1,
			Outage: load.Summary{Requests: 1000, Failed: 1, P50: 1_500_000, P99: 20_000_000, Max: 90_000_000},
			After:  load.Summary{Requests: 1}, ExtraLoad: 0.021,
			Bounds: []bound{atMost("failed share", 0.001, 0.001, true), atMost("extra load", 0.2, 0.2, false)}},
		{Scenario: "hang", Title: "one hangs", Contender: "nginx", BackAfter: 7_000_000,
			Outage: load.Summary{Requests: 1000}, After: load.Summary{Requests: 1}, ExtraLoad: -0.5},
	}}
	dir := t.TempDir()
	name, err := r.save(dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "1970-01-01-faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| one hangs | sluice | 0.10 % | 1.5 | 20.0 | 90.0 | +2.1 % | 0 | - | failed share 0.001 < 0.001 BROKEN; extra load 0.2 <= 0.2 |",
		"|  | nginx | 0 | 0.0 | 0.0 | 0.0 | -50.0 % | 0 | 7.0 ms |  |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("expected the line\n%s\nin\n%s", want, text)
		}
	}
	if broken := r.broken(); len(broken) != 1 || !strings.HasPrefix(broken[0], "hang, sluice: failed share") {
		t.Errorf("expected one broken promise, got %q", broken)
	}
	var back struct{ Rows []any }
	if text, err = os.ReadFile(name); err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || len(back.Rows) != 2 {
		t.Errorf("expected the JSON to hold both rows, got %v", err)
	}
}

func TestOptions(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		if _, err := parseOptions(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: expected an error with %q, got %v", args, want, err)
		}
	}
	f("flags only", "x")
	f("-rate: expected a number from 10", "-rate", "1")
	f("-seconds", "-seconds", "0")
	f("-scenarios: expected some of kill", "-scenarios", "fire")
	f("-contenders", "-contenders", "apache")
	o, err := parseOptions([]string{"-scenarios", "hang, storm", "-contenders", "nginx"})
	if err != nil || len(o.scenarios) != 2 || len(o.contenders) != 1 {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, err = parseOptions(nil); err != nil || len(o.scenarios) != len(scenarios) || len(o.contenders) != len(contenders) {
		t.Errorf("expected everything by default, got %+v, %v", o, err)
	}
}

func TestAccessLog(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(ms int, waited time.Duration) sample {
		return sample{start.Add(time.Duration(ms) * time.Millisecond), waited}
	}
	h := &hunger{samples: []sample{at(0, 0), at(240, 0), at(260, 15*time.Millisecond), at(280, 25*time.Millisecond), at(1000, 25*time.Millisecond), at(2000, 25*time.Millisecond)}}
	f := func(lines string, want inside) {
		t.Helper()
		name := filepath.Join(t.TempDir(), "access.log")
		if err := os.WriteFile(name, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readAccessLog(name, 250*time.Millisecond, h)
		if err != nil {
			t.Fatal(err)
		}
		if got.Answers != want.Answers || got.Late != want.Late || got.OwnLate != want.OwnLate || got.OwnMost != want.OwnMost {
			t.Errorf("expected %+v, got %+v", want, *got)
		}
	}
	f(`{"time":"2026-01-01T00:00:00.000Z","duration_us":260000}`, inside{Answers: 1})
	f(`{"time":"2026-01-01T00:00:00.000Z","duration_us":275000}`, inside{Answers: 1, Late: 1})
	f(`{"time":"2026-01-01T00:00:01.000Z","duration_us":275000}`, inside{Answers: 1, Late: 1, OwnLate: 1, OwnMost: 25_000_000})
	f(`{"time":"2026-01-01T00:00:01.000Z","duration_us":255000}`+"\n"+`{"time":"2026-01-01T00:00:01.000Z","duration_us":5}`,
		inside{Answers: 2, OwnMost: 5_000_000})
	for _, bad := range []string{"", "{}", "no"} {
		name := filepath.Join(t.TempDir(), "access.log")
		if err := os.WriteFile(name, []byte(bad+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readAccessLog(name, 0, h); err == nil {
			t.Errorf("%q: expected an error", bad)
		}
	}
}
