package limiter

import (
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/bits"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/redis/rueidis"
)

// sharedUnits is how many steps of debt on Redis are one request.
const sharedUnits = 512

// chargeScript is GCRA as a debt: what a key owes, as of when. A debt, unlike a
// theoretical arrival time, loses nothing to rounding at any rate, and stays
// what it is when the rate changes. Both numbers are doubles; a time in
// microseconds takes 51 of their 53 bits. A refusal writes nothing.
//
// ARGV[1] is four doubles: cost and room in units, and the units that the rate
// gives in a number of microseconds. A room below 0 is none: the charge is
// booked whatever is owed. The answer is the debt in units, rounded up; refused
// is -1 less the debt.
//
// When the server's clock steps back, the time between is not counted twice
// for debts already written: they wait from the new time on. The server must
// replicate what a script does, not the script: all do from Redis 5 on.
const chargeScript = `local cost, room, gain, per = struct.unpack('>dddd', ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local debt = 0
local was = redis.call('GET', KEYS[1])
if was and #was == 16 then
  local at, owed = struct.unpack('>dd', was)
  debt = math.max(owed - math.max(now - at, 0) * gain / per, 0)
end
if room >= 0 and debt + cost > room then
  return -1 - math.ceil(debt)
end
if cost > 0 then
  debt = debt + cost
  redis.call('SET', KEYS[1], struct.pack('>dd', now, debt), 'PX', string.format('%.0f', math.ceil(debt * per / gain / 1000) + 1))
end
return math.ceil(debt)`

// quotaScript counts to a quota within a window. ARGV[1] is three doubles: the
// cost, the quota, and when the count goes, in seconds since 1970.
const quotaScript = `local cost, quota, ends = struct.unpack('>ddd', ARGV[1])
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used + cost > quota then
  return -1 - used
end
if cost > 0 then
  used = redis.call('INCRBY', KEYS[1], string.format('%.0f', cost))
  if used == cost then
    redis.call('EXPIREAT', KEYS[1], string.format('%.0f', ends))
  end
end
return used`

type script struct{ text, sha string }

func newScript(text string) *script {
	sum := sha1.Sum([]byte(text))
	return &script{text, hex.EncodeToString(sum[:])}
}

var charging, counting = newScript(chargeScript), newScript(quotaScript)

// args are what a script is asked with.
type args struct {
	script *script
	words  [4]uint64
	n      int
	window int64 // of a quota, part of its key; 0 is none
}

func chargeArgs(rate Rate, room, cost int64) args {
	return args{script: charging, n: 4, words: [4]uint64{
		math.Float64bits(float64(cost * sharedUnits)),
		math.Float64bits(float64(room)),
		math.Float64bits(float64(rate.Count) * sharedUnits),
		math.Float64bits(float64(rate.Per) / float64(time.Microsecond)),
	}}
}

// mostQuota is what a double counts exactly. No answer is taken for more.
const mostQuota = 1 << 53

func quotaArgs(quota, cost int64, ends time.Time) args {
	const grace = 60 // gateways whose clocks are behind still count in this window
	return args{script: counting, n: 3, window: max(ends.Unix(), 1), words: [4]uint64{
		math.Float64bits(float64(min(cost, mostQuota))),
		math.Float64bits(float64(min(quota, mostQuota-1))),
		math.Float64bits(float64(ends.Unix() + grace)),
	}}
}

// question is one call of a script, on its way from a caller to a worker and
// back. state tells who has it: a caller that has waited long enough leaves it
// to the worker, which then answers to nobody.
type question struct {
	prefix string
	key    SharedKey
	args   args

	state  atomic.Uint32
	done   chan struct{} // one when answered
	timer  *time.Timer
	answer int64
	failed bool
}

const (
	waiting uint32 = iota
	answered
	abandoned
)

var questions = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &question{done: make(chan struct{}, 1), timer: t}
}}

// ask has a worker run the script and waits for its answer, at most
// SharedConfig.Timeout: the debt or the count after it, and whether it was
// charged. in is false when there was no answer, which is held against Redis.
func (s *Shared) ask(prefix string, key SharedKey, a args) (n int64, ok, in bool) {
	q := questions.Get().(*question)
	q.prefix, q.key, q.args, q.failed = prefix, key, a, false
	q.state.Store(waiting)
	select {
	case s.queue <- q:
	default:
		questions.Put(q)
		s.events.crowded.Add(1)
		return 0, false, false
	}
	q.timer.Reset(s.cfg.Timeout.Std())
	select {
	case <-q.done:
		q.timer.Stop()
	case <-q.timer.C:
		if q.state.CompareAndSwap(waiting, abandoned) {
			s.events.timeouts.Add(1)
			s.failed()
			return 0, false, false // the worker gives q back
		}
		<-q.done
	}
	n, failed := q.answer, q.failed
	questions.Put(q)
	if failed {
		s.failed()
		return 0, false, false
	}
	s.answered()
	if n < 0 {
		return min(-1-n, mostQuota), false, true
	}
	return min(n, mostQuota), true, true
}

