// Command caching takes the figures of the cache that need a real gateway under
// load. It builds the gateway of this module, or takes the one that -binary
// names, stands between it and a backend, and prints Markdown tables with a
// verdict beside each bound.
//
// stampede: many clients, connected before, ask at once for one key that is not
// stored; how often the backend is asked, and how long the slowest client waits.
//
// refused: the same for an answer that may not be stored; how long the slowest
// request is held up before it reaches the backend, at first and right after.
//
// latency: how long hits on one object take while the store is half full and
// quiet, and while it is full and new objects push out old ones all the time.
//
// purge: the same while many objects with one surrogate key are purged by it, by
// the beginning of their URLs, or not at all.
//
// The clients and the backend are this process and share the machine with the
// gateway, so ratios count: cases alternate, and medians of the rounds' ratios
// are told.
//
//	go run ./loadtest/caching -only stampede,refused
//	go run ./loadtest/caching -only latency,purge -seconds 5 -rounds 7
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"sluice/e2e/rig"
)

// cases are what can be measured, in the order in which that is done.
var cases = []string{"stampede", "refused", "latency", "purge"}

// plan is what is asked for.
type plan struct {
	binary  string
	only    []string
	seconds int
	rounds  int
	clients int           // of a stampede
	takes   time.Duration // one answer of the slow backend
	objects int           // to be purged
	profile string        // directory for CPU profiles, empty for none
	dir     string
	out     io.Writer
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errs io.Writer) int {
	p := plan{out: out}
	flags := flag.NewFlagSet("caching", flag.ContinueOnError)
	flags.SetOutput(errs)
	only := ""
	flags.StringVar(&p.binary, "binary", "", "the gateway to measure; built when empty")
	flags.StringVar(&only, "only", "", "some of "+strings.Join(cases, ",")+"; all when empty")
	flags.IntVar(&p.seconds, "seconds", 5, "how long each case of latency and purge is loaded in a round")
	flags.IntVar(&p.rounds, "rounds", 7, "how often each case is measured")
	flags.IntVar(&p.clients, "clients", 1000, "clients of a stampede")
	flags.DurationVar(&p.takes, "takes", 500*time.Millisecond, "how long the backend takes in a stampede")
	flags.IntVar(&p.objects, "objects", 100_000, "objects that are purged together")
	flags.StringVar(&p.profile, "profile", "", "directory for CPU profiles of the gateway, of refused and of each case of latency")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	p.only = cases
	if only != "" {
		p.only = strings.Split(only, ",")
	}
	for _, name := range p.only {
		if !slices.Contains(cases, name) {
			fmt.Fprintf(errs, "caching: -only %q: expected some of %s, parted by commas\n", name, strings.Join(cases, ", "))
			return 2
		}
	}
	if flags.NArg() > 0 || p.seconds < 1 || p.rounds < 1 || p.clients < 2 || p.clients > 10_000 || p.takes < 10*time.Millisecond || p.takes > 10*time.Second || p.objects < 1000 || p.objects > 1_000_000 {
		fmt.Fprintln(errs, "caching: expected flags, of -seconds and -rounds 1 or more, -clients 2 to 10000, -takes 10ms to 10s, -objects 1000 to 1000000; caching -help")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := p.run(ctx); err != nil {
		fmt.Fprintln(errs, "caching:", err)
		return 1
	}
	return 0
}

func (p plan) run(ctx context.Context) (err error) {
	if p.dir, err = os.MkdirTemp("", "sluice-caching-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(p.dir) }()
	if p.binary == "" {
		if p.binary, err = rig.Build(ctx, p.dir, false); err != nil {
			return err
		}
	}
	fmt.Fprintf(p.out, "%s, %d CPUs, %s\n", runtime.Version(), runtime.NumCPU(), time.Now().Format(time.DateOnly))
	measures := map[string]func(context.Context) ([]row, error){"stampede": p.stampede, "refused": p.refused, "latency": p.latency, "purge": p.purge}
	missed := 0
	for _, name := range cases {
		if !slices.Contains(p.only, name) {
			continue
		}
		rows, err := measures[name](ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprint(p.out, "\n| "+name+" | measured | bound | |\n|---|---|---|---|\n")
		for _, r := range rows {
			fmt.Fprintf(p.out, "| %s | %s | %s | %s |\n", r.what, r.got, r.bound, r.verdict)
			if r.verdict == fail {
				missed++
			}
		}
	}
	if missed > 0 {
		return fmt.Errorf("%d bounds are not met", missed)
	}
	return nil
}

// row is a line of a table.
type row struct {
	what, got, bound string
	verdict          verdict
	timed            bool // the verdict depends on the machine
}

type verdict string

const (
	pass verdict = "PASS"
	fail verdict = "FAIL"
	told verdict = "" // nothing is asked of it
)

func held(ok bool) verdict {
	if ok {
		return pass
	}
	return fail
}

// start runs a gateway whose cache has this size, before the backend.
func (p plan) start(ctx context.Context, b *backend, size string) (*rig.Gateway, error) {
	text := "listen: [\"127.0.0.1:0\"]\nadmin: { address: \"127.0.0.1:0\" }\nlog: { access: { enabled: false } }\n" +
		"cache: { size: " + size + " }\n" +
		// How long requests wait for each other is to be seen, not how long they wait
		// for a connection (max is 512 without this) or for a new one (max_idle is 256).
		fmt.Sprintf("upstreams: { app: { targets: [\"http://%s\"], connections: { max: %[2]d, max_idle: %[2]d } } }\n", b.addr, max(p.clients, 512)) +
		"routes:\n  - { name: plain, match: /plain/*, upstream: app }\n  - { name: pages, match: /*, upstream: app, cache: on }\n"
	file := filepath.Join(p.dir, "caching.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return rig.Start(ctx, rig.Command{Binary: p.binary, Args: []string{"-c", file}})
}

// patience bounds each wait for what is not measured.
const patience = 30 * time.Second

// median is that of values, which it sorts.
func median[T float64 | time.Duration](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

func ms(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
}
