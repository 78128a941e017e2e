package observe

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/rs/zerolog"
)

// Record is what the access log tells of one request. Slices and strings are
// borrowed: they need to stay valid and unchanged only while Write runs. A line
// has these keys; those with a star are left out when they have nothing to say,
// those with two when Upstream is empty.
//
//	time                Start, RFC 3339 in UTC with milliseconds
//	status              Status sent to the client; 0 when none was
//	duration_us         Duration in microseconds, first byte read to last written
//	bytes_in            BytesIn, of the request's body
//	bytes_out           BytesOut, of the answer's body
//	upstream_status **  UpstreamStatus; 0 when the target did not answer
//	connect_us **       Connect in microseconds; 0 when reused
//	wait_us **          Wait in microseconds, request sent to head received
//	tries **            Tries, at how many targets or times
//	reused **           Reused: the connection came from the pool
//	request_id *        RequestID
//	client *            Client, without port and zone
//	method *            Method
//	scheme *            Scheme: http or https
//	proto *             Proto: HTTP/1.0, HTTP/1.1, HTTP/2
//	host *              Host as the client sent it
//	uri *               URI: path and query as the client sent them
//	route *             Route; none when no route matched
//	upstream *          Upstream
//	target *            Target: address of the last one tried
//	authenticator *     Authenticator that proved the caller
//	user *              User: who the caller is
//	cache *             Cache: what the cache did, as in sluice_cache_requests_total
//	flag *              Flag: the kind of fault; none when all went well
//	reason *            Reason: what went wrong in words, for people
//	user_agent *        UserAgent
//	referer *           Referer
//
// Keys come in this order, except that a value which had to be escaped or cut
// stands at the end. Values longer than their bound (uri 2048 bytes, referer
// 1024, user_agent 512, all others 256) are cut and end in "...". Bytes that
// are not UTF-8 come out as U+FFFD. A query is logged whole: credentials do not
// belong there.
type Record struct {
	Start    time.Time
	Duration time.Duration
	Connect  time.Duration
	Wait     time.Duration

	RequestID []byte
	Client    netip.Addr
	Method    []byte
	Scheme    string
	Proto     string
	Host      []byte
	URI       []byte
	UserAgent []byte
	Referer   []byte

	Status         int
	UpstreamStatus int
	BytesIn        int64
	BytesOut       int64

	Route    string
	Upstream string
	Target   string
	Tries    int
	Reused   bool
	Flag     string
	Reason   string
	Cache    string

	Authenticator string
	User          string

	// Shard spreads writers over the buffers. Any value is right; one that
	// differs between goroutines that run at once, and stays with each of
	// them, is fastest.
	Shard uint32
}

// Bounds of what one line holds of a client's words.
const (
	maxURI       = 2048
	maxReferer   = 1024
	maxUserAgent = 512
	maxWord      = 256
	cutMark      = "..."
)

const (
	flushEvery  = 100 * time.Millisecond
	reportEvery = 10 * time.Second
	closeWait   = 2 * time.Second

	// minShard holds the longest possible line (every byte escaped to six:
	// about 30 KiB) with room for a few.
	minShard = 128 << 10
)

// AccessLog is an open access log. Write is safe from any goroutine, and on a
// nil *AccessLog does nothing; so does every other method.
type AccessLog struct {
	key    string // where its settings stand
	name   string
	isFile bool
	sample uint32
	self   zerolog.Logger
	shards []shard
	mask   uint32

	out    atomic.Pointer[os.File] // swapped by run only
	lost   atomic.Uint64           // lines that the output refused
	wake   chan struct{}           // a buffer is half full
	reopen chan reopening
	stop   chan struct{}
	done   chan struct{}
	once   sync.Once
	closed error // how run ended; read after done
}

type reopening struct {
	file *os.File
	done chan struct{}
}

// OpenAccessLog opens the log and starts its writer. It returns nil, which is
// a log that takes everything and writes nothing, when cfg is not enabled.
// self hears of an output that fails or is too slow, at most every 10 s.
// Close must be called to have the last lines written.
func OpenAccessLog(cfg AccessConfig, self zerolog.Logger) (*AccessLog, error) {
	if !cfg.Enabled {
		return nil, nil
	}
	return open("log.access", cfg, self)
}

// OpenAuditLog opens a log of refusals: lines as those of the access log, with
// "log":"audit" in front, none left out by sampling.
func OpenAuditLog(cfg AuditConfig, self zerolog.Logger) (*AccessLog, error) {
	if !cfg.Enabled {
		return nil, nil
	}
	return open("log.audit", AccessConfig{Output: cfg.Output, Sample: 1, Buffer: cfg.Buffer}, self)
}

