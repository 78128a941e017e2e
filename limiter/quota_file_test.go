package limiter

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.uber.org/goleak"

	"sluice/setting"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// A client of a cluster that is closed within five seconds of a look at the nodes sleeps them out.
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"))
}

// quotaFile returns a limit that was started with the file at path, and what
// it has reported.
func quotaFile(t *testing.T, path string, change func(*Config)) (*Limit, *[]string) {
	t.Helper()
	l := testQuota("100/month", nil, func(c *Config) {
		c.File, c.Save = path, setting.Duration(time.Hour)
		if change != nil {
			change(c)
		}
	})
	var told []string
	l.Start(func(err error) { told = append(told, err.Error()) })
	return l, &told
}

// Counts, and the seed that their keys are made with, outlive a process.
func TestQuotaFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quota")
	first, told := quotaFile(t, path, nil)
	who := &caller{address: "10.0.0.1"}
	key, _ := first.Key(who)
	first.Allow(key, 30, 1)
	for i := range 1000 {
		first.Allow(testKey(i), int64(1+i%50), 1)
	}
	first.Stop()
	first.Stop()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}

	// Another process has another seed until it reads the file.
	kept := seed
	seed = [2]uint64{1, 2}
	defer func() { seed = kept }()
	second, told2 := quotaFile(t, path, nil)
	defer second.Stop()
	if again, _ := second.Key(who); again != key {
		t.Error("the caller has another key")
	}
	if d := second.Allow(key, 0, 1); d.Remaining != 70 {
		t.Errorf("%+v", d)
	}
	for i := range 1000 {
		if d := second.Allow(testKey(i), 0, 1); d.Remaining != 99-int64(i%50) {
			t.Fatalf("key %d: %+v", i, d)
		}
	}
	if len(*told)+len(*told2) > 0 {
		t.Errorf("%q, %q", *told, *told2)
	}
	if names, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(names) != 1 {
		t.Errorf("left behind: %q", names)
	}
}

