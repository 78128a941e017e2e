// Command limits takes the figures of limits and credentials that need real
// processes and time. It builds the gateway of this module, or takes the one that
// -binary names, and prints Markdown tables.
//
// accuracy: clients ask for far more than the rate; what is admitted beside one
// burst is compared with rate x time: one gateway on one core and on two, and
// three gateways that share a budget on one redis-server, exact and fast.
//
// flood: what a request costs the gateway that brings a bad token, a good one
// that was never seen before, or a good one that is remembered; and how long the
// holders of remembered tokens wait while -flood bad tokens a second come in,
// from one address and from many.
//
//	go run ./loadtest/limits -only accuracy -seconds 30
//	go run ./loadtest/limits -only flood -seconds 10
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"time"

	"sluice/e2e/rig"
)

// plan is what is asked for.
type plan struct {
	binary  string
	only    string
	seconds int
	flood   int
	dir     string
	out     io.Writer
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errs io.Writer) int {
	p := plan{out: out}
	flags := flag.NewFlagSet("limits", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.StringVar(&p.binary, "binary", "", "the gateway to measure; built when empty")
	flags.StringVar(&p.only, "only", "", "accuracy or flood; both when empty")
	flags.IntVar(&p.seconds, "seconds", 30, "how long each case is loaded")
	flags.IntVar(&p.flood, "flood", 10000, "bad tokens a second")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 || p.seconds < 1 || p.only != "" && p.only != "accuracy" && p.only != "flood" {
		fmt.Fprintln(errs, "limits: expected flags, of -seconds 1 or more, of -only accuracy or flood; limits -help")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := p.run(ctx); err != nil {
		fmt.Fprintln(errs, "limits:", err)
		return 1
	}
	return 0
}

func (p plan) run(ctx context.Context) (err error) {
	if p.dir, err = os.MkdirTemp("", "sluice-limits-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(p.dir) }()
	if p.binary == "" {
		if p.binary, err = rig.Build(ctx, p.dir, false); err != nil {
			return err
		}
	}
	fmt.Fprintf(p.out, "%s, %d CPUs, %s\n", runtime.Version(), runtime.NumCPU(), time.Now().Format(time.DateOnly))
	if p.only != "flood" {
		err = p.accuracy(ctx)
	}
	if p.only != "accuracy" {
		err = errors.Join(err, p.floods(ctx))
	}
	return err
}
