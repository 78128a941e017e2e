// Command hitratio replays one trace of requests against the gateway's store and
// three other caches of the same size, and prints what share of it each answers.
//
// The trace is by Zipf's law over objects of different sizes; with -scan (the
// default) it is replayed a second time with bursts of objects in it that are
// never asked for again. Both are drawn from fixed seeds. What is missing is
// stored at once, as the gateway would do; the caches begin empty, and their
// filling is part of the figures.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"sluice/cache"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "hitratio:", err)
		os.Exit(1)
	}
}

// options are the flags, checked.
type options struct {
	objects, requests int
	share, skew       float64
	scan              bool
	seed              uint64
	largest           int
	only              string
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("hitratio", flag.ContinueOnError)
	fs.IntVar(&o.objects, "objects", 1_000_000, "how many objects there are, 1000 to 100000000")
	fs.IntVar(&o.requests, "requests", 10_000_000, "how many requests for them, 1 to 1000000000")
	fs.Float64Var(&o.share, "share", 0.1, "bytes of the cache over those of all objects, up to 1")
	fs.Float64Var(&o.skew, "skew", 0.9, "exponent of Zipf's law, 0 to 3")
	fs.BoolVar(&o.scan, "scan", true, "replay the trace with scans too")
	fs.Uint64Var(&o.seed, "seed", 1, "another trace")
	fs.IntVar(&o.largest, "max-object", 1<<20, "bytes of the largest body that a route would store, as max_object of the gateway")
	fs.StringVar(&o.only, "only", "", "the one contender that is measured")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	switch {
	case fs.NArg() > 0:
		return o, fmt.Errorf("expected flags only, got %q", fs.Arg(0))
	case o.objects < 1000 || o.objects > 100_000_000:
		return o, fmt.Errorf("-objects: expected a number from 1000 to 100000000, got %d", o.objects)
	case o.requests < 1 || o.requests > 1_000_000_000:
		return o, fmt.Errorf("-requests: expected a number from 1 to 1000000000, got %d", o.requests)
	case !(o.share > 0 && o.share <= 1):
		return o, fmt.Errorf("-share: expected a number above 0, up to 1, got %v", o.share)
	case !(o.skew >= 0 && o.skew <= 3):
		return o, fmt.Errorf("-skew: expected a number from 0 to 3, got %v", o.skew)
	case o.largest < mostBody || o.largest > 1<<30:
		return o, fmt.Errorf("-max-object: expected a number from %d to %d, got %d", mostBody, 1<<30, o.largest)
	case o.only != "" && !slices.Contains(names(), o.only):
		return o, fmt.Errorf("-only: expected one of %s, got %q", strings.Join(names(), ", "), o.only)
	}
	return o, nil
}

func run(args []string, w io.Writer) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	c := newCatalogue(o.objects, o.seed)
	trace := newTrace(c, o.requests, o.skew, o.seed)
	bytes := int64(float64(c.bytes)*o.share) >> 20 << 20 // bigcache counts in MiB
	if bytes < cache.LeastBytes {
		return fmt.Errorf("-share: expected a cache of at least %d MiB, the least that the store takes, got %d MiB", cache.LeastBytes>>20, bytes>>20)
	}
	fmt.Fprintf(w, "%d requests for %d objects of %.0f MiB by Zipf(%v), caches of %d MiB.\n\n", o.requests, o.objects, mib(c.bytes), o.skew, bytes>>20)
	if err := table(w, c, trace, bytes, o); err != nil || !o.scan {
		return err
	}
	trace = withScan(c, trace, o.seed)
	fmt.Fprintf(w, "\nWith %d requests for objects that are never asked for again, in bursts of %d. Hits are of the other requests.\n\n", len(trace)-o.requests, max(o.objects/100, 1))
	return table(w, c, trace, bytes, o)
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func table(w io.Writer, c *catalogue, trace []request, bytes int64, o options) error {
	fmt.Fprintln(w, "| cache | object hits | byte hits | ns/request | objects at the end | MiB at the end | MiB of heap |")
	fmt.Fprintln(w, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, k := range contenders {
		if o.only != "" && o.only != k.name {
			continue
		}
		before := heap()
		contender, err := k.open(bytes, o.largest)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		r := replay(contender, c, trace)
		objects, held := contender.held()
		grown := heap() - before
		contender.close()
		fmt.Fprintf(w, "| %s | %.2f %% | %.2f %% | %.0f | %d | %.1f | %.1f |\n", k.name, 100*r.objects(), 100*r.bytes(), r.nanoseconds, objects, mib(held), mib(grown))
	}
	return nil
}

// heap is what is in use of the heap.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one's finalizers and pools still held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// result is what a cache made of a trace. What was asked for once counts for the
// time alone: nobody can have it.
type result struct {
	asked, hits          int64
	askedBytes, hitBytes int64
	nanoseconds          float64 // of a request, with making what was missing
}

func (r *result) objects() float64 { return float64(r.hits) / float64(r.asked) }
func (r *result) bytes() float64   { return float64(r.hitBytes) / float64(r.askedBytes) }

func replay(k contender, c *catalogue, trace []request) (r result) {
	var buf []byte
	start := time.Now()
	for _, q := range trace {
		buf = c.appendKey(buf[:0], q.id)
		o := k.get(buf)
		if o == nil {
			k.put(c.object(append([]byte(nil), buf...), q.size))
		}
		if int(q.id) >= len(c.sizes) {
			continue
		}
		r.asked++
		r.askedBytes += int64(q.size)
		if o != nil {
			r.hits++
			r.hitBytes += int64(len(o.Body))
		}
	}
	r.nanoseconds = float64(time.Since(start)) / float64(len(trace))
	return r
}
