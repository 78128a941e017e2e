package observe

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

func openLog(t *testing.T, path string, sample, buffer int) *AccessLog {
	t.Helper()
	l, err := OpenAccessLog(AccessConfig{Enabled: true, Output: path, Sample: sample, Buffer: buffer}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t *testing.T, l *AccessLog) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		return nil
	}
	text, whole := strings.CutSuffix(string(b), "\n")
	if !whole {
		t.Fatalf("%s ends within a line", path)
	}
	return strings.Split(text, "\n")
}

// lineOf is the line that r is logged as.
func lineOf(t testing.TB, r *Record) string {
	t.Helper()
	var b bytes.Buffer
	log := zerolog.New(&b)
	encode(log.Log(), r)
	line, whole := strings.CutSuffix(b.String(), "\n")
	if !whole || strings.Contains(line, "\n") {
		t.Fatalf("expected one line, got %q", b.String())
	}
	return line
}

func TestRecordLine(t *testing.T) {
	f := func(change func(*Record), want string) {
		t.Helper()
		r := sampleRecord()
		change(r)
		if got := lineOf(t, r); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
	f(func(*Record) {}, `{"time":"2026-11-25T01:02:03.004Z","status":200,"duration_us":1234,"bytes_in":0,"bytes_out":1024,`+
		`"upstream_status":200,"connect_us":0,"wait_us":987,"tries":1,"reused":true,`+
		`"request_id":"0123456789abcdef0123456789abcdef","client":"192.0.2.17","method":"GET","scheme":"https","proto":"HTTP/1.1",`+
		`"host":"api.example.com","uri":"/users/1234?expand=orders","route":"user","upstream":"users","target":"10.0.0.11:9000",`+
		`"user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"}`)
	f(func(r *Record) { *r = Record{} },
		`{"time":"1970-01-01T00:00:00.000Z","status":0,"duration_us":0,"bytes_in":0,"bytes_out":0}`)
	f(func(r *Record) {
		*r = Record{Client: netip.MustParseAddr("::ffff:192.0.2.1"), Flag: "connect", Referer: []byte("a\"b\xff\x1b")}
	},
		`{"time":"1970-01-01T00:00:00.000Z","status":0,"duration_us":0,"bytes_in":0,"bytes_out":0,"client":"192.0.2.1","flag":"connect","referer":"a\"b\ufffd\u001b"}`)
	f(func(r *Record) { *r = Record{Client: netip.MustParseAddr("fe80::1%eth0\"")} },
		`{"time":"1970-01-01T00:00:00.000Z","status":0,"duration_us":0,"bytes_in":0,"bytes_out":0,"client":"fe80::1"}`)
}

func TestRecordIsBounded(t *testing.T) {
	huge := bytes.Repeat([]byte("\x01"), 100_000)
	r := sampleRecord()
	r.RequestID, r.Method, r.Host, r.URI, r.UserAgent, r.Referer = huge, huge, huge, huge, huge, huge
	r.Scheme, r.Proto, r.Route, r.Upstream, r.Target, r.Flag = string(huge), string(huge), string(huge), string(huge), string(huge), string(huge)
	if n := len(lineOf(t, r)); n > minShard/2 {
		t.Errorf("expected every line to fit a shard of %d bytes twice, got %d", minShard, n)
	}

	f := func(uri string, want string) {
		t.Helper()
		var line struct{ URI string }
		if err := json.Unmarshal([]byte(lineOf(t, &Record{URI: []byte(uri)})), &line); err != nil {
			t.Fatal(err)
		}
		if line.URI != want {
			t.Errorf("uri of %d bytes: expected %d bytes ending in %q, got %d ending in %q",
				len(uri), len(want), want[len(want)-8:], len(line.URI), line.URI[len(line.URI)-8:])
		}
	}
	a := strings.Repeat("a", maxURI)
	f(a, a)
	f(a+"b", a+"...")
	f(a[:maxURI-1]+"é", a[:maxURI-1]+"...") // not half of é
}

func TestStamp(t *testing.T) {
	f := func(at time.Time) {
		t.Helper()
		want := at.UTC().Format(`"2006-01-02T15:04:05.000Z"`)
		if got := string(appendStamp(nil, at)); got != want {
			t.Errorf("expected %s, got %s", want, got)
		}
	}
	at := time.Unix(0, 0)
	for at.Year() < 2110 {
		f(at)
		at = at.Add(1_234_567_891 * time.Millisecond)
	}
	midnight := time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC)
	f(midnight)
	f(midnight.Add(-1)) // the day before, while the new date is kept
	f(midnight.In(time.FixedZone("east", 5*3600)))
	f(time.Unix(253402300799, 999_999_999))
}

