package limiter

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"
)

// The file of a quota, all numbers little-endian:
//
//	magic       8 bytes, "sluiceQ1"
//	seed        2 x 8 bytes: keys are sums under it, so it must last as long as they do
//	from, to    2 x 8 bytes: the window, Unix seconds
//	what        2 bytes of length, and what keys are made of
//	key, count  2 x 8 bytes each; a key is not 0
//	end         8 bytes of 0
//	checksum    8 bytes, XXH64 of all before
//
// It is written beside its place and moved there, so that a reader sees a whole
// one whenever the writer dies. Nobody but its owner may read it: who knows the
// seed can choose keys that share a budget.
const (
	quotaMagic   = "sluiceQ1"
	mostQuotaKey = 2 << 10 // bytes of what
)

// quotaState is what the file says.
type quotaState struct {
	seed     [2]uint64
	from, to int64
	what     string
	counts   []byte // pairs of 8 bytes
}

// what keys of l are made of: under another the same sums mean other callers.
func (l *Limit) what() string { return l.cfg.Key + "/" + strconv.Itoa(l.cfg.IPv6Prefix) }

var errDamaged = errors.New("it is damaged")

// parseQuotaFile reads a file. It keeps b.
func parseQuotaFile(b []byte) (s quotaState, err error) {
	const head = len(quotaMagic) + 4*8 + 2
	if len(b) < head+2*8 || string(b[:len(quotaMagic)]) != quotaMagic {
		return s, errDamaged
	}
	body, sum := b[:len(b)-8], binary.LittleEndian.Uint64(b[len(b)-8:])
	if xxhash.Sum64(body) != sum {
		return s, errDamaged
	}
	rest := body[len(quotaMagic):]
	word := func() uint64 {
		w := binary.LittleEndian.Uint64(rest)
		rest = rest[8:]
		return w
	}
	s.seed = [2]uint64{word(), word()}
	s.from, s.to = int64(word()), int64(word())
	n := int(binary.LittleEndian.Uint16(rest))
	rest = rest[2:]
	if n > mostQuotaKey || len(rest) < n+8 || (len(rest)-n)%16 != 8 || s.from >= s.to || s.to-s.from > 40*24*3600 {
		return s, errDamaged
	}
	s.what = string(rest[:n])
	s.counts = rest[n : len(rest)-8]
	for at := 0; at < len(s.counts); at += 16 {
		key, count := s.pair(at)
		if key == 0 || count < 0 {
			return s, errDamaged
		}
	}
	if rest = rest[len(rest)-8:]; word() != 0 {
		return s, errDamaged
	}
	return s, nil
}

func (s *quotaState) pair(at int) (key uint64, count int64) {
	return binary.LittleEndian.Uint64(s.counts[at:]), int64(binary.LittleEndian.Uint64(s.counts[at+8:]))
}

// writeQuota writes the counts of w, those that are not 0, while requests go on
// changing them.
func writeQuota(to io.Writer, seed [2]uint64, what string, w *window) error {
	sum := xxhash.New()
	out := bufio.NewWriterSize(io.MultiWriter(to, sum), 64<<10)
	var b [16]byte
	put := func(words ...uint64) {
		for _, word := range words {
			binary.LittleEndian.PutUint64(b[:], word)
			out.Write(b[:8]) //nolint:errcheck // Flush tells
		}
	}
	out.WriteString(quotaMagic) //nolint:errcheck // Flush tells
	put(seed[0], seed[1], uint64(w.from), uint64(w.to))
	binary.LittleEndian.PutUint16(b[:], uint16(len(what)))
	out.Write(b[:2])      //nolint:errcheck // Flush tells
	out.WriteString(what) //nolint:errcheck // Flush tells
	for i := range w.groups {
		g := &w.groups[i]
		for j := range g.key {
			if n := g.count[j].Load(); n > 0 {
				binary.LittleEndian.PutUint64(b[:], g.key[j].Load())
				binary.LittleEndian.PutUint64(b[8:], uint64(n))
				out.Write(b[:]) //nolint:errcheck // Flush tells
			}
		}
	}
	put(0)
	if err := out.Flush(); err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(b[:], sum.Sum64())
	_, err := to.Write(b[:8])
	return err
}