func open(key string, cfg AccessConfig, self zerolog.Logger) (*AccessLog, error) {
	if cfg.Sample < 1 || cfg.Buffer < 1 || cfg.Buffer > 1024 {
		return nil, fmt.Errorf(key+": expected sample of at least 1 and buffer from 1 to 1024, got %d and %d", cfg.Sample, cfg.Buffer)
	}
	f, isFile, err := openOutput(cfg.Output)
	if err != nil {
		return nil, fmt.Errorf(key+".output: %w", err)
	}
	total := cfg.Buffer << 20
	count := 1
	for count < 2*runtime.GOMAXPROCS(0) && total/(2*count) >= minShard {
		count *= 2
	}
	l := &AccessLog{
		key:    key,
		name:   cfg.Output,
		isFile: isFile,
		sample: uint32(min(cfg.Sample, 1<<31)),
		self:   self,
		shards: make([]shard, count),
		mask:   uint32(count - 1),
		wake:   make(chan struct{}, 1),
		reopen: make(chan reopening),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	l.out.Store(f)
	for i := range l.shards {
		s := &l.shards[i]
		s.buf = make([]byte, 0, total/count)
		s.wake = l.wake
		if s.log = zerolog.New(s); key == "log.audit" {
			s.log = s.log.With().Str("log", "audit").Logger()
		}
	}
	go l.run(make([]byte, 0, total/count))
	return l, nil
}

// Write logs one request, or drops and counts it when its buffer is full. It
// never blocks, never allocates and keeps nothing of r.
func (l *AccessLog) Write(r *Record) {
	if l == nil {
		return
	}
	if l.sample > 1 && r.Status < 500 && rand.Uint32N(l.sample) != 0 {
		return
	}
	encode(l.shards[r.Shard&l.mask].log.Log(), r)
}

// Dropped is how many lines were not written so far: the buffer was full, the
// output refused them, or the log was closed.
func (l *AccessLog) Dropped() uint64 {
	if l == nil {
		return 0
	}
	n := l.lost.Load()
	for i := range l.shards {
		n += l.shards[i].dropped.Load()
	}
	return n
}

// Reopen opens the file anew, so that logrotate may have moved the old one
// away. Lines written before it go to the old file. It waits for the output
// up to 2 s; on an error the old file stays in use, except after a timeout,
// when the new one follows as soon as the output takes what it was given.
func (l *AccessLog) Reopen() error {
	if l == nil || !l.isFile {
		return nil
	}
	f, _, err := openOutput(l.name)
	if err != nil {
		return fmt.Errorf(l.key+".output: %w; the old file stays in use", err)
	}
	r := reopening{file: f, done: make(chan struct{})}
	timeout := time.NewTimer(closeWait)
	defer timeout.Stop()
	select {
	case l.reopen <- r:
	case <-l.done:
		return errors.Join(errors.New(l.key+": cannot reopen a closed log"), f.Close())
	case <-timeout.C:
		return errors.Join(fmt.Errorf(l.key+".output: %s is blocked; the old file stays in use", l.name), f.Close())
	}
	select {
	case <-r.done:
		return nil
	case <-timeout.C:
		return fmt.Errorf(l.key+".output: %s is blocked; the new file follows when it is free", l.name)
	}
}

// Close writes what is buffered and closes a file. It waits for a blocked
// output up to 2 s, then gives up and says so. Lines written later are dropped.
func (l *AccessLog) Close() error {
	if l == nil {
		return nil
	}
	l.once.Do(func() {
		close(l.stop)
		if l.isFile {
			// Where the output can time out (a FIFO) this ends a blocked write;
			// where it cannot, the wait below is all there is. stdout and
			// stderr are not ours alone to limit.
			_ = l.out.Load().SetWriteDeadline(time.Now().Add(closeWait))
		}
	})
	select {
	case <-l.done:
		return l.closed
	case <-time.After(closeWait + closeWait/2):
		return fmt.Errorf(l.key+".output: %s is blocked; its last lines are lost", l.name)
	}
}

// run carries the buffers to the output until Close. spare is the one buffer
// that is not a shard's: it is exchanged for a full one, so that a writer
// never waits for the output.
func (l *AccessLog) run(spare []byte) {
	defer close(l.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	w := outputWriter{log: l}
	for {
		select {
		case <-tick.C:
		case <-l.wake:
		case r := <-l.reopen:
			spare = l.flush(&w, spare)
			old := l.out.Swap(r.file)
			w.torn = false
			if err := old.Close(); err != nil {
				w.complain(err)
			}
			close(r.done)
		case <-l.stop:
			for i := range l.shards {
				// Without a buffer a shard drops, and counts, every later line.
				w.write(l.shards[i].exchange(nil))
			}
			l.closed = w.err
			if l.isFile {
				l.closed = errors.Join(l.closed, l.out.Load().Close())
			}
			return
		}
		spare = l.flush(&w, spare)
		w.reportDrops()
	}
}

// flush writes what every shard holds and returns the buffer left over.
func (l *AccessLog) flush(w *outputWriter, spare []byte) []byte {
	for i := range l.shards {
		full := l.shards[i].exchange(spare)
		w.write(full)
		spare = full[:0]
	}
	return spare
}

// outputWriter is run's side of the output: it counts what the output refuses
// and keeps complaints rare.
type outputWriter struct {
	log      *AccessLog
	torn     bool  // the output ends within a line
	err      error // the last write's
	told     time.Time
	reported uint64
}

// write writes whole lines; those that do not get out whole are counted.
func (w *outputWriter) write(lines []byte) {
	if len(lines) == 0 {
		return
	}
	out := w.log.out.Load()
	if w.torn {
		// The rest of a line that failed midway must not swallow the next one.
		if _, err := out.Write([]byte{'\n'}); err != nil {
			w.fail(lines, err)
			return
		}
		w.torn = false
	}
	n, err := out.Write(lines)
	if err != nil {
		w.torn = n > 0 && lines[n-1] != '\n'
		w.fail(lines[n:], err)
		return
	}
	w.err = nil
}

func (w *outputWriter) fail(rest []byte, err error) {
	w.log.lost.Add(uint64(bytes.Count(rest, []byte{'\n'})))
	w.err = fmt.Errorf(w.log.key+".output: cannot write: %w", err)
	w.complain(err)
}

func (w *outputWriter) complain(err error) {
	if now := time.Now(); now.Sub(w.told) >= reportEvery {
		w.told = now
		w.log.self.Error().Err(err).Str("output", w.log.name).Msg(w.log.key + " cannot be written; lines are lost")
	}
}

// reportDrops tells the process's own log when lines were dropped since the
// last time it did.
func (w *outputWriter) reportDrops() {
	dropped := w.log.Dropped()
	if dropped == w.reported {
		return
	}
	if now := time.Now(); now.Sub(w.told) >= reportEvery {
		w.told = now
		w.log.self.Warn().Uint64("lines", dropped-w.reported).Str("output", w.log.name).
			Msg("log lines were dropped: the output is too slow, see " + w.log.key + ".buffer")
		w.reported = dropped
	}
}

// shard is one buffer of whole lines. Its lock is held for the copy of a line
// or the exchange of the buffer, never during output.
type shard struct {
	mu      sync.Mutex
	buf     []byte
	log     zerolog.Logger // writes to this shard
	wake    chan<- struct{}
	dropped atomic.Uint64
	_       [64]byte // keeps neighbours off this shard's cache line
}

// Write takes one line from zerolog. It reports no error: zerolog would print it.
func (s *shard) Write(line []byte) (int, error) {
	s.mu.Lock()
	before := len(s.buf)
	after := before + len(line)
	if after > cap(s.buf) {
		s.mu.Unlock()
		s.dropped.Add(1)
		return len(line), nil
	}
	s.buf = append(s.buf, line...)
	half := cap(s.buf) / 2
	s.mu.Unlock()
	if before < half && after >= half {
		select {
		case s.wake <- struct{}{}:
		default: // already awake
		}
	}
	return len(line), nil
}

// WriteLevel makes shard a zerolog.LevelWriter, which saves an adapter's call.
func (s *shard) WriteLevel(_ zerolog.Level, line []byte) (int, error) { return s.Write(line) }

// exchange gives the shard an empty buffer for its full one.
func (s *shard) exchange(empty []byte) (full []byte) {
	s.mu.Lock()
	full, s.buf = s.buf, empty
	s.mu.Unlock()
	return full
}

// scratchSize holds a line of ordinary length. Words that do not fit go straight to
// zerolog's own buffer, so it is not a bound.
const scratchSize = 1024

// encode writes r's line. Keys and order are documented at Record.
//
// zerolog escapes byte by byte, keys too, which for these two dozen members
// costs 0.8 us. So numbers, and words in which eight bytes at a time find
// nothing to escape, are laid out here and handed over as one raw run
// (0.35 us); the rest is zerolog's to escape.
func encode(e *zerolog.Event, r *Record) {
	var scratch [scratchSize]byte
	run := appendStamp(scratch[:0], r.Start)
	run = appendNumber(run, `,"status":`, int64(r.Status))
	run = appendNumber(run, `,"duration_us":`, r.Duration.Microseconds())
	run = appendNumber(run, `,"bytes_in":`, r.BytesIn)
	run = appendNumber(run, `,"bytes_out":`, r.BytesOut)
	if r.Upstream != "" {
		run = appendNumber(run, `,"upstream_status":`, int64(r.UpstreamStatus))
		run = appendNumber(run, `,"connect_us":`, r.Connect.Microseconds())
		run = appendNumber(run, `,"wait_us":`, r.Wait.Microseconds())
		run = appendNumber(run, `,"tries":`, int64(r.Tries))
		run = append(run, `,"reused":`...)
		run = strconv.AppendBool(run, r.Reused)
	}
	var client [maxAddr]byte
	words := [...]word{
		{`,"request_id":"`, borrow(r.RequestID), maxWord},
		{`,"client":"`, borrow(appendAddr(client[:0], r.Client)), maxWord},
		{`,"method":"`, borrow(r.Method), maxWord},
		{`,"scheme":"`, r.Scheme, maxWord},
		{`,"proto":"`, r.Proto, maxWord},
		{`,"host":"`, borrow(r.Host), maxWord},
		{`,"uri":"`, borrow(r.URI), maxURI},
		{`,"route":"`, r.Route, maxWord},
		{`,"upstream":"`, r.Upstream, maxWord},
		{`,"target":"`, r.Target, maxWord},
		{`,"authenticator":"`, r.Authenticator, maxWord},
		{`,"user":"`, r.User, maxWord},
		{`,"cache":"`, r.Cache, maxWord},
		{`,"flag":"`, r.Flag, maxWord},
		{`,"reason":"`, r.Reason, maxWord},
		{`,"user_agent":"`, borrow(r.UserAgent), maxUserAgent},
		{`,"referer":"`, borrow(r.Referer), maxReferer},
	}
	odd := 0 // bit i: words[i] is left to zerolog
	for i := range words {
		w := &words[i]
		switch {
		case w.value == "":
		case len(w.value) > w.limit, len(run)+len(w.lead)+len(w.value)+1 > len(scratch), !isPlain(w.value):
			odd |= 1 << i
		default:
			run = append(run, w.lead...)
			run = append(run, w.value...)
			run = append(run, '"')
		}
	}
	e.RawJSON("time", run)
	for ; odd != 0; odd &= odd - 1 {
		w := &words[bits.TrailingZeros(uint(odd))]
		key := w.lead[2 : len(w.lead)-3]
		if len(w.value) > w.limit {
			cut(e, key, w.value, w.limit)
			continue
		}
		e.Str(key, w.value)
	}
	e.Send()
}

// word is one member whose value is text: lead is what stands before the value.
type word struct {
	lead  string
	value string
	limit int
}

// borrow lends b as a string that is good as long as b is not changed.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func appendNumber(dst []byte, lead string, n int64) []byte {
	dst = append(dst, lead...)
	return strconv.AppendInt(dst, n, 10)
}

// maxAddr holds any IPv6 address without its zone.
const maxAddr = 48

// appendAddr leaves out the zone: it names an interface of this machine, and
// one that came in a header can be of any length.
func appendAddr(dst []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return dst
	}
	return a.Unmap().WithZone("").AppendTo(dst)
}

// isPlain reports whether s is printable ASCII without quote and backslash: the
// same in JSON as it is. Eight bytes are looked at together: a subtraction sets
// the top bit of a byte that is below the bound, and borrows from the next one
// only where it did.
func isPlain(s string) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(s) >= 8; s = s[8:] {
		x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		control := x - ones*0x20
		quote := (x ^ ones*'"') - ones
		backslash := (x ^ ones*'\\') - ones
		del := (x ^ ones*0x7f) - ones
		if (x|control|quote|backslash|del)&tops != 0 {
			return false
		}
	}
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// cut adds the first limit bytes of value and a mark. It is apart from encode
// so that only a long value pays for its buffer.
//
//go:noinline
func cut(e *zerolog.Event, key, value string, limit int) {
	var text [maxURI + len(cutMark)]byte
	// Do not split a character: it would come out as one that was never sent.
	end := limit
	for i := 0; i < utf8.UTFMax-1 && !utf8.RuneStart(value[end]); i++ {
		end--
	}
	n := copy(text[:], value[:end])
	n += copy(text[n:], cutMark)
	e.Bytes(key, text[:n])
}
