package observe

import "sync/atomic"

// cacheLine keeps a number that many goroutines write off its neighbours' line.
const cacheLine = 64

// Counter is a number that only grows. The zero value is ready; it must not be
// copied. It has a cache line of its own.
type Counter struct {
	n atomic.Uint64
	_ [cacheLine - 8]byte
}

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Load returns the number.
func (c *Counter) Load() uint64 { return c.n.Load() }

// Gauge is a number that goes up and down. The zero value is ready; it must
// not be copied. It has a cache line of its own.
type Gauge struct {
	n atomic.Int64
	_ [cacheLine - 8]byte
}

// Add adds n, which may be negative, and returns the new number.
func (g *Gauge) Add(n int64) int64 { return g.n.Add(n) }

// Set replaces the number.
func (g *Gauge) Set(n int64) { g.n.Store(n) }

// Load returns the number.
func (g *Gauge) Load() int64 { return g.n.Load() }
