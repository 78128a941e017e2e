package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

//go:embed report.lua
var reportLua string

//go:embed policy.lua
var policyLua string

//go:embed upload.lua
var uploadLua string

// wrkResult is what report.lua prints. Times are microseconds.
type wrkResult struct {
	Requests int64 `json:"requests"` // complete answers of any status
	Micros   int64 `json:"micros"`
	Bytes    int64 `json:"bytes"`
	P50      int64 `json:"p50"`
	P99      int64 `json:"p99"`
	Connect  int64 `json:"connect"`
	Read     int64 `json:"read"`
	Write    int64 `json:"write"`
	Status   int64 `json:"status"` // answers of 400 and above
	Timeout  int64 `json:"timeout"`
}

// answered is the number of good answers.
func (r wrkResult) answered() int64 { return r.Requests - r.Status }

// failed is the number of bad answers and broken connections.
func (r wrkResult) failed() int64 {
	return r.Connect + r.Read + r.Write + r.Status + r.Timeout
}

// parseWrk finds the line of report.lua in wrk's output.
func parseWrk(out []byte) (wrkResult, error) {
	var r wrkResult
	_, rest, ok := bytes.Cut(out, []byte("RESULT "))
	if !ok {
		return r, fmt.Errorf("expected a RESULT line from wrk, got %q", out)
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("read wrk's result %q: %w", line, err)
	}
	if r.answered() <= 0 || r.Micros <= 0 {
		return r, fmt.Errorf("expected answers, got none: %s", line)
	}
	return r, nil
}

// wrk loads url with keep-alive connections for some seconds from the load
// cores.
func (h *harness) wrk(ctx context.Context, w workload, url string, seconds int) (wrkResult, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+15*time.Second)
	defer cancel()
	script := reportLua
	if w.upload {
		script = uploadLua + reportLua
	}
	if w.policy {
		script = "TOKENS = " + strconv.Quote(h.callers.lines) + "\n" + policyLua + reportLua
	}
	file := filepath.Join(h.dir, "wrk.lua")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return wrkResult{}, err
	}
	// wrk and the origin share the load cores, so wrk takes half of them.
	threads := max(1, len(h.loadCores)/2)
	cmd := exec.CommandContext(ctx, h.wrkPath,
		"-t", strconv.Itoa(threads), "-c", strconv.Itoa(max(threads, h.opt.connections)),
		"-d", strconv.Itoa(seconds)+"s", "--timeout", "10s", "-s", file, url)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := onCores(h.loadCores, cmd.Start); err != nil {
		return wrkResult{}, fmt.Errorf("start wrk: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return wrkResult{}, errors.Join(ctx.Err(), fmt.Errorf("wrk: %w: %s", err, out.Bytes()))
	}
	return parseWrk(out.Bytes())
}
