package observe

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// bucketBounds are the upper bounds, inclusive, of a Histogram's buckets. Each
// is at least twice the one before, so that no two lie between the same powers
// of two: bucketOf depends on that.
var bucketBounds = [...]time.Duration{
	100 * time.Microsecond, 200 * time.Microsecond, 500 * time.Microsecond,
	1 * time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond,
	10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	1 * time.Second, 2 * time.Second, 5 * time.Second,
	10 * time.Second, 20 * time.Second, 60 * time.Second,
}

const bucketCount = len(bucketBounds) + 1 // the last one has no bound

// firstBound[n] is the first bound that a duration of n significant bits may
// be within; at most the next one can be instead.
var firstBound = func() (first [65]uint8) {
	for n := range first {
		for i, bound := range bucketBounds {
			if bits.Len64(uint64(bound)) < n {
				first[n] = uint8(i + 1)
			}
		}
	}
	return first
}()

// Histogram counts durations in fixed buckets from 100 us to 60 s. The zero
// value is ready; it must not be copied. Observe costs two atomic additions.
type Histogram struct {
	sum     atomic.Uint64 // nanoseconds
	buckets [bucketCount]atomic.Uint64
}

// Observe counts d; a negative one counts as zero.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 0)
	h.sum.Add(uint64(d))
	h.buckets[bucketOf(d)].Add(1)
}

// bucketOf is the index of the bucket that d falls into.
func bucketOf(d time.Duration) int {
	i := int(firstBound[bits.Len64(uint64(d))])
	if i < len(bucketBounds) && d > bucketBounds[i] {
		i++
	}
	return i
}

// read returns the sum in seconds, the count, and the counts up to each bound
// in seconds. The count is that of the buckets read, so that they agree even
// while others write; the sum may be a few observations apart.
func (h *Histogram) read() (count uint64, sum float64, upTo map[float64]uint64) {
	sum = float64(h.sum.Load()) / float64(time.Second)
	upTo = make(map[float64]uint64, len(bucketBounds))
	for i := range h.buckets {
		count += h.buckets[i].Load()
		if i < len(bucketBounds) {
			upTo[bucketBounds[i].Seconds()] = count
		}
	}
	return count, sum, upTo
}
