package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine says where and with what a result was measured.
type machine struct {
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Kernel   string            `json:"kernel"`
	Memory   int64             `json:"memory_bytes"`
	Go       string            `json:"go"`
	Commit   string            `json:"commit"` // of the working tree; -dirty with changes on top
	Versions map[string]string `json:"versions"`
}

func describeMachine(ctx context.Context, h *harness, who []contender) machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Versions: map[string]string{}}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.CPU = field(string(text), "model name")
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	m.Commit = firstLine(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12")
	for _, c := range who {
		if c.version != nil {
			m.Versions[c.name] = firstLine(ctx, h.paths[c.name], c.version...)
		}
	}
	m.Versions["wrk"] = firstLine(ctx, h.wrkPath, "-v")
	m.Versions["origin"] = firstLine(ctx, h.paths["nginx"], "-v")
	return m
}

// field finds "key : value" as /proc writes it.
func field(text, key string) string {
	for line := range strings.Lines(text) {
		k, v, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// firstLine is the first line that a command prints, whatever it exits with
// (wrk -v exits with 1).
func firstLine(ctx context.Context, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, name, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if line == "" || strings.HasPrefix(line, "fatal:") {
		return "unknown"
	}
	return strings.Join(strings.Fields(line), " ")
}