func TestIsPlain(t *testing.T) {
	for c := range 256 {
		want := c >= 0x20 && c < 0x7f && c != '"' && c != '\\'
		for at := range 19 {
			for _, around := range "a~ #!" {
				b := bytes.Repeat([]byte{byte(around)}, 19)
				b[at] = byte(c)
				if got := isPlain(string(b)); got != want {
					t.Fatalf("byte %#x at %d of %q: expected %v, got %v", c, at, b, want, got)
				}
			}
		}
	}
}

func TestAccessLogIsWrittenWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := openLog(t, path, 1, 16)
	const writers, each = 8, 500
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				r := sampleRecord()
				r.Shard = uint32(w)
				r.URI = fmt.Appendf(nil, "/%d/%d", w, i)
				l.Write(r)
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	closeLog(t, l) // again, to the same effect
	seen := make(map[string]bool)
	for _, text := range readLines(t, path) {
		var line struct{ URI string }
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		seen[line.URI] = true
	}
	if len(seen) != writers*each || l.Dropped() != 0 {
		t.Errorf("expected %d different lines and none dropped, got %d and %d", writers*each, len(seen), l.Dropped())
	}
	l.Write(sampleRecord())
	if l.Dropped() != 1 {
		t.Errorf("expected a line after Close to be counted, got %d", l.Dropped())
	}
}

func TestNilAccessLog(t *testing.T) {
	l, err := OpenAccessLog(AccessConfig{}, zerolog.Nop())
	if l != nil || err != nil {
		t.Fatalf("expected no log and no error, got %v, %v", l, err)
	}
	l.Write(sampleRecord())
	if err := errors.Join(l.Reopen(), l.Close()); err != nil || l.Dropped() != 0 {
		t.Errorf("expected nothing, got %v and %d dropped", err, l.Dropped())
	}
}

