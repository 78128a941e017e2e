// Command peers measures Sluice beside other gateways and prints ratios.
//
// Shared machines make absolute figures worthless, so everything is relative:
// the gateway under test runs alone on one core; wrk, an nginx origin and this
// program share the others. In each round every contender has its turn, freshly
// started and warmed up, in an order that rotates from round to round; what one
// costs is divided by what Sluice cost in the same round, and the median of
// these ratios is printed. Cost is user and system time of the contender's
// whole process tree (/proc/PID/stat) over the requests that wrk saw answered,
// or resident bytes for each idle connection. Interrupts that the kernel
// charges to nobody are in no contender's account.
//
// Everything listens on loopback, every step has a time limit, every child is
// ended by its own process group, also after ^C. Files live on tmpfs.
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
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "relay":
			return relayMain(args[1:])
		case "discard":
			return discardMain(args[1:])
		}
	}
	opt, err := parseOptions(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	h, who, err := prepare(ctx, opt)
	if err != nil {
		return err
	}
	defer h.close()
	if err := pinSelf(h.loadCores); err != nil {
		return err
	}
	if err := h.startOrigins(ctx); err != nil {
		return err
	}
	m := describeMachine(ctx, h, who)
	fmt.Printf("%s, %d cores, %s, commit %s\ngateway on core %d, load and origin on %v\n",
		m.CPU, m.Cores, m.Kernel, m.Commit, h.opt.core, h.loadCores)
	for _, w := range opt.workloads {
		r, err := h.rounds(ctx, w, who)
		if err != nil {
			return err
		}
		r.Machine = m
		r.summarise()
		r.table(os.Stdout)
		name, err := r.save(opt.results)
		if err != nil {
			return fmt.Errorf("save the result: %w", err)
		}
		fmt.Println("\nwritten to", name)
	}
	return nil
}

// rounds measures everyone in turn, each round starting one further.
func (h *harness) rounds(ctx context.Context, w workload, who []contender) (*report, error) {
	r := &report{
		Workload: w.name, Started: time.Now(), Rounds: h.opt.rounds, Seconds: h.opt.seconds, Warmup: h.opt.warmup,
		Connections: h.opt.connections, Unit: "CPU us/request", AccessLog: h.opt.accessLog,
	}
	if w.idle {
		r.Connections, r.Unit = h.opt.idle, "bytes/connection"
	}
	if r.moved() {
		r.Unit = "CPU us/MiB"
	}
	who = slices.DeleteFunc(slices.Clone(who), func(c contender) bool {
		return c.only != "" && c.only != w.name
	})
	if len(who) == 0 {
		return nil, fmt.Errorf("nobody left for %s: %s takes part in plain only", w.name, floor)
	}
	for _, c := range who {
		r.Results = append(r.Results, result{Name: c.name})
	}
	for round := range h.opt.rounds {
		for turn := range who {
			i := (round + turn) % len(who)
			fmt.Fprintf(os.Stderr, "%s: round %d of %d: %s\n", w.name, round+1, h.opt.rounds, who[i].name)
			s := h.measure(ctx, who[i], w)
			if err := ctx.Err(); err != nil {
				return nil, errors.New("interrupted")
			}
			s.Round, s.Order = round, turn
			r.Results[i].Samples = append(r.Results[i].Samples, s)
		}
	}
	return r, nil
}

// options are the flags, checked.
type options struct {
	rounds, seconds, warmup, connections, idle, core int
	workloads                                        []workload
	contenders                                       []string // nil: all that are there
	results, sluice                                  string
	install, accessLog                               bool
}

