package main

import (
	"strings"
	"testing"
)

// The store must beat the queue that it is made of, and LRU, with a scan and
// without; with one it must lose little. Only ratios are looked at.
func TestStoreBeatsFIFOAndLRU(t *testing.T) {
	if testing.Short() {
		t.Skip("replays 1.5 million requests")
	}
	const objects, requests, bytes = 20_000, 200_000, 8 << 20
	c := newCatalogue(objects, 1)
	trace := newTrace(c, requests, 0.9, 1)
	ratios := map[string]float64{}
	for name, trace := range map[string][]request{"plain": trace, "scan": withScan(c, trace, 1)} {
		for _, k := range contenders {
			cache, err := k.open(bytes, mostBody)
			if err != nil {
				t.Fatal(err)
			}
			r := replay(cache, c, trace)
			if objects, _ := cache.held(); r.asked != requests || r.hits == 0 || objects == 0 {
				t.Errorf("%s, %s: %+v, %d objects held", name, k.name, r, objects)
			}
			cache.close()
			ratios[name+k.name] = r.objects()
		}
		for _, k := range contenders[1:3] {
			if got, other := ratios[name+contenders[0].name], ratios[name+k.name]; got <= other {
				t.Errorf("%s: Sluice answers %.4f of the requests, %s %.4f", name, got, k.name, other)
			}
		}
	}
	if plain, scan := ratios["plainSluice"], ratios["scanSluice"]; scan < plain-0.03 {
		t.Errorf("a scan costs the store too much: %.4f, without %.4f", scan, plain)
	}
	t.Log(ratios)
}

// The same seed is the same trace; a scan adds to it and takes nothing away.
func TestTraces(t *testing.T) {
	c := newCatalogue(1000, 7)
	trace := newTrace(c, 10_000, 0.9, 7)
	again := newTrace(newCatalogue(1000, 7), 10_000, 0.9, 7)
	first := 0
	for i, q := range trace {
		if q != again[i] {
			t.Fatalf("request %d: %v, then %v", i, q, again[i])
		}
		if q.id == 0 {
			first++
		}
	}
	// 1/sum of n^-0.9 up to 1000 is 0.0946.
	if first < 850 || first > 1050 {
		t.Errorf("the first object has %d of 10000 requests", first)
	}
	scan := withScan(c, trace, 7)
	if len(scan) != 15_000 {
		t.Errorf("%d requests with a scan, want 15000", len(scan))
	}
	seen := map[uint32]bool{}
	rest := trace
	for _, q := range scan {
		switch {
		case q.id < 1000 && q == rest[0]:
			rest = rest[1:]
		case q.id < 1000 || seen[q.id]:
			t.Fatalf("%v is not the next request, and no scan", q)
		}
		seen[q.id] = q.id >= 1000
	}
}

func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"-objects", "3000", "-requests", "10000", "-share", "1"}, &out); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n| Sluice |"); n != 2 {
		t.Errorf("%d tables in\n%s", n, out.String())
	}
	for _, args := range []string{"-objects 1", "-requests 0", "-share 2", "-skew -1", "-max-object 1", "-only nobody", "x"} {
		if err := run(strings.Fields(args), &out); err == nil || strings.TrimSpace(err.Error()) == "" {
			t.Errorf("%s: no complaint", args)
		}
	}
}