func TestOpenAccessLogMistakes(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(cfg AccessConfig, want string) {
		t.Helper()
		cfg.Enabled = true
		_, err := OpenAccessLog(cfg, zerolog.Nop())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
	f(AccessConfig{Output: "stdout", Buffer: 1}, "log.access: expected sample of at least 1")
	f(AccessConfig{Output: "stdout", Sample: 1}, "buffer from 1 to 1024")
	f(AccessConfig{Sample: 1, Buffer: 1}, "log.access.output: expected stdout, stderr or a file")
	f(AccessConfig{Output: filepath.Join(dir, "none", "a.log"), Sample: 1, Buffer: 1}, "no such file or directory")
	f(AccessConfig{Output: fifo, Sample: 1, Buffer: 1}, "no such device") // nobody reads it
}

func TestSampling(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := openLog(t, path, 4, 16)
	const fine, failed = 8000, 300
	for range fine {
		l.Write(&Record{Status: 404})
	}
	for range failed {
		l.Write(&Record{Status: 502})
	}
	closeLog(t, l)
	kept := map[bool]int{}
	for _, line := range readLines(t, path) {
		kept[strings.Contains(line, `"status":502`)]++
	}
	if kept[true] != failed {
		t.Errorf("expected all %d failures, got %d", failed, kept[true])
	}
	// 2000 are expected; 400 is ten standard deviations.
	if kept[false] < 1600 || kept[false] > 2400 {
		t.Errorf("expected about %d of %d lines, got %d", fine/4, fine, kept[false])
	}
}

// A FIFO that is open but not read takes 64 KiB and then blocks its writer.
func TestBlockedOutputDropsAndCounts(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	l := openLog(t, fifo, 1, 1)
	const lines = 20_000 // ten times what all buffers hold
	for i := range lines {
		r := sampleRecord()
		r.Shard = uint32(i)
		l.Write(r) // the test hangs here if this waits
	}
	if l.Dropped() == 0 {
		t.Fatal("expected lines to be dropped, got none")
	}

	// Once someone reads, what was kept comes out whole and adds up.
	got := make(chan int)
	go func() {
		n := 0
		scan := bufio.NewScanner(reader)
		for scan.Scan() && scan.Text() != "end" {
			if !json.Valid(scan.Bytes()) {
				t.Errorf("expected JSON, got %q", scan.Text())
			}
			n++
		}
		got <- n
	}()
	closeLog(t, l)
	if _, err := reader.WriteString("end\n"); err != nil {
		t.Fatal(err)
	}
	if n := <-got; uint64(n)+l.Dropped() != lines {
		t.Errorf("expected written and dropped to be %d, got %d and %d", lines, n, l.Dropped())
	}
}

func TestCloseGivesUpOnABlockedOutput(t *testing.T) {
	if testing.Short() {
		t.Skip("waits out a timeout")
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	l := openLog(t, fifo, 1, 1)
	const lines = 2000
	for range lines {
		l.Write(sampleRecord())
	}
	if err := l.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("expected Close to say that the output timed out, got %v", err)
	}
	if l.Dropped() == 0 {
		t.Error("expected the lines lost to be counted")
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	path, moved := filepath.Join(dir, "access.log"), filepath.Join(dir, "access.log.1")
	l := openLog(t, path, 1, 1)
	l.Write(&Record{Route: "before"})
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Write(&Record{Route: "after"})

	// The directory is gone: the file in use stays in use.
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("expected no such file, got %v", err)
	}
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	l.Write(&Record{Route: "still"})
	closeLog(t, l)
	f := func(path string, routes ...string) {
		t.Helper()
		lines := readLines(t, path)
		if len(lines) != len(routes) {
			t.Fatalf("%s: expected %v, got %q", path, routes, lines)
		}
		for i, route := range routes {
			if !strings.Contains(lines[i], `"route":"`+route+`"`) {
				t.Errorf("%s: expected route %s, got %s", path, route, lines[i])
			}
		}
	}
	f(moved, "before")
	f(path, "after", "still")
	if err := l.Reopen(); err == nil {
		t.Error("expected Reopen after Close to be an error")
	}
}

// A full disk may take half of a line. The next line must not be glued to it.
func TestTornLine(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l := &AccessLog{self: zerolog.Nop()}
	l.out.Store(w)
	out := outputWriter{log: l, torn: true, err: syscall.ENOSPC}
	out.write([]byte("{}\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 16)
	n, err := r.Read(got)
	if err != nil || string(got[:n]) != "\n" {
		// Both writes may come in one read.
		if err != nil || string(got[:n]) != "\n{}\n" {
			t.Errorf("expected the torn line to be ended first, got %q, %v", got[:n], err)
		}
	}
	if out.torn || out.err != nil {
		t.Errorf("expected the output to be well again, got %+v", out)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	out.write([]byte("{}\n{}\n"))
	if l.Dropped() != 2 || out.err == nil {
		t.Errorf("expected 2 lines lost on a closed output, got %d, %v", l.Dropped(), out.err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte("0123"), []byte("GET"), []byte("example.com"), []byte("/a?b"), []byte("curl/8"), []byte(""), "user", "", byte(0))
	f.Add([]byte("\xff\xfe"), []byte("\x00"), []byte("\""), []byte("\\\\"), []byte("\u2028"), []byte("\xed\xa0\x80"), "\n", "\x7f", byte(3))
	f.Add([]byte("é"), []byte{}, []byte{}, []byte("a€b0123456789"), []byte("\""), []byte("a"), "r", "f", byte(255))
	f.Fuzz(func(t *testing.T, id, method, host, uri, agent, referer []byte, route, flag string, times byte) {
		// Long values by repetition: short inputs keep the fuzzer fast.
		uri, agent = bytes.Repeat(uri, 1+int(times)), bytes.Repeat(agent, 1+int(times))
		r := &Record{RequestID: id, Method: method, Host: host, URI: uri, UserAgent: agent, Referer: referer, Route: route, Upstream: route, Target: flag, Flag: flag}
		line := lineOf(t, r)
		if !json.Valid([]byte(line)) || !utf8.ValidString(line) {
			t.Fatalf("expected valid JSON in UTF-8, got %q", line)
		}
		var got struct {
			URI   string
			Route string
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if len(uri) <= maxURI && utf8.Valid(uri) && got.URI != string(uri) {
			t.Fatalf("expected uri %q, got %q", uri, got.URI)
		}
		if len(line) > minShard/2 {
			t.Fatalf("expected a bounded line, got %d bytes", len(line))
		}
	})
}