func parseOptions(args []string) (options, error) {
	var o options
	var names, who string
	fs := flag.NewFlagSet("peers", flag.ContinueOnError)
	fs.IntVar(&o.rounds, "rounds", 5, "rounds, 1 to 100")
	fs.IntVar(&o.seconds, "seconds", 4, "seconds that each contender is loaded for in a round, 1 to 600")
	fs.IntVar(&o.warmup, "warmup", 1, "seconds of load before each measurement, 1 to 600")
	fs.IntVar(&o.connections, "connections", 64, "keep-alive connections of wrk, 1 to 10000")
	fs.IntVar(&o.idle, "idle", 10000, "connections of the workload idle, 100 to 1000000")
	fs.IntVar(&o.core, "core", -1, "core of the gateway; the others carry the load (default: the first)")
	fs.StringVar(&names, "workload", "plain,policy,body1m,idle", "what to measure, of plain, policy, hit1k, hit64k, body1m, upload1m, idle")
	fs.StringVar(&who, "contenders", "", "who takes part, of "+strings.Join(contenderNames(), ", ")+" (default: all that are installed)")
	fs.StringVar(&o.results, "results", filepath.Join("bench", "results"), "folder for the JSON files")
	fs.StringVar(&o.sluice, "sluice", "", "binary of Sluice (default: built from the module in the current folder)")
	fs.BoolVar(&o.install, "install", true, "install missing nginx, haproxy and wrk with apt-get when root on Debian")
	fs.BoolVar(&o.accessLog, "access-log", true, "write an access log")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("expected flags only, got %q", fs.Arg(0))
	}
	for _, b := range []struct {
		name      string
		v, lo, hi int
	}{
		{"rounds", o.rounds, 1, 100}, {"seconds", o.seconds, 1, 600}, {"warmup", o.warmup, 1, 600},
		{"connections", o.connections, 1, 10000}, {"idle", o.idle, 100, 1000000},
	} {
		if b.v < b.lo || b.v > b.hi {
			return o, fmt.Errorf("-%s: expected a number from %d to %d, got %d", b.name, b.lo, b.hi, b.v)
		}
	}
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == strings.TrimSpace(name) })
		if i < 0 {
			return o, fmt.Errorf("-workload: expected plain, policy, hit1k, hit64k, body1m, upload1m or idle, got %q", name)
		}
		o.workloads = append(o.workloads, workloads[i])
	}
	if who != "" {
		for name := range strings.SplitSeq(who, ",") {
			name = strings.TrimSpace(name)
			if !slices.Contains(contenderNames(), name) {
				return o, fmt.Errorf("-contenders: expected one of %s, got %q", strings.Join(contenderNames(), ", "), name)
			}
			o.contenders = append(o.contenders, name)
		}
	}
	return o, nil
}

func contenderNames() []string {
	var names []string
	for _, c := range contenders {
		names = append(names, c.name)
	}
	return names
}

// prepare finds the binaries, builds Sluice, divides the cores and makes the
// folder for the runs.
func prepare(ctx context.Context, opt options) (_ *harness, who []contender, err error) {
	h := &harness{opt: opt, paths: map[string]string{}}
	if err := h.divideCores(); err != nil {
		return nil, nil, err
	}
	if h.files, err = raiseFiles(); err != nil {
		return nil, nil, err
	}
	if slices.ContainsFunc(opt.workloads, func(w workload) bool { return w.idle }) && uint64(opt.idle)+512 > h.files {
		return nil, nil, fmt.Errorf("-idle %d needs %d file descriptors, the hard limit is %d: raise it (ulimit -Hn) or pass a lower -idle", opt.idle, opt.idle+512, h.files)
	}
	if err := h.needTools(ctx); err != nil {
		return nil, nil, err
	}
	if h.dir, err = os.MkdirTemp(tmpfs(), "sluice-peers-"); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	for _, c := range contenders {
		asked := slices.Contains(opt.contenders, c.name)
		if opt.contenders != nil && !asked {
			continue
		}
		path, err := h.locate(ctx, c)
		if err != nil {
			return nil, nil, err
		}
		if path == "" && asked {
			return nil, nil, fmt.Errorf("%s is not on PATH", c.binary)
		}
		if path == "" {
			fmt.Fprintf(os.Stderr, "%s is not on PATH and left out\n", c.binary)
			continue
		}
		h.paths[c.name] = path
		who = append(who, c)
	}
	return h, who, nil
}

