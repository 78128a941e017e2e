//go:build !race

package encode

import "testing"

func TestAllocatesNothing(t *testing.T) {
	p := testPolicy("")
	fields := acceptLines("gzip;q=0.8, deflate, br;q=1.0", "identity; q=0.5, *;q=0, X-Gzip;q=bad")
	types := [][]byte{
		[]byte("text/html; charset=utf-8"),
		[]byte("Application/Vnd.Example.Something-Rather-Long.v1+JSON; charset=utf-8"),
		[]byte("application/octet-stream"),
		[]byte("text/event-stream"),
		nil,
	}
	var chosen Coding
	if n := testing.AllocsPerRun(1000, func() { chosen = p.Choose(fields) }); n != 0 || chosen != Brotli {
		t.Errorf("Choose: %v allocations, got %v", n, chosen)
	}
	for _, typ := range types {
		if n := testing.AllocsPerRun(1000, func() { p.Suits(typ, 4096) }); n != 0 {
			t.Errorf("Suits(%q): %v allocations", typ, n)
		}
	}
	value := []byte("X-GZIP")
	if n := testing.AllocsPerRun(1000, func() { CodingOf(value) }); n != 0 {
		t.Errorf("CodingOf: %v allocations", n)
	}
}
