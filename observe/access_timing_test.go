package observe

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// sampleRecord is what an ordinary forwarded request looks like.
func sampleRecord() *Record {
	return &Record{
		Start:     time.Date(2026, 11, 25, 1, 2, 3, 4_000_000, time.UTC),
		Duration:  1234 * time.Microsecond,
		Wait:      987 * time.Microsecond,
		RequestID: []byte("0123456789abcdef0123456789abcdef"),
		Client:    netip.MustParseAddr("192.0.2.17"),
		Method:    []byte("GET"),
		Scheme:    "https", Proto: "HTTP/1.1",
		Host: []byte("api.example.com"), URI: []byte("/users/1234?expand=orders"),
		Status: 200, UpstreamStatus: 200, BytesOut: 1024,
		Route: "user", Upstream: "users", Target: "10.0.0.11:9000", Tries: 1, Reused: true,
		UserAgent: []byte("Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"),
	}
}

func BenchmarkAccessLogWrite(b *testing.B) {
	l, err := OpenAccessLog(AccessConfig{Enabled: true, Output: "/dev/null", Sample: 1, Buffer: 4}, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	r := sampleRecord()
	b.ReportAllocs()
	for b.Loop() {
		l.Write(r)
	}
	b.ReportMetric(float64(l.Dropped())/float64(b.N), "dropped/op")
}

func BenchmarkStamp(b *testing.B) {
	var text [stampLen]byte
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		appendStamp(text[:0], now)
	}
}

func BenchmarkAccessLogWriteParallel(b *testing.B) {
	l, err := OpenAccessLog(AccessConfig{Enabled: true, Output: "/dev/null", Sample: 1, Buffer: 4}, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var worker atomic.Uint32
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := sampleRecord()
		r.Shard = worker.Add(1)
		for pb.Next() {
			l.Write(r)
		}
	})
	b.ReportMetric(float64(l.Dropped())/float64(b.N), "dropped/op")
}

// BenchmarkRouteStats is what one request costs in metrics.
func BenchmarkRouteStats(b *testing.B) {
	s := NewMetrics(Build{}, nil).Route("user")
	b.ReportAllocs()
	for b.Loop() {
		s.Begin()
		s.End(200, 1234*time.Microsecond, 10, 1024)
	}
}

func BenchmarkNewID(b *testing.B) {
	var id [32]byte
	b.ReportAllocs()
	for b.Loop() {
		NewID(&id)
	}
}

func BenchmarkTraceparent(b *testing.B) {
	header := []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	text := make([]byte, 0, traceparentLen)
	b.ReportAllocs()
	for b.Loop() {
		t, _ := ParseTraceparent(header)
		text = AppendTraceparent(text[:0], &t.TraceID, &t.ParentID, t.Flags)
	}
}