func TestQuotaFileAside(t *testing.T) {
	dir := t.TempDir()
	good := func(change func(*Config)) []byte {
		path := filepath.Join(dir, "good")
		os.Remove(path) //nolint:errcheck // it may not be there
		l, _ := quotaFile(t, path, change)
		l.Allow(7, 30, 1)
		l.Stop()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := good(nil)
	f := func(name string, b []byte, want string) {
		t.Helper()
		path := filepath.Join(dir, "quota")
		os.RemoveAll(path + ".aside") //nolint:errcheck // it may not be there
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, told := quotaFile(t, path, nil)
		defer l.Stop()
		if len(*told) != 1 || !strings.Contains((*told)[0], want) {
			t.Errorf("%s: %q, want %q", name, *told, want)
		}
		if d := l.Allow(7, 1, 1); !d.OK || d.Remaining != 99 {
			t.Errorf("%s: %+v", name, d)
		}
		if aside, _ := os.ReadFile(path + ".aside"); !bytes.Equal(aside, b) {
			t.Errorf("%s: it is not set aside", name)
		}
	}
	flipped := bytes.Clone(b)
	flipped[len(b)/2] ^= 1
	f("empty", nil, "damaged")
	f("text", []byte("hello, this is a text of some length, which is not what was expected here"), "damaged")
	f("cut", b[:len(b)-1], "damaged")
	f("one bit", flipped, "damaged")
	f("longer", append(bytes.Clone(b), 0), "damaged")
	f("another key", good(func(c *Config) { c.Key = "route" }), `it is of the key "route/64" and not of "ip/64"`)
	f("too large", append(make([]byte, (1<<20)*32+4<<10), 1), "larger than")
}

// Counts of a window that is over begin anew; the seed stays. One that begins
// later, as the clock has gone back, goes on.
func TestQuotaFileOfAnotherWindow(t *testing.T) {
	for _, c := range []struct {
		saved, loaded string
		left          int64
	}{
		{"2026-11-24T12:00:00Z", "2026-11-25T12:00:00Z", 10},
		{"2026-11-25T00:00:00Z", "2026-11-25T23:59:59Z", 3},
		{"2026-11-25T00:00:01Z", "2026-11-24T23:59:00Z", 3},
		{"2026-12-25T00:00:00Z", "2026-11-24T23:59:00Z", 10},
	} {
		path := filepath.Join(t.TempDir(), "quota")
		wall := date(t, c.saved)
		l := testQuota("10/day", &wall, nil)
		l.quota.seed = [2]uint64{3, 4}
		l.Allow(7, 7, 1)
		if err := l.quota.save(path, l.what()); err != nil {
			t.Fatal(err)
		}
		wall = date(t, c.loaded)
		l = testQuota("10/day", &wall, nil)
		if err := l.quota.load(path, l.what()); err != nil {
			t.Fatal(err)
		}
		if d := l.Allow(7, 0, 1); d.Remaining != c.left {
			t.Errorf("saved %s, loaded %s: %d left, want %d", c.saved, c.loaded, d.Remaining, c.left)
		}
		if l.quota.seed != [2]uint64{3, 4} {
			t.Error("the seed has not stayed")
		}
	}
}

// A file that cannot be written is told once, and written when it can be.
func TestQuotaFileCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	path := filepath.Join(dir, "quota")
	told := make(chan error, 10)
	l := testQuota("100/day", nil, func(c *Config) { c.File, c.Save = path, setting.Duration(time.Millisecond) })
	l.Allow(7, 1, 1)
	l.Start(func(err error) { told <- err })
	if err := <-told; !strings.Contains(err.Error(), "cannot write the quota file "+path) {
		t.Error(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l.Stop()
	if _, err := os.Stat(path); err != nil || len(told) > 0 {
		t.Errorf("%v, told %d times more", err, len(told))
	}
}

// A directory or a pipe is not moved, nor read.
func TestQuotaFileIsNone(t *testing.T) {
	path := t.TempDir()
	l, told := quotaFile(t, path, nil)
	l.Stop()
	if len(*told) != 1 || !strings.Contains((*told)[0], "not a regular file") {
		t.Errorf("%q", *told)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// A reload goes on with the counts in memory, whatever the file says.
func TestQuotaReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quota")
	old, _ := quotaFile(t, path, nil)
	old.Allow(7, 10, 1)
	c := old.Config()
	c.Quota = "200/month"
	next := New("t", c, old)
	next.Start(func(err error) { t.Error(err) })
	old.Stop()
	if d := next.Allow(7, 5, 1); d.Remaining != 185 || d.Limit != 200 {
		t.Errorf("%+v", d)
	}
	next.Stop()
	last, _ := quotaFile(t, path, nil)
	defer last.Stop()
	if d := last.Allow(7, 0, 1); d.Remaining != 85 {
		t.Errorf("%+v", d)
	}
}

// A file written while requests go on is whole, and says no more than was
// counted by then.
func TestQuotaSaveUnderLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quota")
	l := testQuota("1000000/day", nil, nil)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; !stop.Load(); i++ {
			l.Allow(testKey(i%1000), 1, 1)
		}
	}()
	for range 20 {
		if err := l.quota.save(path, l.what()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parseQuotaFile(b)
		if err != nil {
			t.Fatal(err)
		}
		var total uint64
		for at := 0; at < len(s.counts); at += 16 {
			_, n := s.pair(at)
			total += uint64(n)
		}
		if most := l.Stats().Allowed + 1; total > most {
			t.Fatalf("the file says %d, counted were %d", total, most)
		}
	}
	stop.Store(true)
	<-done
}

// Whatever a file holds, reading it ends well, and what is read is written
// again as it was.
func FuzzQuotaFile(f *testing.F) {
	l := testQuota("100/day", nil, nil)
	l.Allow(7, 5, 1)
	l.Allow(8, 1, 1)
	var b bytes.Buffer
	if err := writeQuota(&b, [2]uint64{1, 2}, "ip/64", l.quota.now.Load()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[:b.Len()-8])
	f.Add([]byte{})
	f.Add([]byte(quotaMagic))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := parseQuotaFile(body); err == nil && len(body) < 50 {
			t.Fatal("too short, and good")
		}
		// A right checksum, so that the rest is looked at.
		whole := binary.LittleEndian.AppendUint64(bytes.Clone(body), xxhash.Sum64(body))
		s, err := parseQuotaFile(whole)
		if err != nil {
			return
		}
		w := &window{from: s.from, to: s.to, groups: make([]quotaGroup, len(s.counts)/16+64)}
		var total int64
		for at := 0; at < len(s.counts); at += 16 {
			key, n := s.pair(at)
			if key == 0 || n < 0 {
				t.Fatalf("key %d, count %d", key, n)
			}
			if c := w.find(key, true); c != nil {
				c.Store(n)
			}
			total += n >> 20
		}
		var out bytes.Buffer
		if err := writeQuota(&out, s.seed, s.what, w); err != nil {
			t.Fatal(err)
		}
		again, err := parseQuotaFile(out.Bytes())
		if err != nil || again.seed != s.seed || again.what != s.what || again.from != s.from || again.to != s.to {
			t.Fatalf("%v: %+v became %+v", err, s, again)
		}
	})
}
