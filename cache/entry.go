package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"

	"sluice/wire"
)

// Mark is a fact of a stored answer that is either so or not.
type Mark uint16

// The marks.
const (
	MarkValidate    Mark = 1 << iota // no-cache: not used before the origin has been asked
	MarkNoStale                      // must-revalidate, proxy-revalidate, s-maxage: never used stale
	MarkImmutable                    // RFC 8246: not asked about while fresh
	MarkInvalid                      // an unsafe request changed it: not used before the origin has been asked
	MarkPurged                       // made stale by a soft purge
	MarkNoTransform                  // its content is to stay as it is
	MarkStrong                       // ETag is a strong validator
	MarkDated                        // Modified is a strong validator
	MarkAnonymous                    // kept by the route's ttl alone: not for requests with cookies or credentials
)

// Entry is a stored answer's head and the facts that its use is decided by.
// Policy.Admit makes it; what is stored does not change, except through Freshen
// and the store's marks, which replace it as a whole.
type Entry struct {
	Stored   int64 // when its head came, or when it was last validated
	Age      int64 // how old it was then (RFC 9111 4.2.3, corrected_initial_age)
	Life     int64 // at which age it is stale (4.2.1)
	SWR      int64 // for how long after it may be used while it is fetched anew
	SIE      int64 // for how long after it may be used when the origin fails
	Date     int64 // Unix seconds
	Modified int64 // Unix seconds of Last-Modified; noDate without
	Length   int64 // of the body; -1 while it is not known. Set by the store.
	Status   uint16
	Marks    Mark
	Vary     []byte // names in lower case, sorted, joined by commas
	ETag     []byte // with quotes and W/; empty without. A slice of Head.
	Head     []byte // field lines as they are sent: without Age, framing and what ends at a hop
}

func (e *Entry) has(m Mark) bool { return e.Marks&m != 0 }

// Invalidate marks e for validation before its next use (RFC 9111 4.4).
func (e *Entry) Invalidate() { e.Marks |= MarkInvalid }

// Purge makes e stale from now on: what is allowed for stale answers holds for it.
func (e *Entry) Purge(now int64) {
	e.Life = min(e.Life, e.age(now))
	e.Marks |= MarkPurged
}

// age is current_age (RFC 9111 4.2.3). A clock that was set back makes nothing
// younger than it was when it came.
func (e *Entry) age(now int64) int64 { return e.Age + max(now-e.Stored, 0) }

// Until is when e is of no more use without the origin: stale, and past what is
// allowed for stale answers. An entry with a validator may be worth keeping
// longer.
func (e *Entry) Until() int64 { return e.Stored - e.Age + e.Life + max(e.SWR, e.SIE) }

// Validates tells whether the origin can be asked if e is still good.
func (e *Entry) Validates() bool { return len(e.ETag) > 0 || e.Modified != noDate }

// mostTime is more than any age or lifetime that comes of delta-seconds.
const mostTime = 22 * maxDelta / 20 * second

const (
	entryVersion = 1
	entryFixed   = 1 + 2 + 2 + 8*8 + 2 + 2 + 4 // version, marks, status, numbers, lengths
)

// AppendEntry writes e in a form that ParseEntry reads.
func AppendEntry(dst []byte, e *Entry) []byte {
	dst = binary.BigEndian.AppendUint16(append(dst, entryVersion), uint16(e.Marks))
	dst = binary.BigEndian.AppendUint16(dst, e.Status)
	for _, n := range [...]int64{e.Stored, e.Age, e.Life, e.SWR, e.SIE, e.Date, e.Modified, e.Length} {
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(e.Vary)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(e.ETag)))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(e.Head)))
	dst = append(append(dst, e.Vary...), e.ETag...)
	return append(dst, e.Head...)
}

var errEntry = errors.New("cache: not a stored answer")

