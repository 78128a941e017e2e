package listen

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/config"
)

// watched are doors whose looks at their files a test can wait for.
type watched struct {
	*Doors
	t      *testing.T
	log    *logged
	looked chan struct{}
}

func newWatched(t *testing.T, listeners ...config.Listener) *watched {
	t.Helper()
	w := &watched{t: t, log: new(logged), looked: make(chan struct{}, 1)}
	w.Doors = New(Options{HTTP1: echo{}, Log: zerolog.New(w.log).Level(zerolog.InfoLevel)})
	w.refreshed = func() {
		select {
		case w.looked <- struct{}{}:
		default:
		}
	}
	t.Cleanup(func() { ended(t, w.Doors) })
	must(t, w.Apply(listeners, server()))
	<-w.looked // Apply's own
	return w
}

// until waits, one look at the files after the other, until done.
func (w *watched) until(done func() bool) {
	w.t.Helper()
	end := time.After(patience)
	for !done() {
		select {
		case <-w.looked:
		case <-end:
			w.t.Fatalf("it did not happen; log: %s", w.log)
		}
	}
}

// replace puts content in place of file in one step.
func replace(t *testing.T, file string, content []byte) {
	t.Helper()
	must(t, os.WriteFile(file+".new", content, 0o600))
	must(t, os.Rename(file+".new", file))
}

func TestReloadUnderTraffic(t *testing.T) {
	a := newAuthority(t)
	files, n := a.files("a", "a.example")
	w := newWatched(t, tlsDoor(config.TLS{Cert: files.Cert, Key: files.Key}))
	addr := w.Addrs()[0]
	conf := &tls.Config{ServerName: "a.example", RootCAs: a.pool}
	lasting, err := shake(addr, conf)
	must(t, err)
	old := newClient(t, lasting)
	old.mustServe()

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := shake(addr, conf)
				if err != nil {
					t.Errorf("a handshake failed: %v", err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				if _, err := c.Write([]byte("x\n")); err != nil {
					t.Errorf("a write failed: %v", err)
				}
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Errorf("a read failed: %v", err)
				}
				_ = c.Close()
			}
		})
	}
	for range 3 {
		cert, key, next := a.issue("a.example")
		replace(t, files.Cert, cert)
		replace(t, files.Key, key)
		w.until(func() bool { return a.serial(addr, "a.example") == next })
		n = next
	}
	close(stop)
	wg.Wait()
	old.mustServe()
	if c := w.Stats().Certificates; len(c) != 1 || c[0].File != files.Cert || c[0].NotAfter.Before(time.Now()) {
		t.Errorf("certificates %+v", c)
	}
	if got := a.serial(addr, "a.example"); got != n {
		t.Errorf("certificate %d, want %d", got, n)
	}
}

func TestBrokenReloadKeepsOld(t *testing.T) {
	a := newAuthority(t)
	one, n1 := a.files("one", "one.example")
	two, _ := a.files("two", "two.example")
	w := newWatched(t, tlsDoor(config.TLS{Cert: one.Cert, Key: one.Key, Certificates: []config.Certificate{two}}))
	addr := w.Addrs()[0]

	replace(t, one.Key, []byte("-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----\n"))
	w.until(func() bool { return w.Stats().ReloadErrors == 1 })
	if got := a.serial(addr, "one.example"); got != n1 {
		t.Errorf("certificate %d, want %d", got, n1)
	}
	log := w.log.String()
	if strings.Count(log, "\n") != 1 || !strings.Contains(log, "one.key") || strings.Contains(log, "hush") {
		t.Errorf("log: %s", log)
	}
	// The other certificate is not held up by it, and the same mistake is
	// neither counted nor told of again.
	cert, key, n2 := a.issue("two.example")
	replace(t, two.Cert, cert)
	replace(t, two.Key, key)
	w.until(func() bool { return a.serial(addr, "two.example") == n2 })
	must(t, w.Apply([]config.Listener{tlsDoor(config.TLS{Cert: one.Cert, Key: one.Key, Certificates: []config.Certificate{two}})}, server()))
	if got := strings.Count(w.log.String(), "one.key"); got != 1 {
		t.Errorf("told %d times: %s", got, w.log)
	}
	must(t, os.Remove(one.Cert))
	w.until(func() bool { return strings.Contains(w.log.String(), "no such file") })
	cert, key, n3 := a.issue("one.example")
	replace(t, one.Cert, cert)
	replace(t, one.Key, key)
	w.until(func() bool { return a.serial(addr, "one.example") == n3 })
}

