package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/rueidis"

	"sluice/wire"
)

// The log of purges is a stream. Its entries are never changed, and go only from
// its front: so as long as the entry that was read last is there, all that came
// after it is.
const (
	logLength = "10000" // about so many entries stay
	logRead   = 128     // entries in a round trip
	logPurge  = "p"     // field of an entry: the purge in JSON
	logBy     = "by"    // field: who ordered it, so as not to carry out an order twice

	// mostPurgeValue bounds Purge.Value: any key is shorter.
	mostPurgeValue = 64 << 10

	// mostAhead is how far the clock of another gateway may be ahead of this one.
	mostAhead = int64(time.Minute)

	// longestQuiet is between two tries to subscribe.
	longestQuiet = time.Second
)

// logID is the number of an entry: milliseconds by the clock of Redis, and a
// count within these. Zero is none.
type logID struct{ ms, n uint64 }

func (i logID) String() string {
	return strconv.FormatUint(i.ms, 10) + "-" + strconv.FormatUint(i.n, 10)
}

func (i logID) after(j logID) bool { return i.ms > j.ms || i.ms == j.ms && i.n > j.n }

func parseLogID(s string) (id logID, ok bool) {
	ms, n, _ := strings.Cut(s, "-")
	var err1, err2 error
	id.ms, err1 = strconv.ParseUint(ms, 10, 64)
	id.n, err2 = strconv.ParseUint(n, 10, 64)
	return id, err1 == nil && err2 == nil && id != logID{}
}

// time is the end of the millisecond in Unix nanoseconds, or the latest time that
// can be.
func (i logID) time() int64 {
	if i.ms >= math.MaxInt64/1_000_000-1 {
		return math.MaxInt64
	}
	return int64(i.ms+1) * 1e6
}

// readEntry reads an entry of the log: id, and text in the field logPurge. Of one
// that it cannot read it makes a purge of all that is as old, and ok is false:
// it may come from a newer gateway, which knows other scopes. Times ahead of now
// are brought back to what a clock may differ by.
func readEntry(id logID, text string, now int64) (p Purge, ok bool) {
	p, ok = parsePurge(text)
	if !ok {
		p = Purge{Scope: PurgeAll, At: id.time()}
	}
	p.At = min(p.At, now+mostAhead)
	return p, ok
}

func parsePurge(text string) (p Purge, ok bool) {
	if len(text) > 8*mostPurgeValue || !utf8.ValidString(text) {
		return p, false
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if d.Decode(&p) != nil || p.check() != nil {
		return p, false
	}
	_, err := d.Token()
	return p, err == io.EOF
}

// check tells whether p can be sent and understood as it is.
func (p *Purge) check() error {
	switch p.Scope {
	case PurgeAll, PurgeURL, PurgePrefix, PurgeTag:
	default:
		return fmt.Errorf("cache: purge: expected the scope all, url, prefix or tag, got %q", p.Scope)
	}
	if p.At <= 0 {
		return errors.New("cache: purge: expected a time")
	}
	if len(p.Value) > mostPurgeValue || strings.ContainsRune(p.Value, utf8.RuneError) {
		return fmt.Errorf("cache: purge: expected up to %d bytes of UTF-8", mostPurgeValue)
	}
	return nil
}

// json is p as parsePurge reads it.
func (p *Purge) json() string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(p) // nothing in it that JSON has not
	return strings.TrimSuffix(b.String(), "\n")
}

// Order has all other gateways carry out p, which the caller has carried out here.
// It returns once p is in the log; on an error the others may not hear of it, and
// the order is to be repeated. It waits for Redis, no longer than about a second
// more than the timeout of the redis.Client.
func (f *Fleet) Order(p Purge) error {
	if err := p.check(); err != nil {
		return err
	}
	if err := f.append(p); err != nil {
		f.counts.unsent.Add(1)
		return fmt.Errorf("cache: the other gateways may not have heard of the purge: %w", err)
	}
	f.counts.sent.Add(1)
	return nil
}

// append writes p at the end of the log and nudges those who listen.
func (f *Fleet) append(p Purge) error {
	conn, err := f.client.Conn()
	if err != nil {
		return err
	}
	// The wait is bounded by the client, not by a context, here and elsewhere:
	// that would leave a goroutine behind for each round trip given up.
	err = conn.Do(context.Background(), conn.B().Xadd().Key(f.key).Maxlen().Almost().Threshold(logLength).Id("*").
		FieldValue().FieldValue(logPurge, p.json()).FieldValue(logBy, f.own).Build()).Error()
	if err != nil {
		f.client.Check()
		return err
	}
	// Not in one round trip with the entry: on a cluster it may overtake it. It
	// may also be lost, or forbidden.
	_ = conn.Do(context.Background(), conn.B().Publish().Channel(f.key).Message("1").Build()).Error()
	return nil
}