// load takes over what path holds: the seed, and the counts if they are of a
// window that is not over. It returns what the user should know. The quota is
// good for use whatever it returns.
func (q *quota) load(path, what string) error {
	q.file.Lock()
	defer q.file.Unlock()
	if q.settled {
		return nil
	}
	q.settled = true
	b, err := readQuotaFile(path, q.keys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s quotaState
	if err == nil {
		s, err = parseQuotaFile(b)
		if err == nil && s.what != what {
			err = fmt.Errorf("it is of the key %q and not of %q", s.what, what)
		}
	}
	if err != nil {
		if info, _ := os.Stat(path); info != nil && !info.Mode().IsRegular() {
			return fmt.Errorf("cannot read the quota file %s: %w; all counts begin at 0", path, err)
		}
		aside := path + ".aside"
		if moved := os.Rename(path, aside); moved != nil {
			return fmt.Errorf("cannot read the quota file %s: %w; all counts begin at 0, and it could not be set aside: %w", path, err, moved)
		}
		return fmt.Errorf("cannot read the quota file %s: %w; all counts begin at 0, and it is kept as %s", path, err, aside)
	}
	q.seed = s.seed
	w := q.now.Load()
	switch length := w.to - w.from; {
	case s.from == w.from && s.to == w.to:
	case s.from > w.from && s.from-w.from <= length:
		// The clock has gone back since: stay in the later window.
		w = &window{from: s.from, to: s.to, groups: w.groups}
	default:
		return nil
	}
	lost := 0
	for at := 0; at < len(s.counts); at += 16 {
		key, n := s.pair(at)
		if c := w.find(key, true); c != nil {
			c.Store(n)
		} else {
			lost++
		}
	}
	q.now.Store(w)
	if lost > 0 {
		return fmt.Errorf("the quota file %s has more keys than the limit has room for: %d of them begin at 0", path, lost)
	}
	return nil
}

// settle keeps a file from being loaded over counts that are in use.
func (q *quota) settle() {
	q.file.Lock()
	q.settled = true
	q.file.Unlock()
}

// readQuotaFile reads a file of at most twice the keys that the limit is made
// for, which is what its table can have held.
func readQuotaFile(path string, keys int) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file") // a pipe would block
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	// keys may have been more when it was written.
	most := int64(max(keys, 1<<20))*2*16 + 4<<10
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("it is larger than %d bytes", most)
	}
	return b, err
}

// save writes the counts to path. It may block as long as the disk does.
func (q *quota) save(path, what string) (err error) {
	q.file.Lock()
	defer q.file.Unlock()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name()) //nolint:errcheck // err says more
		}
	}()
	err = writeQuota(f, q.seed, what, q.now.Load())
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// saver writes the file of a quota from Start to Stop.
type saver struct{ stop, done chan struct{} }

// Start reads the file of a quota and begins to keep it; it does nothing for any
// other limit. It is called once, before the limit is first asked and, on a
// reload, before the old limit is stopped. It blocks as long as the disk does.
// What the user should know is given to report, by Start or later by another
// goroutine: a file that cannot be used, and is set aside; that it cannot be
// written, once until it can again. The limit works regardless.
func (l *Limit) Start(report func(error)) {
	if l.quota == nil || l.cfg.File == "" || l.saver != nil {
		return
	}
	if err := l.quota.load(l.cfg.File, l.what()); err != nil {
		report(err)
	}
	s := &saver{stop: make(chan struct{}), done: make(chan struct{})}
	l.saver = s
	go func() {
		defer close(s.done)
		tick := time.NewTicker(max(l.cfg.Save.Std(), 100*time.Millisecond))
		defer tick.Stop()
		var saved Stats
		failing := false
		save := func() {
			// Without a decision there is nothing new. Counts are read before
			// the table is, so that none is missed.
			stats := l.Stats()
			if stats == saved && !failing {
				return
			}
			if err := l.quota.save(l.cfg.File, l.what()); err != nil {
				if !failing {
					report(fmt.Errorf("cannot write the quota file %s: %w; counts are kept in memory, and it is tried again every %s", l.cfg.File, err, l.cfg.Save))
				}
				failing = true
				return
			}
			saved, failing = stats, false
		}
		for {
			select {
			case <-tick.C:
				save()
			case <-s.stop:
				save()
				return
			}
		}
	}()
}

// Stop ends what Start began and writes the file a last time. It blocks as long
// as the disk does. The limit can still be asked afterwards; what is counted
// then is in memory only.
func (l *Limit) Stop() {
	if l.saver == nil {
		return
	}
	close(l.saver.stop)
	<-l.saver.done
	l.saver = nil
}
