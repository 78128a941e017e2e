// Command soak takes the figures of a gateway that need minutes: memory while
// bodies larger than it go through, and requests that fail while the
// configuration is reloaded over and over. The tests in e2e do the same in
// short. It builds the gateway of this module, or takes the one that -binary
// names, runs it against backends in this process, checks every byte, and
// prints what it measured. The exit code is 1 when a bound does not hold.
//
//	go run ./loadtest/soak                     everything, about five minutes
//	go run ./loadtest/soak -only memory        64 x 256 MiB both ways, then 20 GiB
//	go run ./loadtest/soak -only reload -for 10m
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
	"strconv"
	"time"

	"sluice/e2e/rig"
	"sluice/setting"
)

// plan is what is asked for.
type plan struct {
	binary  string
	only    string
	clients int
	size    setting.Size
	stream  setting.Size
	bound   setting.Size
	total   time.Duration
	every   time.Duration
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errs io.Writer) int {
	p := plan{size: 256 << 20, stream: 20 << 30, bound: 200 << 20}
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.StringVar(&p.binary, "binary", "", "the gateway to measure; built when empty")
	flags.StringVar(&p.only, "only", "", "memory or reload; both when empty")
	flags.IntVar(&p.clients, "clients", 64, "how many clients download, and as many upload, at once")
	size := func(name string, to *setting.Size, doc string) {
		flags.Func(name, doc+" (default "+to.String()+")", func(text string) (err error) {
			*to, err = setting.ParseSize(text)
			return err
		})
	}
	size("size", &p.size, "bytes of each body")
	size("stream", &p.stream, "bytes of the one stream that follows")
	size("bound", &p.bound, "resident memory that the gateway may reach")
	flags.DurationVar(&p.total, "for", time.Minute, "how long reloads of each kind go on")
	flags.DurationVar(&p.every, "every", 200*time.Millisecond, "how often is reloaded")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 || p.only != "" && p.only != "memory" && p.only != "reload" {
		fmt.Fprintln(errs, "soak: expected flags, and of -only memory or reload; soak -help")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := p.run(ctx, out); err != nil {
		fmt.Fprintln(errs, "soak:", err)
		return 1
	}
	return 0
}

func (p plan) run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "sluice-soak-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if p.binary == "" {
		if p.binary, err = rig.Build(ctx, dir, false); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "%s, %d CPUs\n", runtime.Version(), runtime.NumCPU())
	var failed []error
	if p.only != "reload" {
		failed = append(failed, p.memory(ctx, out))
	}
	if p.only != "memory" {
		for _, how := range []string{rig.BySignal, rig.ByAdmin, rig.ByFile} {
			failed = append(failed, p.reload(ctx, out, filepath.Join(dir, strconv.Itoa(len(failed))), how))
		}
	}
	return errors.Join(failed...)
}

// idle is how long a body may stand still: far more than a busy machine needs.
const idle = time.Minute

// memory moves bodies that are larger than the gateway may become.
func (p plan) memory(ctx context.Context, out io.Writer) error {
	b, err := rig.StartBackend("soak")
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	g, err := rig.Start(ctx, rig.Command{Binary: p.binary, Args: []string{"--upstream", b.URL, "--listen", "127.0.0.1:0", "--admin-address", ""}})
	if err != nil {
		return err
	}
	defer end(g)
	report := func(what string, bytes int64, began time.Time) error {
		peak, now, err := g.Resident()
		if err != nil {
			return err
		}
		took := time.Since(began)
		fmt.Fprintf(out, "memory  %-44s %6.1f GiB in %5.1f s (%4.0f MiB/s)   peak %3d MiB, now %3d MiB\n", what,
			float64(bytes)/(1<<30), took.Seconds(), float64(bytes)/(1<<20)/took.Seconds(), peak>>20, now>>20)
		if peak > int64(p.bound) {
			return fmt.Errorf("%s: expected at most %s resident, got %d MiB", what, p.bound, peak>>20)
		}
		return nil
	}
	began := time.Now()
	if err := report("before", 0, began); err != nil {
		return err
	}
	if p.clients > 0 {
		t := rig.Transfer{Addr: g.Doors[0], Clients: p.clients, Bytes: int64(p.size), Idle: idle, Down: true, Up: true}
		if err := t.Run(ctx); err != nil {
			return err
		}
		what := fmt.Sprintf("%d clients down and %d up, %s each", p.clients, p.clients, p.size)
		if err := report(what, 2*int64(p.clients)*int64(p.size), began); err != nil {
			return err
		}
	}
	if p.stream > 0 {
		began = time.Now()
		t := rig.Transfer{Addr: g.Doors[0], Clients: 1, Bytes: int64(p.stream), Idle: idle, Down: true}
		if err := t.Run(ctx); err != nil {
			return err
		}
		return report("one client down", int64(p.stream), began)
	}
	return nil
}

// reload goes to and fro between two configurations under load.
func (p plan) reload(ctx context.Context, out io.Writer, dir, how string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var urls [2]string
	for i := range urls {
		b, err := rig.StartBackend(strconv.Itoa(i))
		if err != nil {
			return err
		}
		defer func() { _ = b.Close() }()
		urls[i] = b.URL
	}
	texts := rig.Generations(dir, urls[0], urls[1], how == rig.ByFile)
	file := filepath.Join(dir, "sluice.yaml")
	if err := rig.Replace(file, texts[0]); err != nil {
		return err
	}
	g, err := rig.Start(ctx, rig.Command{Binary: p.binary, Args: []string{"-c", file}})
	if err != nil {
		return err
	}
	defer end(g)
	load := rig.Load{Name: "soak", Dial: rig.Dialer("tcp", g.Doors[0]), Clients: 16, Reconnect: 4, Bodies: true}.Start(ctx)
	count, err := g.Alternate(ctx, how, file, [2]string{texts[1], texts[0]}, p.every, p.total)
	result := load.Stop()
	peak, now, memErr := g.Resident()
	fmt.Fprintf(out, "reload  %-12s %d reloads in %s, %d answers, %d failed   peak %3d MiB, now %3d MiB\n", how, count, p.total, result.Answers, result.Failed, peak>>20, now>>20)
	return errors.Join(err, result.Err(), memErr)
}

// end stops g; that it does so well is what the tests in e2e look at.
func end(g *rig.Gateway) {
	ctx, cancel := context.WithTimeout(context.Background(), idle)
	defer cancel()
	_ = g.Stop(ctx)
}
