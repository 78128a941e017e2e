package auth

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"sluice/setting"
)

func TestAddresses(t *testing.T) {
	f := func(c AddressConfig, allowed, denied []string) {
		t.Helper()
		a, err := NewAddresses(&c, nil, Env{})
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			return
		}
		for _, s := range allowed {
			if !a.Allows(netip.MustParseAddr(s)) {
				t.Errorf("%+v: expected %s to pass", c, s)
			}
		}
		for _, s := range denied {
			if a.Allows(netip.MustParseAddr(s)) {
				t.Errorf("%+v: expected %s not to pass", c, s)
			}
		}
		if a.Allows(netip.Addr{}) {
			t.Errorf("%+v: expected no address not to pass", c)
		}
	}
	l := func(s ...string) []string { return s }
	f(AddressConfig{Allow: l("10.0.0.0/8", "2001:db8::/32")}, l("10.0.0.0", "10.255.255.255", "2001:db8::1", "::ffff:10.1.1.1", "2001:db8::1%eth0"), l("11.0.0.0", "::1", "2001:db9::", "::ffff:11.0.0.0"))
	f(AddressConfig{Deny: l("10.0.0.0/8", "fe80::/10")}, l("11.0.0.0", "::1"), l("10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0"))
	// The denied stay so, however narrow what allows them.
	f(AddressConfig{Allow: l("10.1.2.3"), Deny: l("10.0.0.0/8")}, nil, l("10.1.2.3", "10.1.2.4", "1.1.1.1"))
	f(AddressConfig{Allow: l("10.0.0.0/8"), Deny: l("10.1.2.3")}, l("10.1.2.4"), l("10.1.2.3", "1.1.1.1"))
	f(AddressConfig{Allow: l("::ffff:10.0.0.0/104", "::ffff:1.2.3.4")}, l("10.9.9.9", "1.2.3.4"), l("11.0.0.1", "::10.0.0.1"))
	// Each family has its own whole.
	f(AddressConfig{Deny: l("0.0.0.0/0")}, l("::1"), l("1.1.1.1", "::ffff:1.1.1.1"))
	f(AddressConfig{Deny: l("::/0")}, l("1.1.1.1", "::ffff:1.1.1.1"), l("::1"))

	var none *Addresses
	if !none.Allows(netip.Addr{}) {
		t.Error("expected no lists to let everybody pass")
	}
	none.Start()
	none.Stop()
}

func TestAddressMistakes(t *testing.T) {
	f := func(c AddressConfig, want ...string) {
		t.Helper()
		var p setting.Problems
		c.Validate(&p)
		var got []string
		for _, problem := range p.List() {
			got = append(got, problem.Path+": "+problem.Expected)
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("expected %q, got %q", want, got)
		}
	}
	const want = "expected an address or a range such as 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32"
	f(AddressConfig{}, ": expected at least one of allow, deny, allow_file, deny_file")
	f(AddressConfig{DenyFile: "x"})
	f(AddressConfig{Allow: []string{"::1", "10.0.0.0/33", "x"}, Deny: []string{"10.0.0.1/8", "fe80::1%e", "all", "010.0.0.1", " ::1", "::1/-1"}},
		`allow[1]: `+want+`, got "10.0.0.0/33"`, `allow[2]: `+want+`, got "x"`,
		`deny[0]: expected 10.0.0.0/8, the whole range, or 10.0.0.1, the address alone, got "10.0.0.1/8"`,
		`deny[1]: `+want+`, without a zone, got "fe80::1%e"`, `deny[2]: `+want+`, got "all"`, `deny[3]: `+want+`, got "010.0.0.1"`,
		`deny[4]: `+want+`, got " ::1"`, `deny[5]: `+want+`, got "::1/-1"`)
	f(AddressConfig{Allow: make([]string, mostInline+1)}, "allow: expected at most 4096 entries, got 4097; put them into a file, see allow_file")

	dir := t.TempDir()
	g := func(content, want string) {
		t.Helper()
		path := filepath.Join(dir, "list")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := NewAddresses(&AddressConfig{AllowFile: path}, nil, Env{})
		if want = strings.ReplaceAll(want, "PATH", path); err == nil && want != "" || err != nil && err.Error() != want {
			t.Errorf("%q: expected %q, got %v", content, want, err)
		}
		var at *FieldError
		if err != nil && (!errors.As(err, &at) || at.Key != "allow_file") {
			t.Errorf("expected an error of allow_file, got %v", err)
		}
	}
	g("", "")
	g("\ufeff10.0.0.0/8\r\n# a comment\n\n ::1 # one\n1.2.3.0/24 ; SBL1\n2.2.2.2", "")
	g("::1\nx\n10.0.0.1/8", "allow_file: PATH:2: "+want+`, got "x"; 3: expected 10.0.0.0/8, the whole range, or 10.0.0.1, the address alone, got "10.0.0.1/8"`)
	g("::1\n"+strings.Repeat("x", 2000)+"\n::1", "allow_file: PATH:2: expected lines of at most 1024 bytes")
	if _, err := parseAddresses([]byte(strings.Repeat("x\n", 100))); strings.Count(err.Error(), "; ") != mostAddressMistakes-1 {
		t.Errorf("expected %d mistakes, got %v", mostAddressMistakes, err)
	}

	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, filepath.Join(dir, "none"), "/dev/zero"} {
		if _, err := NewAddresses(&AddressConfig{DenyFile: path}, nil, Env{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: expected an error with the path, got %v", path, err)
		}
	}
}