// ParseEntry reads the entry at the start of b into e, whose slices point into
// b, and returns its length. It believes nothing: a tier that is shared or a
// file may hold anything. It allocates nothing.
func ParseEntry(b []byte, e *Entry) (int, error) {
	if len(b) < entryFixed || b[0] != entryVersion {
		return 0, errEntry
	}
	*e = Entry{Marks: Mark(binary.BigEndian.Uint16(b[1:])), Status: binary.BigEndian.Uint16(b[3:])}
	at := 5
	for _, n := range [...]*int64{&e.Stored, &e.Age, &e.Life, &e.SWR, &e.SIE, &e.Date, &e.Modified, &e.Length} {
		*n = int64(binary.BigEndian.Uint64(b[at:]))
		at += 8
	}
	vary, etag, head := int(binary.BigEndian.Uint16(b[at:])), int(binary.BigEndian.Uint16(b[at+2:])), uint64(binary.BigEndian.Uint32(b[at+4:]))
	at += 8
	if e.Status < 200 || e.Status > 599 || uint64(len(b)-at) < uint64(vary)+uint64(etag)+head {
		return 0, errEntry
	}
	// Sums of times must not run over: what is beyond any clock is none of ours.
	if e.Stored < 0 || e.Stored > math.MaxInt64/2 || e.Length < -1 {
		return 0, errEntry
	}
	for _, n := range [...]int64{e.Age, e.Life, e.SWR, e.SIE} {
		if n < 0 || n > mostTime {
			return 0, errEntry
		}
	}
	if !isDate(e.Date) || e.Modified != noDate && !isDate(e.Modified) {
		return 0, errEntry
	}
	e.Vary, e.ETag = b[at:at+vary:at+vary], b[at+vary:at+vary+etag:at+vary+etag]
	at += vary + etag
	e.Head = b[at : at+int(head) : at+int(head)]
	if !validHead(e.Head) || len(e.ETag) > 0 && !wire.IsFieldValue(e.ETag) {
		return 0, errEntry
	}
	return at + int(head), nil
}

// validHead tells whether every line of h is a field line: nothing else may be
// put into an answer's head.
func validHead(h []byte) bool {
	for len(h) > 0 {
		name, value, rest := nextLine(h)
		if rest == nil || !wire.IsToken(name) || !wire.IsFieldValue(value) || framing(wire.KindOf(name)) {
			return false
		}
		h = rest
	}
	return true
}

// framing tells whether a field is for the sender of a message to write.
func framing(k wire.Kind) bool {
	return k.HopByHop() || k == wire.ContentLength || k == wire.Trailer
}

// nextLine cuts the first field line off a stored head. rest is nil when there
// is none.
func nextLine(h []byte) (name, value, rest []byte) {
	end := bytes.Index(h, crlf)
	if end < 0 {
		return nil, nil, nil
	}
	colon := bytes.IndexByte(h[:end], ':')
	if colon < 0 {
		return nil, nil, nil
	}
	return h[:colon], wire.TrimOWS(h[colon+1 : end]), h[end+2:]
}

var crlf = []byte("\r\n")

// fieldsOf splits a stored head into fields.
func fieldsOf(head []byte) []wire.Field { return AppendFields(nil, head) }

// AppendFields appends the fields of a head in its stored form, lines that end in
// CRLF, to fields.
func AppendFields(fields []wire.Field, head []byte) []wire.Field {
	for len(head) > 0 {
		name, value, rest := nextLine(head)
		if rest == nil {
			break
		}
		fields = append(fields, wire.Field{Name: name, Value: value, Kind: wire.KindOf(name)})
		head = rest
	}
	return fields
}

// Field is the value of e's first field with this name, which is in lower case.
func (e *Entry) Field(name string) []byte {
	for head := e.Head; len(head) > 0; {
		n, value, rest := nextLine(head)
		if rest == nil {
			break
		}
		if foldEqual(n, name) {
			return value
		}
		head = rest
	}
	return nil
}

func appendLine(dst, name, value []byte) []byte {
	dst = append(append(dst, name...), ": "...)
	return append(append(dst, value...), "\r\n"...)
}

// At is e's age and what is left of its life at the time now.
func (e *Entry) At(now int64) Verdict {
	age := e.age(now)
	return Verdict{Age: min(age/second, maxDelta), TTL: wholeSeconds(e.Life - age)}
}

// Shareable tells whether e may answer others than the request it was fetched
// for without the origin being asked again: it was fresh when it came.
func (e *Entry) Shareable() bool {
	return !e.has(MarkValidate|MarkInvalid) && e.Life > e.Age
}

// NextLine cuts the first line off a stored head: the field's name, and the line
// as it is sent. line is nil when there is none.
func NextLine(head []byte) (name, line, rest []byte) {
	name, _, rest = nextLine(head)
	if rest == nil {
		return nil, nil, nil
	}
	return name, head[:len(head)-len(rest)], rest
}