// follow reads the log until f is closed.
func (f *Fleet) follow() {
	tick := time.NewTicker(f.cfg.Sync.Std())
	defer tick.Stop()
	for {
		err := f.readLog()
		if err != nil {
			f.read.Store(0)
		}
		f.complain(err)
		select {
		case <-f.quit():
			return
		case <-tick.C:
		case <-f.nudge:
		}
	}
}

// complain says once what ails the log while Redis is there.
func (f *Fleet) complain(err error) {
	switch {
	case err == nil:
		f.mute = false
	case f.client.Up() && f.ctx.Err() == nil && !f.mute:
		f.mute = true
		f.log.Warn().Err(err).Str("key", f.key).Msg("cannot read the log of purges; those that others order are not carried out")
	}
}

var errNoLog = errors.New("cache: the log of purges does not stay")

// readLog reads what is new in the log, to its end, and carries it out.
func (f *Fleet) readLog() error {
	for restarts := 0; ; {
		begin := wire.Nanotime()
		from := "-"
		if f.seen != (logID{}) {
			from = f.seen.String()
		}
		entries, err := f.entries(from, logRead)
		if err != nil {
			return err
		}
		if f.seen == (logID{}) || len(entries) == 0 || entries[0].id != f.seen {
			if restarts++; restarts > 4 || f.ctx.Err() != nil {
				return errNoLog
			}
			if entries, err = f.restart(entries); err != nil {
				return err
			}
			if entries == nil {
				continue
			}
		} else {
			entries = entries[1:]
		}
		unreadable := 0
		for i := range entries {
			e := &entries[i]
			f.seen = e.id
			if e.by == f.own {
				continue
			}
			p, ok := readEntry(e.id, e.text, time.Now().UnixNano())
			if !ok {
				unreadable++
			}
			f.store.Purge(p)
			f.counts.received.Add(1)
		}
		if unreadable > 0 {
			f.counts.unreadable.Add(uint64(unreadable))
			f.log.Warn().Int("entries", unreadable).Stringer("last", f.seen).Msg("cannot read what stands in the log of purges; all answers from before it are purged")
		}
		if len(entries) < logRead-1 {
			f.read.Store(begin)
			return nil
		}
	}
}

// restart is called when what was read last is not in the log, or nothing was
// read before; entries are what came instead. It purges what may have been
// purged unheard, and returns the start of the log, or nil to read it again.
func (f *Fleet) restart(entries []logEntry) ([]logEntry, error) {
	if f.seen != (logID{}) {
		// What comes after what was read last says nothing of what came first.
		first, err := f.entries("-", 1)
		if err != nil {
			return nil, err
		}
		f.counts.gaps.Add(1)
		f.log.Warn().Stringer("last", f.seen).Msg("the log of purges does not reach back to what was read last; all answers from before are purged")
		was := f.seen
		f.seen = logID{}
		if len(first) > 0 && first[0].id.after(was) { // trimmed, or begun anew
			return nil, nil
		}
		entries = nil // it has gone back: what others had written since is lost
	}
	if len(entries) == 0 || f.lost {
		p := Purge{Scope: PurgeAll, At: time.Now().UnixNano()}
		err := f.append(p)
		if err == nil || !f.lost { // not each time that it fails again
			f.store.Purge(p)
		}
		f.lost = err != nil
		return nil, err
	}
	f.store.Purge(Purge{Scope: PurgeAll, At: min(entries[0].id.time(), time.Now().UnixNano()+mostAhead)})
	return entries, nil
}

type logEntry struct {
	id       logID
	text, by string
}

func (f *Fleet) entries(from string, most int64) ([]logEntry, error) {
	conn, err := f.client.Conn()
	if err != nil {
		return nil, err
	}
	r := conn.Do(context.Background(), conn.B().Xrange().Key(f.key).Start(from).End("+").Count(most).Build())
	list, err := r.AsXRange()
	if err != nil {
		if r.NonRedisError() != nil {
			f.client.Check()
		}
		return nil, err
	}
	entries := make([]logEntry, len(list))
	for i := range list {
		id, ok := parseLogID(list[i].ID)
		if !ok {
			return nil, fmt.Errorf("cache: expected the number of an entry, got %q", list[i].ID)
		}
		entries[i] = logEntry{id, list[i].FieldValues[logPurge], list[i].FieldValues[logBy]}
	}
	return entries, nil
}

// listen has follow read the log when others have written to it. Messages that
// are lost, or may not be had, only leave that to FleetConfig.Sync.
func (f *Fleet) listen() {
	told := false
	for {
		if conn, err := f.client.Conn(); err == nil {
			err = conn.Receive(f.ctx, conn.B().Subscribe().Channel(f.key).Build(), func(rueidis.PubSubMessage) {
				select {
				case f.nudge <- struct{}{}:
				default:
				}
			})
			if _, refused := rueidis.IsRedisErr(err); refused && !told {
				told = true
				f.log.Info().Err(err).Str("channel", f.key).Msg("may not subscribe; purges of other gateways arrive with the next sync")
			}
		}
		if !f.pause(longestQuiet) {
			return
		}
	}
}