// looks has the watch look at each file, and not wait for it to rest.
func (a *Addresses) looks() {
	for _, f := range a.files {
		f.look(true)
	}
}

func TestAddressReload(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "10.0.0.1\n")
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	c := AddressConfig{Deny: []string{"10.0.0.9"}, DenyFile: link}
	a, err := NewAddresses(&c, nil, Env{Log: zerolog.New(&log)})
	if err != nil {
		t.Fatal(err)
	}
	f := func(denied string, reloaded, failed uint64) {
		t.Helper()
		a.looks()
		for _, s := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9"} {
			if want := s != denied && s != "10.0.0.9"; a.Allows(netip.MustParseAddr(s)) != want {
				t.Errorf("%s: expected %v", s, want)
			}
		}
		if got := a.Stats(); got != (AddressStats{Deny: 2, Reloaded: reloaded, Failed: failed}) {
			t.Errorf("got %+v", got)
		}
	}
	f("10.0.0.1", 0, 0)
	write(path, "10.0.0.22 # longer, still being written")
	a.files[0].look(false) // a file that moves is left alone
	write(path, "10.0.0.2")
	f("10.0.0.2", 1, 0)
	write(path, "10.0.0.3\nx")
	f("10.0.0.2", 1, 1)
	f("10.0.0.2", 1, 1) // told once
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f("10.0.0.2", 1, 2)
	f("10.0.0.2", 1, 2)
	write(filepath.Join(dir, "other"), "10.0.0.3")
	if err := errors.Join(os.Remove(link), os.Symlink("other", link)); err != nil {
		t.Fatal(err)
	}
	f("10.0.0.3", 2, 2)
	for _, want := range []string{"in use", `:2: expected an address`, "no such file", link} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("expected %q in the log, got %s", want, log.String())
		}
	}

	if same, err := NewAddresses(&AddressConfig{Deny: []string{"10.0.0.9"}, DenyFile: link}, a, Env{}); err != nil || same != a {
		t.Errorf("expected the same lists to be carried over, got %v", err)
	}
	if other, err := NewAddresses(&AddressConfig{DenyFile: link}, a, Env{}); err != nil || other == a {
		t.Errorf("expected others to be made anew, got %v", err)
	}
}

// The watch by itself, on a real clock.
func TestAddressWatch(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	path := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(path, []byte("10.0.0.1"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := NewAddresses(&AddressConfig{AllowFile: path}, nil, Env{})
	if err != nil {
		t.Fatal(err)
	}
	a.Start()
	a.Start()
	if err := os.WriteFile(path, []byte("10.0.0.2/32\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return a.Allows(netip.MustParseAddr("10.0.0.2")) })
	if a.Allows(netip.MustParseAddr("10.0.0.1")) {
		t.Error("expected the new list")
	}
	a.Stop()
	a.Stop()
}

// Lists and a plain walk over the entries say the same.
func FuzzAddresses(f *testing.F) {
	f.Add([]byte("10.0.0.0/8\n# x\n::1 ; y\n"), "10.1.1.1")
	f.Add([]byte("::ffff:1.2.3.0/120\r\n0.0.0.0/0"), "::ffff:1.2.3.4")
	f.Add([]byte("\ufefffe80::/10"), "fe80::1%x")
	f.Add([]byte("10.0.0.1/8"), "")
	f.Fuzz(func(t *testing.T, content []byte, text string) {
		list, err := parseAddresses(content)
		if err != nil {
			return
		}
		a := &Addresses{files: []*addressFile{{key: "allow_file", list: list}}, config: AddressConfig{AllowFile: "x"}}
		lists, err := a.build()
		if err != nil {
			t.Fatal(err)
		}
		a.lists.Store(lists)
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return
		}
		want := false
		for _, p := range list {
			want = want || p.Contains(plain(addr))
		}
		if got := a.Allows(addr); got != want {
			t.Errorf("%s in %v: expected %v, got %v", addr, list, want, got)
		}
	})
}
