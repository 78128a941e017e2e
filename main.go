// Sluice is an API gateway for the network edge. This file is its table of
// contents: the sub-commands, and for the main one the order in which the
// parts are put together, told to reload, and brought to an end.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"sluice/admin"
	"sluice/auth"
	"sluice/config"
	"sluice/examples"
	"sluice/fault"
	"sluice/gateway"
	"sluice/listen"
	"sluice/observe"
	"sluice/setting"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitOK    = 0
	exitFail  = 1 // something could not be had while running or starting
	exitUsage = 2 // the command line or the configuration is wrong
)

const usage = `Sluice is an API gateway for the network edge.

Usage:
  sluice [-c FILE] [flags]                 serve
  sluice --upstream URL [flags]            serve, forwarding everything to URL
  sluice check -c FILE                     say what is wrong with a configuration
  sluice explain -c FILE METHOD URL [HEADER...]
                                           say what would become of a request
  sluice schema                            print the JSON Schema of the configuration
  sluice key COMMAND                       make and list API keys, hash passwords; sluice key --help
  sluice demo                              serve an example with backends of its own
  sluice version

Every key of the configuration is a flag and a variable SLUICE_*; sluice --help
lists them, docs/configuration.md explains them.
`

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, in io.Reader, out, errs io.Writer) int {
	command := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	if command == "key" {
		return key(args, in, out, errs)
	}
	src := &config.Sources{Environ: os.Environ()}
	flags := pflag.NewFlagSet("sluice", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() { fmt.Fprint(out, usage, "\nFlags:\n", flags.FlagUsages()) }
	src.Register(flags)
	askedVersion := flags.Bool("version", false, "Print the version and end.")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return exitOK
		}
		fmt.Fprintln(errs, "sluice:", config.ExplainFlag(flags, err))
		return exitUsage
	}
	operands := flags.Args()
	if most := map[string]int{"explain": 1 << 10}[command]; len(operands) > most {
		fmt.Fprintf(errs, "sluice: expected no further arguments, got %q; sluice --help\n", operands[0])
		return exitUsage
	}
	if *askedVersion {
		command = "version"
	}
	switch command {
	case "":
		return serve(src, errs)
	case "demo":
		return demo(src, out, errs)
	case "check":
		return check(src, out, errs)
	case "explain":
		return explain(src, operands, out, errs)
	case "schema":
		_, _ = out.Write(config.Schema())
	case "version":
		b := observe.ReadBuild(version)
		fmt.Fprintf(out, "sluice %s (%s, %s)\n", b.Version, b.Revision, b.Go)
	case "help":
		flags.Usage()
	default:
		fmt.Fprintf(errs, "sluice: expected one of %s or flags, got %q%s; sluice --help\n", strings.Join(commands, ", "), command, near(command))
		return exitUsage
	}
	return exitOK
}

var commands = []string{"check", "demo", "explain", "key", "schema", "version"}

// near is a question whether another command was meant.
func near(command string) string {
	if meant := setting.Nearest(command, commands); meant != "" {
		return "; did you mean " + meant + "?"
	}
	return ""
}

// compile loads and prepares a configuration without putting it in use.
func compile(src *config.Sources) (*gateway.Gateway, *gateway.Generation, error) {
	cfg, err := config.Load(src)
	if err != nil {
		return nil, nil, err
	}
	if err := listen.Check(cfg.Listen); err != nil {
		return nil, nil, located(cfg, err)
	}
	cfg.Log.Access.Enabled = false
	g := gateway.New(observe.NewMetrics(observe.Build{}, fault.Names()), zerolog.Nop())
	next, err := g.Prepare(cfg)
	if err != nil {
		g.Close()
		return nil, nil, err
	}
	return g, next, nil
}

func check(src *config.Sources, out, errs io.Writer) int {
	g, next, err := compile(src)
	if err != nil {
		fmt.Fprintln(errs, err)
		return exitFail
	}
	fmt.Fprintf(out, "ok: %d listeners, %d upstreams, %d routes\n", len(next.Config.Listen), len(next.Config.Upstreams), len(next.Config.Routes))
	g.Discard(next)
	g.Close()
	return exitOK
}

func explain(src *config.Sources, operands []string, out, errs io.Writer) int {
	if len(operands) < 2 {
		fmt.Fprintln(errs, "sluice: expected sluice explain -c FILE METHOD URL [HEADER...]")
		return exitUsage
	}
	g, next, err := compile(src)
	if err != nil {
		fmt.Fprintln(errs, err)
		return exitFail
	}
	defer g.Close()
	defer g.Discard(next)
	text, err := g.Explain(next, operands[0], operands[1], operands[2:])
	if err != nil {
		fmt.Fprintln(errs, "sluice:", err)
		return exitUsage
	}
	fmt.Fprint(out, text)
	return exitOK
}