// locate finds or builds the binary of c; "" when it is not installed.
func (h *harness) locate(ctx context.Context, c contender) (string, error) {
	switch {
	case c.name == floor:
		return os.Executable()
	case strings.HasPrefix(c.name, "sluice") && h.opt.sluice != "":
		return filepath.Abs(h.opt.sluice)
	case strings.HasPrefix(c.name, "sluice"):
		if built := h.paths["sluice"]; built != "" {
			return built, nil
		}
		return h.build(ctx)
	}
	return lookUp(c), nil
}

// build compiles Sluice the way a release is.
func (h *harness) build(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	out := filepath.Join(h.dir, "sluice")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, "sluice")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sluice (pass -contenders nginx,haproxy to leave it out): %w\n%s", err, text)
	}
	return out, nil
}

// divideCores gives the gateway one core and everything else the others.
func (h *harness) divideCores() error {
	cores, err := allowedCores()
	if err != nil {
		return err
	}
	if len(cores) < 2 {
		return fmt.Errorf("expected at least two cores, one for the gateway and one for the load, got %v", cores)
	}
	if h.opt.core < 0 {
		h.opt.core = cores[0]
	}
	if !slices.Contains(cores, h.opt.core) {
		return fmt.Errorf("-core: expected one of %v, got %d", cores, h.opt.core)
	}
	h.loadCores = slices.DeleteFunc(cores, func(c int) bool { return c == h.opt.core })
	return nil
}

// raiseFiles lifts the soft limit of file descriptors to the hard one, for
// this process and its children.
func raiseFiles() (uint64, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read the limit of file descriptors: %w", err)
	}
	more := syscall.Rlimit{Cur: max(l.Max, 1<<18), Max: max(l.Max, 1<<18)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil {
		return more.Cur, nil // only the privileged may
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("raise the limit of file descriptors: %w", err)
	}
	return l.Cur, nil
}

// needTools finds wrk and nginx (the origin), and HAProxy when it is wanted,
// and installs what is missing where that is possible.
func (h *harness) needTools(ctx context.Context) error {
	want := []string{"nginx", "wrk"}
	if h.opt.contenders == nil || slices.Contains(h.opt.contenders, "haproxy") {
		want = append(want, "haproxy")
	}
	missing := func() (names []string) {
		for _, name := range want {
			if lookUp(contender{binary: name}) == "" {
				names = append(names, name)
			}
		}
		return names
	}
	if gone := missing(); len(gone) > 0 {
		hint := "apt-get install -y " + strings.Join(gone, " ")
		_, debian := os.Stat("/etc/debian_version")
		if !h.opt.install || os.Geteuid() != 0 || debian != nil {
			return fmt.Errorf("missing %s; on Debian: sudo %s", strings.Join(gone, ", "), hint)
		}
		fmt.Fprintln(os.Stderr, "installing:", hint)
		if err := install(ctx, gone); err != nil {
			return err
		}
		if gone := missing(); len(gone) > 0 {
			return fmt.Errorf("still missing after the installation: %s", strings.Join(gone, ", "))
		}
	}
	h.wrkPath = lookUp(contender{binary: "wrk"})
	h.paths["nginx"] = lookUp(contender{binary: "nginx"})
	return nil
}

func install(ctx context.Context, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"install", "-y", "--no-install-recommends"}, names...)...)
	// RUNLEVEL=1 keeps Debian from starting the services that it installs.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	if text, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		return fmt.Errorf("apt-get install %s: %w: %s", strings.Join(names, " "), err, lines[len(lines)-1])
	}
	return nil
}

// tmpfs is a folder in memory, where files cost no disk.
func tmpfs() string {
	const shm = "/dev/shm"
	if f, err := os.CreateTemp(shm, "sluice-peers-*"); err == nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return shm
	}
	return os.TempDir()
}
