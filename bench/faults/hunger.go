package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"
)

// hunger records how long the threads of a process were ready to run and
// waited for a processor: what a busy machine, and not the process, adds to its
// answers.
type hunger struct {
	quit chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	samples []sample // in the order of time
}

// sample is the wait of all threads together, since the process began.
type sample struct {
	at     time.Time
	waited time.Duration
}

const sampleEvery = 4 * time.Millisecond

// watchHunger looks at the process until stop.
func watchHunger(pid int) *hunger {
	h := &hunger{quit: make(chan struct{})}
	h.done.Go(func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		waits := map[string]int64{} // by thread, also those that ended
		for {
			files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
			for _, f := range files {
				if text, err := os.ReadFile(f); err == nil {
					var ran, waited int64
					if _, err := fmt.Fscan(strings.NewReader(string(text)), &ran, &waited); err == nil {
						waits[f] = waited
					}
				}
			}
			s := sample{at: time.Now()}
			for _, ns := range waits {
				s.waited += time.Duration(ns)
			}
			h.mu.Lock()
			h.samples = append(h.samples, s)
			h.mu.Unlock()
			select {
			case <-h.quit:
				return
			case <-tick.C:
			}
		}
	})
	return h
}

// stop ends the recording. It may be called more than once.
func (h *hunger) stop() {
	h.mu.Lock()
	select {
	case <-h.quit:
	default:
		close(h.quit)
	}
	h.mu.Unlock()
	h.done.Wait()
}

// between is how long all threads waited between two times, and at the most
// one sample before and after.
func (h *hunger) between(from, to time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.samples) == 0 {
		return 0
	}
	first := sort.Search(len(h.samples), func(i int) bool { return h.samples[i].at.After(from) }) - 1
	last := sort.Search(len(h.samples), func(i int) bool { return !h.samples[i].at.Before(to) })
	return h.samples[min(last, len(h.samples)-1)].waited - h.samples[max(first, 0)].waited
}