// key has words and flags of its own, none of the configuration's.
func key(args []string, in io.Reader, out, errs io.Writer) int {
	err := auth.KeyCommand(args, in, out, errs)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(errs, "sluice:", strings.ReplaceAll(err.Error(), "\n", "\nsluice: "))
	var misused *auth.UsageError
	if errors.As(err, &misused) {
		return exitUsage
	}
	return exitFail
}

func demo(src *config.Sources, out, errs io.Writer) int {
	d, err := examples.StartDemo()
	if err != nil {
		fmt.Fprintln(errs, "sluice:", err)
		return exitFail
	}
	defer d.Close()
	src.File = d.ConfigFile
	src.Environ = append(src.Environ, d.Environ...)
	fmt.Fprint(out, d.Help)
	return serve(src, errs)
}

// serve is the life of the process.
func serve(src *config.Sources, errs io.Writer) int {
	// A reader of our output that goes away must not end the gateway.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)

	cfg, err := config.Load(src)
	if err != nil {
		fmt.Fprintln(errs, err)
		return exitUsage
	}
	log, logOut, err := observe.OpenLog(cfg.Log)
	if err != nil {
		fmt.Fprintln(errs, "sluice:", err)
		return exitFail
	}
	defer logOut.Close()
	p := newProcess(src, log)
	if err := p.start(cfg); err != nil {
		fmt.Fprintln(errs, "sluice:", err)
		p.gateway.Close()
		return exitFail
	}
	defer p.files.Close()
	log.Info().Str("version", p.build.Version).Strs("listen", p.addresses()).Str("admin", p.adminAddress()).
		Int("routes", len(cfg.Routes)).Msg("serving")
	go p.reloads()
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGHUP {
				return p.end(signals)
			}
			if err := logOut.Reopen(); err != nil {
				log.Error().Err(err).Msg("log not reopened")
			}
			within(patience, func() {
				if err := p.gateway.ReopenLogs(); err != nil {
					log.Error().Err(err).Msg("access log not reopened")
				}
			})
			p.ask("SIGHUP")
		case <-p.files.Changed:
			p.ask("file changed")
		case err := <-p.adminFailed:
			log.Error().Err(err).Msg("admin door failed")
		}
	}
}

// process is the parts of a running gateway.
type process struct {
	src         *config.Sources
	log         zerolog.Logger
	build       observe.Build
	metrics     *observe.Metrics
	gateway     *gateway.Gateway
	doors       *listen.Doors
	admin       *admin.Server
	adminFailed chan error
	files       *gateway.FileWatch
	shutdown    atomic.Pointer[config.Shutdown]
	asked       chan string   // why the next reload is to be
	reloading   chan struct{} // holds a token while nobody reloads
	ending      chan struct{}
}

func newProcess(src *config.Sources, log zerolog.Logger) *process {
	p := &process{src: src, log: log, build: observe.ReadBuild(version), adminFailed: make(chan error, 1),
		asked: make(chan string, 1), reloading: make(chan struct{}, 1), ending: make(chan struct{})}
	p.reloading <- struct{}{}
	p.files = gateway.WatchFiles(log)
	p.metrics = observe.NewMetrics(p.build, fault.Names())
	p.gateway = gateway.New(p.metrics, log)
	p.doors = listen.New(listen.Options{HTTP1: p.gateway.Engine, Log: log})
	p.metrics.Collect(p.doors.Collect)
	return p
}

func (p *process) start(cfg *config.Config) error {
	next, err := p.gateway.Prepare(cfg)
	if err != nil {
		return err
	}
	if cfg.Admin.Address != "" {
		p.admin = admin.New(admin.Options{
			Address: cfg.Admin.Address, Build: p.build, Log: p.log, Pprof: cfg.Admin.Pprof,
			Ready:   p.ready,
			Metrics: p.metrics.Gatherer(),
			Config:  func() ([]byte, error) { return config.Redacted(p.gateway.Current().Config), nil },
			Routes:  p.gateway.Routes, Upstreams: p.gateway.Upstreams, Callers: p.gateway.Authenticators,
			Cache: p.gateway.Cache, Purge: p.gateway.Purge,
			Reload: func() error { return p.reload("admin") },
		})
		if err := p.admin.Listen(); err != nil {
			p.gateway.Discard(next)
			return err
		}
	}
	// The snapshot is in use before the first connection can come.
	p.gateway.Commit(next)
	p.shutdown.Store(&cfg.Shutdown)
	if err := p.doors.Apply(cfg.Listen, cfg.Server); err != nil {
		return located(cfg, err)
	}
	p.watch(cfg)
	if p.admin != nil {
		go func() { p.adminFailed <- p.admin.Serve() }()
	}
	return nil
}

