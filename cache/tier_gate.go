package cache

import (
	"sync"
	"sync/atomic"
)

// gate is shut while asking the second tier is not worth the wait. Now and then
// one may try.
type gate struct {
	shut  atomic.Bool
	score atomic.Int32

	mu    sync.Mutex // guards what follows
	until int64      // when the next may try
	pause int64
}

const (
	failureScore = 4  // an answer takes one back
	shutAt       = 20 // so five failures in a row, or more than one in five

	firstPause   = second / 4
	longestPause = 5 * second
)

// enter tells whether the tier may be asked at the time now; trial says that
// this is to find out whether it answers again.
func (g *gate) enter(now int64) (ok, trial bool) {
	if !g.shut.Load() {
		return true, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if now < g.until {
		return false, false
	}
	g.until = now + g.pause
	return true, true
}

// answered is called when the tier answered in time.
func (g *gate) answered() {
	if g.shut.Load() {
		g.score.Store(0)
		g.shut.Store(false)
	} else if v := g.score.Load(); v > 0 {
		g.score.CompareAndSwap(v, v-1) // who loses is one of many
	}
}

// failed is called when it did not. trips says that the gate shut.
func (g *gate) failed(now int64, trial bool) (trips bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case trial:
		g.pause = min(2*g.pause, longestPause)
		g.until = now + g.pause
	case g.score.Add(failureScore) >= shutAt && !g.shut.Load():
		g.pause = firstPause
		g.until = now + g.pause
		g.shut.Store(true)
		return true
	}
	return false
}
