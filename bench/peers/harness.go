package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// harness holds what all runs share: the origin, the paths and the cores.
type harness struct {
	opt       options
	dir       string // on tmpfs; removed at the end
	loadCores []int  // wrk, the origin and this program
	paths     map[string]string
	wrkPath   string
	files     uint64
	origin    string // host:port of nginx
	sink      string // host:port of the upload origin
	callers   *callers
	started   []*process
}

// site is the part of the template data that does not depend on a contender.
func (h *harness) site(dir string, w workload) site {
	s := site{
		Dir: dir, Origin: h.origin, Log: filepath.Join(dir, "access.log"),
		// nginx closes idle clients once a sixteenth of its connections is left.
		Connections: max(4096, h.opt.idle+h.opt.idle/4+256), Files: h.files,
		Root: os.Geteuid() == 0, Upload: w.upload, Method: w.method, Path: w.path,
		Cached: w.cached,
		Policy: w.policy, JWKS: h.callers.jwks, PEM: h.callers.pem,
	}
	if w.upload {
		s.Origin = h.sink
	}
	return s
}

// startOrigins starts nginx as the origin and the sink for uploads.
func (h *harness) startOrigins(ctx context.Context) error {
	var err error
	if h.callers, err = makeCallers(h.dir); err != nil {
		return err
	}
	dir := filepath.Join(h.dir, "origin")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	// Random-looking bytes are not needed: nobody compresses here.
	for name, size := range map[string]int{"64k": 64 << 10, "1m": 1 << 20} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("m"), size), 0o600); err != nil {
			return err
		}
	}
	if h.origin, err = freePort(); err != nil {
		return err
	}
	s := h.site(dir, workload{})
	s.Listen, s.Body = h.origin, strings.Repeat("k", plainBytes)
	if err := s.writeConfig("origin.conf"); err != nil {
		return err
	}
	if h.sink, err = freePort(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(dir, "output.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, o := range []struct {
		argv  []string
		addr  string
		probe workload
	}{
		{[]string{h.paths["nginx"], "-p", dir, "-c", filepath.Join(dir, "origin.conf"), "-e", filepath.Join(dir, "error.log")}, h.origin, workloads[0]},
		{[]string{self, "discard", "-listen", h.sink}, h.sink, workloads[2]},
	} {
		p, err := start(h.loadCores, dir, out, nil, o.argv...)
		if err != nil {
			return err
		}
		h.started = append(h.started, p)
		if err := until(ctx, p, func() error { return h.probe(ctx, o.addr, o.probe) }); err != nil {
			return fmt.Errorf("origin: %w\n%s", err, tailOf(out.Name(), filepath.Join(dir, "error.log")))
		}
	}
	return nil
}

// close ends everything that the harness started and removes its files.
func (h *harness) close() {
	for _, p := range h.started {
		p.stop()
	}
	_ = os.RemoveAll(h.dir)
}

// measure runs one contender once under one workload. A failure is part of
// the sample, so that one contender cannot spoil the others' rounds.
func (h *harness) measure(ctx context.Context, c contender, w workload) sample {
	r, err := h.launch(ctx, c, w)
	if err != nil {
		return sample{Error: err.Error()}
	}
	defer r.stop()
	var s sample
	if w.idle {
		s, err = h.measureIdle(ctx, r, w)
	} else {
		s, err = h.measureLoad(ctx, r, w)
	}
	for _, p := range r.processes {
		if dead := p.alive(); err == nil && dead != nil {
			err = dead
		}
	}
	if err != nil {
		s.Error = err.Error()
	}
	return s
}

// measureLoad charges the CPU of the contender's process tree to the requests
// that wrk saw answered.
func (h *harness) measureLoad(ctx context.Context, r *runner, w workload) (sample, error) {
	url := "http://" + r.Listen + w.path
	warm, err := h.wrk(ctx, w, url, h.opt.warmup)
	if err != nil {
		return sample{}, fmt.Errorf("warm-up: %w", err)
	}
	cpu0, err := cpuOf(r.pids()...)
	if err != nil {
		return sample{}, err
	}
	core0, err := readCore(h.opt.core)
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	got, err := h.wrk(ctx, w, url, h.opt.seconds)
	if err != nil {
		return sample{}, err
	}
	wall := time.Since(began)
	cpu1, err := cpuOf(r.pids()...)
	if err != nil {
		return sample{}, err
	}
	core1, err := readCore(h.opt.core)
	if err != nil {
		return sample{}, err
	}
	cpu, n := cpu1-cpu0, got.answered()
	s := sample{
		CPUMicros:  float64(cpu) / 1e3 / float64(n),
		Requests:   n,
		PerSecond:  float64(n) / (float64(got.Micros) / 1e6),
		P50Micros:  got.P50,
		P99Micros:  got.P99,
		Failed:     got.failed(),
		CoreShare:  float64(cpu) / float64(wall),
		Foreign:    max(0, float64(core1.process-core0.process-cpu)/float64(wall)),
		Steal:      float64(core1.steal-core0.steal) / float64(wall),
		BytesMoved: n * int64(w.bytes),
	}
	if r.logFile != "" {
		r.halt() // what is buffered is written now
		lines, err := countLines(r.logFile)
		if err != nil {
			return s, err
		}
		share := min(1, float64(lines)/float64(n+warm.answered()))
		s.Logged = &share
	}
	return s, nil
}

// measureIdle charges the growth of the resident size to idle connections
// that have each been served once.
func (h *harness) measureIdle(ctx context.Context, r *runner, w workload) (sample, error) {
	// The warm-up fills pools and arenas that are not paid for by connections.
	if _, err := h.wrk(ctx, w, "http://"+r.Listen+w.path, h.opt.warmup); err != nil {
		return sample{}, fmt.Errorf("warm-up: %w", err)
	}
	before, err := settled(ctx, r.pids()...)
	if err != nil {
		return sample{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conns, err := openIdle(ctx, r.Listen, w.path, h.opt.idle)
	if err != nil {
		return sample{}, err
	}
	defer conns.close()
	after, err := settled(ctx, r.pids()...)
	if err != nil {
		return sample{}, err
	}
	dead, err := conns.askAll(ctx)
	if err != nil {
		return sample{}, err
	}
	s := sample{
		Requests: int64(h.opt.idle), Failed: dead, Resident: after,
		BytesPerConn: float64(after-before) / float64(h.opt.idle),
	}
	if dead > 0 {
		return s, fmt.Errorf("%d of %d idle connections did not live to the end", dead, h.opt.idle)
	}
	return s, nil
}

// countLines counts the newlines of a file.
func countLines(name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, 256<<10)
	var lines int64
	for {
		n, err := f.Read(buf)
		lines += int64(bytes.Count(buf[:n], []byte("\n")))
		if err == io.EOF {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
	}
}