// TestReloadThroughLinks: a file is reached through links, as in a mounted
// secret, and it is a directory on the way that is put in place of another.
func TestReloadThroughLinks(t *testing.T) {
	a := newAuthority(t)
	root := t.TempDir()
	version := func(name string) int64 {
		dir := filepath.Join(root, name)
		must(t, os.Mkdir(dir, 0o700))
		cert, key, n := a.issue("a.example")
		must(t, os.WriteFile(filepath.Join(dir, "tls.crt"), cert, 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600))
		return n
	}
	point := func(to string) {
		must(t, os.Symlink(to, filepath.Join(root, "..tmp")))
		must(t, os.Rename(filepath.Join(root, "..tmp"), filepath.Join(root, "..data")))
	}
	version("..1")
	point("..1")
	mount := filepath.Join(root, "mount") // the links that the configuration names
	must(t, os.Mkdir(mount, 0o700))
	for _, f := range []string{"tls.crt", "tls.key"} {
		must(t, os.Symlink("../..data/"+f, filepath.Join(mount, f)))
	}
	w := newWatched(t, tlsDoor(config.TLS{Cert: filepath.Join(mount, "tls.crt"), Key: filepath.Join(mount, "tls.key")}))
	for _, name := range []string{"..2", "..3"} {
		n := version(name)
		point(name)
		w.until(func() bool { return a.serial(w.Addrs()[0], "a.example") == n })
	}
	if e := w.Stats().ReloadErrors; e != 0 {
		t.Errorf("%d reload errors: %s", e, w.log)
	}
}

func TestClientCAReload(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	files, _ := a.files("a", "a.example")
	ca := a.caFile()
	w := newWatched(t, tlsDoor(config.TLS{Cert: files.Cert, Key: files.Key, ClientCA: ca, ClientAuth: "require"}))
	admitted := func(c tls.Certificate) bool {
		conn, err := shake(w.Addrs()[0], &tls.Config{ServerName: "a.example", RootCAs: a.pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }})
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = conn.Write([]byte("x\n"))
		_, err = conn.Read(make([]byte, 1))
		return err == nil
	}
	ofA, ofB := a.pair(), b.pair()
	if !admitted(ofA) || admitted(ofB) {
		t.Fatal("before: expected a's client alone to be admitted")
	}
	replace(t, ca, encode("CERTIFICATE", b.cert.Raw))
	w.until(func() bool { return admitted(ofB) })
	if admitted(ofA) {
		t.Error("after: a's client is still admitted")
	}
}

func TestWayTo(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(root, "real/deep"), 0o700))
	must(t, os.WriteFile(filepath.Join(root, "real/deep/file"), nil, 0o600))
	must(t, os.Symlink("real", filepath.Join(root, "dir")))
	must(t, os.Symlink(root+"/dir/deep/../deep/file", filepath.Join(root, "link")))
	must(t, os.Symlink("loop", filepath.Join(root, "loop")))
	f := func(file string, want ...string) {
		t.Helper()
		var got []string
		for _, way := range wayTo(filepath.Join(root, file)) {
			rel, err := filepath.Rel(root, way)
			must(t, err)
			got = append(got, rel)
		}
		slices.Sort(got)
		got = slices.Compact(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
	f("real/deep/file", "real/deep/file")
	f("link", "dir", "link", "real/deep/file")
	f("missing", "missing")
	f("loop", "loop")
}