// work answers questions until s is closed, as many at once as there are.
func (s *Shared) work() {
	var b batch
	batched := make([]*question, 0, mostAtOnce)
	for {
		batched = batched[:0]
		select {
		case <-s.quit:
			return
		case q := <-s.queue:
			batched = keep(batched, q)
		}
	more:
		for len(batched) < mostAtOnce {
			select {
			case q := <-s.queue:
				batched = keep(batched, q)
			default:
				break more
			}
		}
		if len(batched) == 0 {
			continue
		}
		b.reset()
		for _, q := range batched {
			b.add(q.prefix, q.key, &q.args)
		}
		// The wait is bounded by the client, not by a context: that would
		// leave a goroutine behind for each round trip given up.
		s.roundTrip(context.Background(), &b)
		for i, q := range batched {
			q.answer, q.failed = b.answers[i], b.failed[i]
			if q.state.CompareAndSwap(waiting, answered) {
				q.done <- struct{}{}
			} else {
				questions.Put(q)
			}
		}
		clear(batched)
	}
}

// keep adds q unless its caller has gone.
func keep(to []*question, q *question) []*question {
	if q.state.Load() == abandoned {
		questions.Put(q)
		return to
	}
	return append(to, q)
}

// batch is what one round trip carries: calls of scripts, and their answers. It
// is used again and again.
type batch struct {
	calls   []call
	text    []byte // of all keys and arguments, so that a call costs no allocation of its own
	answers []int64
	failed  []bool

	commands []rueidis.Completed
	again    []int
}

type call struct {
	script             *script
	key, args, argsEnd int // key is text[key:args], its arguments text[args:argsEnd]
}

func (b *batch) reset() {
	b.calls, b.text = b.calls[:0], b.text[:0]
}

func (b *batch) add(prefix string, key SharedKey, a *args) {
	c := call{script: a.script, key: len(b.text)}
	b.text = append(b.text, prefix...)
	if a.window != 0 {
		b.text = append(strconv.AppendInt(b.text, a.window, 10), ':')
	}
	b.text = key.appendText(b.text)
	c.args = len(b.text)
	for _, w := range a.words[:a.n] {
		b.text = binary.BigEndian.AppendUint64(b.text, w)
	}
	c.argsEnd = len(b.text)
	b.calls = append(b.calls, c)
}

// roundTrip sends the calls of b and waits for their answers.
func (s *Shared) roundTrip(ctx context.Context, b *batch) {
	n := len(b.calls)
	b.answers, b.failed = resize(b.answers, n), resize(b.failed, n)
	b.again = b.again[:0]
	for i := range n {
		b.again = append(b.again, i)
	}
	begin := time.Now()
	// A server that has not seen a script says so without doing anything, and
	// is then told its text.
	if unknown := s.send(ctx, b, false); len(unknown) > 0 {
		b.again = unknown
		s.send(ctx, b, true)
	}
	s.events.nanoseconds.Add(uint64(time.Since(begin)))
	s.events.roundTrips.Add(1)
	s.events.sent.Add(uint64(n))
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, max(n, mostAtOnce))
	}
	return s[:n]
}

// send sends the calls of b that again lists and returns those whose script the
// server does not know.
func (s *Shared) send(ctx context.Context, b *batch, whole bool) (unknown []int) {
	conn, err := s.client.Conn()
	if err != nil {
		for _, i := range b.again {
			b.failed[i] = true
		}
		s.events.errors.Add(uint64(len(b.again)))
		return nil
	}
	b.commands = b.commands[:0]
	text := unsafe.String(unsafe.SliceData(b.text), len(b.text))
	for _, i := range b.again {
		c := &b.calls[i]
		key, arg := text[c.key:c.args], text[c.args:c.argsEnd]
		if whole {
			b.commands = append(b.commands, conn.B().Eval().Script(c.script.text).Numkeys(1).Key(key).Arg(arg).Build())
		} else {
			b.commands = append(b.commands, conn.B().Evalsha().Sha1(c.script.sha).Numkeys(1).Key(key).Arg(arg).Build())
		}
	}
	broken := false
	for at, r := range conn.DoMulti(ctx, b.commands...) {
		i := b.again[at]
		n, err := r.AsInt64()
		b.answers[i], b.failed[i] = n, err != nil
		if err == nil {
			continue
		}
		if r.NonRedisError() != nil {
			broken = true
		} else if e, ok := rueidis.IsRedisErr(err); ok && e.IsNoScript() && !whole {
			unknown = append(unknown, i)
			continue
		}
		s.events.errors.Add(1)
	}
	if broken {
		// The client may still be writing what was given up: it keeps these.
		b.text, b.commands = append([]byte(nil), b.text...), nil
	}
	return unknown
}

// spread is how long rate takes to give units, in nanoseconds, rounded up.
func spread(units int64, rate Rate) int64 {
	const longest = 1 << 58 // nine years
	step := uint64(rate.Count) * sharedUnits
	hi, lo := bits.Mul64(uint64(max(units, 0)), uint64(rate.Per))
	lo, carry := bits.Add64(lo, step-1, 0)
	if hi += carry; hi >= step {
		return longest
	}
	ns, _ := bits.Div64(hi, lo, step)
	return int64(min(ns, longest))
}

// decisionOf is what a debt on Redis means to a client.
func decisionOf(ok bool, debt int64, rate Rate, burst, cost int64) Decision {
	room := burst * sharedUnits
	d := Decision{OK: ok, Remaining: max(room-debt, 0) / sharedUnits, Reset: spread(debt, rate)}
	if !ok {
		d.RetryAfter = max(spread(debt+cost*sharedUnits-room, rate), 1)
	}
	return d
}
