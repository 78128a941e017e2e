package main

import (
	"math"
	"math/rand/v2"
	"sort"
	"strconv"

	"sluice/cache"
)

// catalogue is the objects that are asked for. The n-th is the n-th most popular;
// its size is drawn without regard to that.
type catalogue struct {
	sizes []uint32 // of the bodies
	bytes int64    // of all objects as the store counts them
	entry cache.Entry
	body  []byte
}

// Bodies are log-normal around a median of 1 KiB, so that bytes and not numbers
// are what is scarce.
const (
	medianBody = 1 << 10
	sigma      = 1.0
	mostBody   = 64 << 10
)

// head is what a small answer usually has besides its body.
const head = "Content-Type: application/json; charset=utf-8\r\nCache-Control: max-age=3600\r\n" +
	"ETag: \"5f2a-61c0d1e2a7b40\"\r\nLast-Modified: Wed, 25 Nov 2026 08:00:00 GMT\r\n"

func newCatalogue(objects int, seed uint64) *catalogue {
	c := &catalogue{sizes: make([]uint32, objects), body: make([]byte, mostBody)}
	c.entry = cache.Entry{
		Stored: 1, Life: 1 << 40, Date: 1, Modified: 1, Status: 200,
		ETag: []byte(`"5f2a-61c0d1e2a7b40"`), Head: []byte(head),
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range c.sizes {
		c.sizes[i] = drawSize(r)
		c.bytes += int64(c.object(c.appendKey(nil, uint32(i)), c.sizes[i]).Size())
	}
	return c
}

func drawSize(r *rand.Rand) uint32 {
	return uint32(min(medianBody*math.Exp(sigma*r.NormFloat64()), mostBody))
}

// appendKey writes the key of an object: a URI, and what else a route's key holds.
func (c *catalogue) appendKey(dst []byte, id uint32) []byte {
	dst = append(dst, "https://www.example.com/catalogue/items/"...)
	return append(strconv.AppendUint(dst, uint64(id), 10), "\nroute"...)
}

// object is an answer as the gateway hands it to the store.
func (c *catalogue) object(key []byte, size uint32) *cache.Object {
	o := cache.NewObject(key, &c.entry, c.body[:size])
	o.Asked = 1
	o.Tags = append(o.Tags, cache.URISum(cache.URI(key)))
	return o
}

// request asks for one object. Those beyond the catalogue are asked for once.
type request struct{ id, size uint32 }

// newTrace draws requests by Zipf's law: the n-th object is asked for n^-skew as
// often as the first.
func newTrace(c *catalogue, requests int, skew float64, seed uint64) []request {
	sums := make([]float64, len(c.sizes))
	total := 0.0
	for i := range sums {
		total += math.Pow(float64(i+1), -skew)
		sums[i] = total
	}
	r := rand.New(rand.NewPCG(seed, 2))
	trace := make([]request, requests)
	for i := range trace {
		id := min(sort.SearchFloat64s(sums, r.Float64()*total), len(sums)-1)
		trace[i] = request{uint32(id), c.sizes[id]}
	}
	return trace
}

// withScan puts bursts of objects that are never asked for again between the
// requests of trace, so that every third request is for one of these. A burst has
// one object for each hundred of the catalogue.
func withScan(c *catalogue, trace []request, seed uint64) []request {
	burst := max(len(c.sizes)/100, 1)
	r := rand.New(rand.NewPCG(seed, 3))
	next := uint32(len(c.sizes))
	out := make([]request, 0, len(trace)/2*3+burst)
	for i, q := range trace {
		out = append(out, q)
		if (i+1)%(2*burst) != 0 {
			continue
		}
		for range burst {
			out = append(out, request{next, drawSize(r)})
			next++
		}
	}
	return out
}
