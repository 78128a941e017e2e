package cache

import (
	"bytes"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// purges are the marks that purges left. An object whose request was sent before
// a mark that fits it is gone, or stale when the purge was soft. Marks are held
// against an object once: it remembers up to which purge that was done. So a
// purge costs the same whatever it hits.
type purges struct {
	latest atomic.Uint64 // the number of the last purge

	mu       sync.RWMutex // guards what follows
	floor    int64        // what was asked for up to this time is gone
	softly   int64        // is stale
	tags     map[uint64]tagMark
	prefixes []prefixMark
}

// tagMark is what was purged of a tag: up to which times, and the number of the
// last such purge.
type tagMark struct {
	hard, soft int64
	number     uint64
}

type prefixMark struct {
	at     int64
	prefix []byte
	soft   bool
}

// Bounds of what is remembered. Beyond them the oldest marks become one that
// holds for everything as old: too much is gone then, never too little.
const (
	mostTagMarks    = 1 << 16
	mostPrefixMarks = 1 << 10
)

// TagSum is how a surrogate key is stored and purged.
func TagSum(tag []byte) uint64 { return xxhash.Sum64(tag) }

// URISum is how a URI, as URI gives it, is purged.
func URISum(uri []byte) uint64 {
	h := xxhash.New()
	_, _ = h.WriteString("uri\n") // no surrogate key has a line feed
	_, _ = h.Write(uri)
	return h.Sum64()
}

// Verdicts of purges on an object.
type purged uint8

const (
	untouched purged = iota
	softened
	gone
)

// hit holds all marks against o. at is the time of the soft purge.
func (p *purges) hit(o *Object) (_ purged, at int64) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if o.Asked <= p.floor {
		return gone, 0
	}
	verdict := untouched
	soften := func(t int64) {
		if o.Asked <= t {
			verdict, at = softened, max(at, t)
		}
	}
	soften(p.softly)
	for _, tag := range o.Tags {
		if m, ok := p.tags[tag]; ok {
			if o.Asked <= m.hard {
				return gone, 0
			}
			soften(m.soft)
		}
	}
	for i := range p.prefixes {
		m := &p.prefixes[i]
		if o.Asked > m.at || !bytes.HasPrefix(o.Key, m.prefix) {
			continue
		}
		if !m.soft {
			return gone, 0
		}
		soften(m.at)
	}
	return verdict, at
}

// all ends every object whose request was sent up to at, or makes it stale.
func (p *purges) all(at int64, soft bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if soft {
		p.softly = max(p.softly, at)
	} else {
		p.floor = max(p.floor, at)
	}
	p.latest.Add(1)
}

func (p *purges) tag(sum uint64, at int64, soft bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tags == nil {
		p.tags = map[uint64]tagMark{}
	}
	m, known := p.tags[sum]
	if !known && len(p.tags) >= mostTagMarks {
		p.foldTags()
	}
	if soft {
		m.soft = max(m.soft, at)
	} else {
		m.hard = max(m.hard, at)
	}
	m.number = p.latest.Add(1)
	p.tags[sum] = m
}

// foldTags forgets the older half of the tags' marks, and with them everything
// that is as old as the youngest of these.
func (p *purges) foldTags() {
	numbers := make([]uint64, 0, len(p.tags))
	for _, m := range p.tags {
		numbers = append(numbers, m.number)
	}
	middle := median(numbers)
	for sum, m := range p.tags {
		if m.number <= middle {
			p.floor, p.softly = max(p.floor, m.hard), max(p.softly, m.soft)
			delete(p.tags, sum)
		}
	}
}

func (p *purges) prefix(prefix []byte, at int64, soft bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.prefixes) >= mostPrefixMarks {
		for _, m := range p.prefixes[:mostPrefixMarks/2] {
			if m.soft {
				p.softly = max(p.softly, m.at)
			} else {
				p.floor = max(p.floor, m.at)
			}
		}
		p.prefixes = append(p.prefixes[:0], p.prefixes[mostPrefixMarks/2:]...)
	}
	p.prefixes = append(p.prefixes, prefixMark{at, bytes.Clone(prefix), soft})
	p.latest.Add(1)
}

// Scope says what a purge is of.
type Scope string

// The scopes.
const (
	PurgeAll    Scope = "all"
	PurgeURL    Scope = "url"    // one URL, in all its variants
	PurgePrefix Scope = "prefix" // all URLs that begin with it
	PurgeTag    Scope = "tag"    // all answers with the surrogate key
)

// Purge is an order to end what was stored up to a time, or to make it stale.
type Purge struct {
	Scope Scope  `json:"scope"`
	Value string `json:"value,omitempty"` // a URI as AppendURI writes it and its query, its start, or a tag
	Soft  bool   `json:"soft,omitempty"`
	At    int64  `json:"at"` // Unix nanoseconds
}

// Purge carries out an order. What was fetched by requests from after its time
// stays.
func (s *Store) Purge(p Purge) {
	switch p.Scope {
	case PurgeAll:
		s.purges.all(p.At, p.Soft)
	case PurgeURL:
		s.purges.tag(URISum([]byte(p.Value)), p.At, p.Soft)
	case PurgePrefix:
		s.purges.prefix([]byte(p.Value), p.At, p.Soft)
	case PurgeTag:
		s.purges.tag(TagSum([]byte(p.Value)), p.At, p.Soft)
	}
}