// watch follows the files of the configuration in use.
func (p *process) watch(cfg *config.Config) {
	if cfg.Reload.Watch {
		p.files.Set(cfg.Files())
	} else {
		p.files.Set(nil)
	}
}

// located puts before each line of err, which begins with a key, where in the
// configuration that key was written.
func located(cfg *config.Config, err error) error {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		key, _, ok := strings.Cut(line, ": ")
		if where := cfg.Locate(key); ok && where != "" {
			lines[i] = where + ": " + line
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}

func (p *process) addresses() (list []string) {
	for _, a := range p.doors.Addrs() {
		list = append(list, a.String())
	}
	return list
}

// adminAddress is where the private door is, with the port the system chose.
func (p *process) adminAddress() string {
	if p.admin == nil {
		return ""
	}
	return p.admin.Addr().String()
}

func (p *process) ready() error {
	select {
	case <-p.ending:
		return errors.New("shutting down")
	default:
		return nil
	}
}

// ask has the configuration reloaded soon and does not wait for it, so that no
// reload that hangs keeps signals waiting. A reload that is yet to begin serves
// all who ask.
func (p *process) ask(why string) {
	select {
	case p.asked <- why:
	default:
	}
}

// reloads does what was asked for until the end.
func (p *process) reloads() {
	for {
		select {
		case why := <-p.asked:
			_ = p.reload(why)
		case <-p.ending:
			return
		}
	}
}

// reload reads the configuration again and puts it in use, all or nothing.
func (p *process) reload(why string) error {
	select {
	case <-p.reloading:
	case <-p.ending:
		return p.ready()
	}
	defer func() { p.reloading <- struct{}{} }()
	now := p.gateway.Current()
	refuse := func(err error) error {
		p.metrics.ConfigRefused()
		p.log.Error().Str("why", why).Str("mistakes", err.Error()).Msg("configuration refused, the one in use stays")
		return err
	}
	cfg, err := config.Load(p.src)
	if err != nil {
		return refuse(err)
	}
	next, err := p.gateway.Prepare(cfg)
	if err != nil {
		return refuse(err)
	}
	if err := p.ready(); err != nil { // the end has begun meanwhile
		p.gateway.Discard(next)
		return err
	}
	if err := p.doors.Apply(cfg.Listen, cfg.Server); err != nil {
		p.gateway.Discard(next)
		return refuse(located(cfg, err))
	}
	p.gateway.Commit(next)
	p.shutdown.Store(&cfg.Shutdown)
	p.watch(cfg)
	if cfg.Admin != now.Config.Admin || cfg.Log.Level != now.Config.Log.Level || cfg.Log.Output != now.Config.Log.Output {
		p.log.Warn().Msg("admin.*, log.level and log.output change at the next start only")
	}
	p.log.Info().Str("why", why).Uint64("generation", next.Number).Str("hash", cfg.Hash()).Msg("configuration in use")
	return nil
}

// end drains: readiness goes red, doors close, what is in flight gets its time.
// A second signal cuts it short.
func (p *process) end(signals <-chan os.Signal) int {
	s := p.shutdown.Load()
	close(p.ending)
	p.log.Info().Stringer("delay", s.Delay).Stringer("grace", s.Grace).Msg("draining")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		for {
			select {
			case s := <-signals:
				// A log rotation that falls into the drain cuts nothing.
				if s != syscall.SIGHUP {
					cancel()
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	select {
	case <-time.After(s.Delay.Std()):
	case <-ctx.Done():
	}
	within(patience, p.doors.Close)
	grace, stop := context.WithTimeout(ctx, s.Grace.Std())
	defer stop()
	cut := p.drain(grace)
	if p.admin != nil {
		shut, done := context.WithTimeout(context.Background(), time.Second)
		_ = p.admin.Shutdown(shut)
		done()
	}
	within(saving, p.gateway.SaveCache)
	within(patience, p.gateway.Close)
	p.log.Info().Int("cut", cut).Msg("stopped")
	return exitOK
}

// patience is how long signals and the end wait for what a reload that hangs
// may hold.
const patience = 2 * time.Second

// saving is how long writing the stored answers to disk may take.
const saving = 30 * time.Second

// within calls f and returns when f does, or after d.
func within(d time.Duration, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
	}
}

// drain ends the engine's work, and does so again for a connection that was
// accepted last and was then still on its way to the engine.
func (p *process) drain(grace context.Context) (cut int) {
	for {
		cut += p.gateway.Engine.Drain(grace)
		look, done := context.WithTimeout(grace, 20*time.Millisecond)
		err := p.doors.Wait(look)
		done()
		if err == nil || grace.Err() != nil {
			return cut
		}
	}
}
