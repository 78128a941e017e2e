package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long a process gets between SIGTERM and SIGKILL.
const stopGrace = 5 * time.Second

// clockTick is the unit of times in /proc/PID/stat. USER_HZ is 100 on every
// Linux port that Go has.
const clockTick = 10 * time.Millisecond

// process is a started program in a process group of its own.
type process struct {
	name   string
	pid    int
	exited chan struct{} // closed when the leader was reaped
	err    error         // why it ended; read after exited
}

// start runs argv in dir on the given cores. Output goes to out. The caller
// must call stop.
func start(cores []int, dir string, out *os.File, env []string, argv ...string) (*process, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), env...)
	// The group lets stop reach workers; the death signal covers our own crash.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := onCores(cores, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	p := &process{name: filepath.Base(argv[0]), pid: cmd.Process.Pid, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// stop ends the whole group and waits for the leader.
func (p *process) stop() {
	_ = syscall.Kill(-p.pid, syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopGrace):
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.exited
}

// alive reports an error when the process has ended.
func (p *process) alive() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended early: %w", p.name, errors.Join(p.err, errors.New("see its log")))
	default:
		return nil
	}
}

// onCores calls f on a thread that is bound to cores; a child that f forks
// inherits the binding.
func onCores(cores []int, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read the CPU affinity: %w", err)
	}
	set := cpuSet(cores)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("bind to cores %v: %w", cores, err)
	}
	err := f()
	return errors.Join(err, unix.SchedSetaffinity(0, &before))
}

// pinSelf binds every thread of this process to cores, so that the harness
// never runs where the gateway is measured.
func pinSelf(cores []int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	set := cpuSet(cores)
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("bind to cores %v: %w", cores, err)
		}
	}
	return nil
}

func cpuSet(cores []int) unix.CPUSet {
	var set unix.CPUSet
	for _, c := range cores {
		set.Set(c)
	}
	return set
}

// allowedCores lists the cores that this process may use.
func allowedCores() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("read the CPU affinity: %w", err)
	}
	var cores []int
	for c := 0; c < 1024; c++ {
		if set.IsSet(c) {
			cores = append(cores, c)
		}
	}
	return cores, nil
}

// procStat is what /proc/PID/stat says of one process.
type procStat struct {
	parent int
	cpu    time.Duration // user and system, of it and its reaped children
}

// parseStat reads the text of /proc/PID/stat. The command name may hold
// spaces and parentheses, so fields are counted from its last parenthesis.
func parseStat(text string) (procStat, error) {
	i := strings.LastIndexByte(text, ')')
	f := strings.Fields(text[i+1:])
	if i < 0 || len(f) < 15 {
		return procStat{}, fmt.Errorf("expected the fields of /proc/PID/stat, got %q", text)
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return procStat{}, fmt.Errorf("expected a parent pid, got %q", f[1])
	}
	var ticks int64
	for _, s := range f[11:15] { // utime stime cutime cstime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return procStat{}, fmt.Errorf("expected clock ticks, got %q", s)
		}
		ticks += n
	}
	return procStat{parent: parent, cpu: time.Duration(ticks) * clockTick}, nil
}

// treeOf returns the pids in roots and all their living descendants, with
// their stats.
func treeOf(roots ...int) (map[int]procStat, error) {
	all := map[int]procStat{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // ended meanwhile
		}
		if s, err := parseStat(string(text)); err == nil {
			all[pid] = s
		}
	}
	tree := map[int]procStat{}
	for _, r := range roots {
		if s, ok := all[r]; ok {
			tree[r] = s
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, s := range all {
			_, in := tree[pid]
			if _, up := tree[s.parent]; up && !in {
				tree[pid], grown = s, true
			}
		}
	}
	return tree, nil
}

// cpuOf sums user and system time of the process trees of roots.
func cpuOf(roots ...int) (time.Duration, error) {
	tree, err := treeOf(roots...)
	var sum time.Duration
	for _, s := range tree {
		sum += s.cpu
	}
	return sum, err
}

// residentOf sums the resident bytes of the process trees of roots.
func residentOf(roots ...int) (int64, error) {
	tree, err := treeOf(roots...)
	if err != nil {
		return 0, err
	}
	var sum int64
	for pid := range tree {
		// statm lags by up to 64 pages a thread; smaps is exact.
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, fmt.Errorf("read the resident size: %w", err)
		}
		n, err := parseRSS(text)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// parseRSS reads the Rss line of smaps_rollup, in bytes.
func parseRSS(text []byte) (int64, error) {
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte("Rss:"))
		if !ok {
			continue
		}
		f := strings.Fields(string(rest))
		if len(f) != 2 || f[1] != "kB" {
			break
		}
		n, err := strconv.ParseInt(f[0], 10, 64)
		return n << 10, err
	}
	return 0, errors.New("expected a line such as \"Rss: 123 kB\" in smaps_rollup")
}

// coreTimes is one line of /proc/stat.
type coreTimes struct {
	process time.Duration // user, nice, system: what processes are charged
	steal   time.Duration // taken by the hypervisor
}

// parseCore finds the line of one core in the text of /proc/stat.
func parseCore(text string, core int) (coreTimes, error) {
	want := "cpu" + strconv.Itoa(core)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 9 || f[0] != want {
			continue
		}
		var v [8]time.Duration
		for i := range v {
			n, err := strconv.ParseInt(f[i+1], 10, 64)
			if err != nil {
				return coreTimes{}, fmt.Errorf("expected clock ticks in /proc/stat, got %q", f[i+1])
			}
			v[i] = time.Duration(n) * clockTick
		}
		return coreTimes{process: v[0] + v[1] + v[2], steal: v[7]}, nil
	}
	return coreTimes{}, fmt.Errorf("expected a line %q in /proc/stat", want)
}

func readCore(core int) (coreTimes, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return coreTimes{}, err
	}
	return parseCore(string(text), core)
}

// until calls ready until it returns nil, the process ends or ctx is done.
func until(ctx context.Context, p *process, ready func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		if dead := p.alive(); dead != nil {
			return dead
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}
