// Command faults runs gateways through outages and prints what clients and
// backends saw of them.
//
// For each scenario (scenario.go) and contender it starts backends that fail on
// demand, each a process of its own (package backend), and the gateway before
// them with its guards on (configs/), and sends requests at a constant rate in
// an open loop (package load). In the midst of it the outage strikes, and ends.
// A row of the table says what share of requests failed, how long they took
// from when they were due, and how much more the backends got than the clients
// sent. What is promised of Sluice is checked; a broken promise is exit code 1.
//
// Everything is on loopback, bounded in time and number, and every process that
// was started here is ended here.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sluice/bench/faults/backend"
)

func main() {
	backend.ServeIfChild()
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

// options are the flags, checked.
type options struct {
	rate, seconds, warmup int
	scenarios             []scenario
	contenders            []string
	sluice, results       string
}

func parseOptions(args []string) (options, error) {
	var o options
	var which, who string
	fs := flag.NewFlagSet("faults", flag.ContinueOnError)
	fs.IntVar(&o.rate, "rate", 500, "requests a second, 10 to 20000")
	fs.IntVar(&o.seconds, "seconds", 24, "seconds of load in a scenario, 2 to 600")
	fs.IntVar(&o.warmup, "warmup", 4, "seconds of load before, 1 to 60")
	fs.StringVar(&which, "scenarios", strings.Join(scenarioNames(), ","), "which outages")
	fs.StringVar(&who, "contenders", "sluice,haproxy,nginx", "who takes part")
	fs.StringVar(&o.sluice, "sluice", "", "binary of Sluice (default: built from the module in the current folder)")
	fs.StringVar(&o.results, "results", filepath.Join("bench", "results"), "folder for the table and the JSON file; empty for none")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("expected flags only, got %q", fs.Arg(0))
	}
	for _, b := range []struct {
		name      string
		v, lo, hi int
	}{{"rate", o.rate, 10, 20000}, {"seconds", o.seconds, 2, 600}, {"warmup", o.warmup, 1, 60}} {
		if b.v < b.lo || b.v > b.hi {
			return o, fmt.Errorf("-%s: expected a number from %d to %d, got %d", b.name, b.lo, b.hi, b.v)
		}
	}
	for name := range strings.SplitSeq(which, ",") {
		i := slices.Index(scenarioNames(), strings.TrimSpace(name))
		if i < 0 {
			return o, fmt.Errorf("-scenarios: expected some of %s, got %q", strings.Join(scenarioNames(), ","), name)
		}
		o.scenarios = append(o.scenarios, scenarios[i])
	}
	for name := range strings.SplitSeq(who, ",") {
		name = strings.TrimSpace(name)
		if !slices.ContainsFunc(contenders, func(c contender) bool { return c.name == name }) {
			return o, fmt.Errorf("-contenders: expected some of sluice,haproxy,nginx, got %q", name)
		}
		o.contenders = append(o.contenders, name)
	}
	return o, nil
}

func scenarioNames() (names []string) {
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

func run(args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "sluice-faults-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := &report{Started: time.Now(), Rate: o.rate, Warmup: float64(o.warmup), Length: float64(o.seconds)}
	who, err := o.prepare(ctx, dir, &r.Machine)
	if err != nil {
		return err
	}
	b := &bench{
		dir: dir, rate: o.rate, warmup: time.Duration(o.warmup) * time.Second, length: time.Duration(o.seconds) * time.Second,
		slack: slack{failed: 0.001, extra: 0.01},
	}
	err = b.runAll(ctx, o.scenarios, who, r)
	r.table(os.Stdout)
	if err != nil {
		return err
	}
	if o.results != "" {
		name, err := r.save(o.results)
		if err != nil {
			return fmt.Errorf("save the result: %w", err)
		}
		fmt.Println("\nwritten to", name)
	}
	if broken := r.broken(); len(broken) > 0 {
		return fmt.Errorf("promises broken:\n  %s", strings.Join(broken, "\n  "))
	}
	return nil
}

// runAll adds a row for every scenario and contender to r, up to the first
// that cannot be had.
func (b *bench) runAll(ctx context.Context, list []scenario, who []contender, r *report) error {
	for _, s := range list {
		for _, c := range who {
			fmt.Fprintf(os.Stderr, "%s: %s\n", s.name, c.name)
			one, err := b.run(ctx, s, c)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", s.name, c.name, err)
			}
			r.Rows = append(r.Rows, one)
		}
	}
	return nil
}

// prepare finds or builds the binaries of those who take part.
func (o *options) prepare(ctx context.Context, dir string, m *machine) (who []contender, err error) {
	*m = describeMachine(ctx)
	for _, c := range contenders {
		if !slices.Contains(o.contenders, c.name) {
			continue
		}
		var binary string
		switch {
		case c.name != subject:
			binary = lookUp(c.name)
		case o.sluice != "":
			binary, err = filepath.Abs(o.sluice)
		default:
			binary, err = build(ctx, dir)
		}
		if err != nil {
			return nil, err
		}
		if binary == "" {
			return nil, fmt.Errorf("%s is not installed; on Debian: sudo apt-get install %s", c.name, c.name)
		}
		version := "-v"
		if c.name == subject {
			version = "version"
		}
		m.Versions[c.name] = firstLine(ctx, binary, version)
		c.start = process(binary, c.argv)
		who = append(who, c)
	}
	return who, nil
}

func describeMachine(ctx context.Context) machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Versions: map[string]string{}, CPU: "unknown"}
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			m.CPU = strings.TrimSpace(v)
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	m.Commit = firstLine(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12")
	return m
}

// firstLine is the first line that a command prints.
func firstLine(ctx context.Context, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, name, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
