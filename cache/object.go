package cache

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
)

// Object is what a Store keeps under one key: an answer, or the list of what
// answers under the key vary with. It does not change once it was given to Put,
// and may be read by many goroutines.
type Object struct {
	Key   []byte // what tells it from all others, the whole of it
	Entry        // the answer's head and facts; Length is that of Body
	Body  []byte
	Tags  []uint64 // sums of its surrogate keys and of its URI, see TagSum
	// Asked is when the request was sent that this answers, in Unix nanoseconds:
	// a purge since then holds for it.
	Asked int64
	// Generation is Store.Generation of its URI at that time.
	Generation uint32
	// Lists are set for an object that is no answer: the Vary of the answers
	// under variants of Key, the latest first.
	Lists [][]byte
	// Sum is that of Body where somebody will ask whether another body was made of
	// it, else 0. It survives what confirms the body.
	Sum uint64

	sum     uint64
	place   uint32 // of its URI among the generations
	tier    *hot   // that it may be in; nil for one that no store has seen
	file    file
	checked atomic.Uint64 // purges up to this one have been held against it
}

// MostLists is how many different Vary of one key are followed.
const MostLists = 4

// NewObject makes an object of e and body, which are copied, under key, which is
// not. Its Length is set.
func NewObject(key []byte, e *Entry, body []byte) *Object {
	o := &Object{Key: key, Entry: *e}
	b := make([]byte, 0, len(e.Vary)+len(e.ETag)+len(e.Head)+len(body))
	for _, part := range [...]struct {
		to   *[]byte
		from []byte
	}{{&o.Vary, e.Vary}, {&o.ETag, e.ETag}, {&o.Head, e.Head}, {&o.Body, body}} {
		start := len(b)
		b = append(b, part.from...)
		*part.to = b[start:len(b):len(b)]
	}
	o.Length = int64(len(body))
	return o
}

// Remember puts vary at the front of the lists that are known for o's key, which
// are those of old; nil is none.
func Remember(key []byte, old *Object, vary []byte, asked int64) *Object {
	o := &Object{Key: key, Asked: asked, Lists: [][]byte{bytes.Clone(vary)}}
	if old != nil {
		for _, l := range old.Lists {
			if len(o.Lists) < MostLists && !bytes.Equal(l, vary) {
				o.Lists = append(o.Lists, l)
			}
		}
	}
	return o
}

// Knows tells whether vary is the first of o's lists.
func (o *Object) Knows(vary []byte) bool {
	return o != nil && len(o.Lists) > 0 && bytes.Equal(o.Lists[0], vary)
}

// Size is the bytes that o takes.
func (o *Object) Size() int {
	n := objectHead + 8*len(o.Tags) + len(o.Key) + entryFixed + len(o.Vary) + len(o.ETag) + len(o.Head) + len(o.Body)
	for _, l := range o.Lists {
		n += 2 + len(l)
	}
	return n
}

// objectHead is the fixed part of an encoded object.
const (
	objectVersion = 1
	objectHead    = 1 + 1 + 2 + 4 + 4 + 8 + 4 + 8
)

// AppendObject writes o in a form that ParseObject reads.
func AppendObject(dst []byte, o *Object) []byte {
	be := binary.BigEndian
	dst = append(dst, objectVersion, byte(len(o.Lists)))
	dst = be.AppendUint16(dst, uint16(len(o.Tags)))
	dst = be.AppendUint32(dst, uint32(len(o.Key)))
	dst = be.AppendUint32(dst, uint32(len(o.Body)))
	dst = be.AppendUint64(dst, uint64(o.Asked))
	dst = be.AppendUint32(dst, o.Generation)
	dst = be.AppendUint64(dst, o.Sum)
	for _, tag := range o.Tags {
		dst = be.AppendUint64(dst, tag)
	}
	dst = append(dst, o.Key...)
	if o.Lists != nil {
		for _, l := range o.Lists {
			dst = append(be.AppendUint16(dst, uint16(len(l))), l...)
		}
		return dst
	}
	return append(AppendEntry(dst, &o.Entry), o.Body...)
}

// ParseObject reads an object that fills all of b, whose slices point into b. It
// believes nothing: a tier that is shared or a file may hold anything.
func ParseObject(b []byte) (*Object, error) {
	if len(b) < objectHead || b[0] != objectVersion || b[1] > MostLists {
		return nil, errEntry
	}
	be := binary.BigEndian
	lists, tags := int(b[1]), int(be.Uint16(b[2:]))
	key, body := uint64(be.Uint32(b[4:])), uint64(be.Uint32(b[8:]))
	o := &Object{Asked: int64(be.Uint64(b[12:])), Generation: be.Uint32(b[20:]), Sum: be.Uint64(b[24:])}
	rest := b[objectHead:]
	if uint64(len(rest)) < 8*uint64(tags)+key {
		return nil, errEntry
	}
	if tags > 0 {
		o.Tags = make([]uint64, tags)
		for i := range o.Tags {
			o.Tags[i] = be.Uint64(rest[8*i:])
		}
		rest = rest[8*tags:]
	}
	o.Key, rest = rest[:key:key], rest[key:]
	if lists > 0 {
		for range lists {
			if len(rest) < 2 {
				return nil, errEntry
			}
			n := int(be.Uint16(rest))
			if len(rest) < 2+n {
				return nil, errEntry
			}
			o.Lists = append(o.Lists, rest[2:2+n:2+n])
			rest = rest[2+n:]
		}
		if len(rest) > 0 || body > 0 {
			return nil, errEntry
		}
		return o, nil
	}
	n, err := ParseEntry(rest, &o.Entry)
	if err != nil {
		return nil, err
	}
	if o.Body = rest[n:len(rest):len(rest)]; uint64(len(o.Body)) != body || o.Length != int64(body) {
		return nil, errEntry
	}
	return o, nil
}

// With is o with the head and facts of e, which are copied: an answer that the
// origin confirmed with a request that was sent at asked.
func (o *Object) With(e *Entry, asked int64, generation uint32) *Object {
	next := NewObject(o.Key, e, nil)
	next.Body, next.Length, next.Tags, next.Sum = o.Body, o.Length, o.Tags, o.Sum
	next.Asked, next.Generation = asked, generation
	return next
}

// Filled is o with body, which is not copied.
func (o *Object) Filled(body []byte) *Object {
	next := &Object{Key: o.Key, Entry: o.Entry, Body: body, Tags: o.Tags, Asked: o.Asked, Generation: o.Generation}
	next.Length = int64(len(body))
	return next
}

// Made is body, which was made of o's, under a key of its own. An empty one says
// that nothing was to be gained.
func (o *Object) Made(key, body []byte) *Object {
	return &Object{
		Key: key, Body: body, Tags: o.Tags, Asked: o.Asked, Generation: o.Generation, Sum: o.Sum,
		Entry: Entry{Stored: o.Stored, Date: o.Date, Modified: noDate, Status: 200, Length: int64(len(body))},
	}
}
