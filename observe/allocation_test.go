//go:build !race

package observe

import (
	"bytes"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// The hot path allocates nothing; the race detector itself would.
func TestHotPathAllocatesNothing(t *testing.T) {
	l, err := OpenAccessLog(AccessConfig{Enabled: true, Output: "/dev/null", Sample: 1, Buffer: 1}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer closeLog(t, l)
	stats := NewMetrics(Build{}, []string{"connect"}).Route("user")
	plain, hostile := sampleRecord(), sampleRecord()
	hostile.URI = bytes.Repeat([]byte("\x00\xff\""), maxURI)
	hostile.UserAgent = bytes.Repeat([]byte{'\n'}, maxUserAgent)
	var id [32]byte
	var span [16]byte
	header := []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	text := make([]byte, 0, traceparentLen)

	f := func(name string, run func()) {
		t.Helper()
		if n := testing.AllocsPerRun(1000, run); n != 0 {
			t.Errorf("%s: expected no allocation, got %v", name, n)
		}
	}
	f("Write", func() { l.Write(plain) })
	f("Write escaped and cut", func() { l.Write(hostile) })
	f("Begin and End", func() { stats.Begin(); stats.End(200, time.Millisecond, 10, 1024) })
	f("Fault", func() { stats.Fault(0) })
	f("NewID", func() { NewID(&id) })
	f("NewSpanID", func() { NewSpanID(&span) })
	f("ParseTraceparent", func() { ParseTraceparent(header) })
	f("AppendTraceparent", func() { text = AppendTraceparent(text[:0], &id, &span, FlagSampled) })
}
