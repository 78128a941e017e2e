package observe

import (
	"math"
	"testing"
	"time"
)

func TestBucketOf(t *testing.T) {
	for i, bound := range bucketBounds {
		if i > 0 && bound < 2*bucketBounds[i-1] {
			t.Errorf("bound %v is less than twice the one before", bound)
		}
	}
	slow := func(d time.Duration) int {
		for i, bound := range bucketBounds {
			if d <= bound {
				return i
			}
		}
		return len(bucketBounds)
	}
	f := func(d time.Duration) {
		t.Helper()
		if got, want := bucketOf(d), slow(d); got != want {
			t.Errorf("%v: expected bucket %d, got %d", d, want, got)
		}
	}
	f(0)
	f(math.MaxInt64)
	for _, bound := range bucketBounds {
		f(bound - 1)
		f(bound)
		f(bound + 1)
	}
	for shift := range 63 {
		f(1<<shift - 1)
		f(1 << shift)
		f(1<<shift + 1)
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{-time.Second, 0, 100 * time.Microsecond, 3 * time.Millisecond, time.Hour} {
		h.Observe(d)
	}
	count, sum, upTo := h.read()
	if want := (100*time.Microsecond + 3*time.Millisecond + time.Hour).Seconds(); count != 5 || math.Abs(sum-want) > 1e-9 {
		t.Errorf("expected 5 and %v s, got %d and %v s", want, count, sum)
	}
	for bound, want := range map[float64]uint64{0.0001: 3, 0.002: 3, 0.005: 4, 60: 4} {
		if upTo[bound] != want {
			t.Errorf("up to %v s: expected %d, got %d", bound, want, upTo[bound])
		}
	}
}
