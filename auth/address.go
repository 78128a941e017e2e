package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gaissmai/bart"
	"github.com/rs/zerolog"

	"sluice/observe"
	"sluice/setting"
)

// Addresses decides by the caller's address. Both lists are tries behind one
// atomic pointer: a request reads them without a lock, the watch of the files
// builds new ones aside and puts them in place whole. A file that cannot be read
// or holds a mistake changes nothing. All methods may be called from many
// goroutines.
type Addresses struct {
	config AddressConfig
	log    zerolog.Logger
	lists  atomic.Pointer[addressLists]

	files   []*addressFile // what the watch follows
	every   time.Duration
	start   sync.Once
	stop    sync.Once
	quit    chan struct{}
	stopped chan struct{} // closed when the watch has ended
	looked  func()        // after each look, for tests

	reloaded, failed observe.Counter
}

// AddressConfig is the written form of Addresses.
type AddressConfig struct {
	Allow     []string `yaml:"allow" one:"true" doc:"Addresses and ranges that may pass, such as 10.0.0.0/8 or 2001:db8::1. With none and without allow_file, all that are not denied."`
	Deny      []string `yaml:"deny" one:"true" doc:"Addresses and ranges that may not pass, even when they are allowed."`
	AllowFile string   `yaml:"allow_file" doc:"A file of more of allow: an address or range a line; # and ; begin a comment. Read again when it changes."`
	DenyFile  string   `yaml:"deny_file" doc:"A file of more of deny."`
}

const (
	mostEntries         = 1_000_000
	longestList         = 64 << 20 // bytes of a file
	longestLine         = 1024     // bytes of a line
	mostAddressMistakes = 10       // of a file, that are told
	mostInline          = 4096     // entries of a list in the configuration
	addressPolling      = time.Second
)

// addressLists are the lists of one moment. They never change.
type addressLists struct {
	allow, deny bart.Lite
	listed      bool // only who is in allow passes
}

// Validate reports what the tags cannot say. It does not read files.
func (c *AddressConfig) Validate(p *setting.Problems) {
	if len(c.Allow)+len(c.Deny) == 0 && c.AllowFile == "" && c.DenyFile == "" {
		p.Add("", "expected at least one of allow, deny, allow_file, deny_file")
	}
	check := func(key string, list []string) {
		if len(list) > mostInline {
			p.Add(key, "expected at most %d entries, got %d; put them into a file, see %s_file", mostInline, len(list), key)
			return
		}
		for i, s := range list {
			if _, err := parseRange(s); err != nil {
				p.Add(entry(key, i), "%v", err)
			}
		}
	}
	check("allow", c.Allow)
	check("deny", c.Deny)
}

func (c *AddressConfig) equal(o *AddressConfig) bool {
	return slices.Equal(c.Allow, o.Allow) && slices.Equal(c.Deny, o.Deny) && c.AllowFile == o.AllowFile && c.DenyFile == o.DenyFile
}

// NewAddresses makes the lists of c, which has passed Validate. It returns old,
// with its watch and counters, when c is what old was made with; old may be nil. Files
// are read now; nothing runs before Start. Errors are *FieldError.
func NewAddresses(c *AddressConfig, old *Addresses, env Env) (*Addresses, error) {
	if old != nil && old.config.equal(c) {
		return old, nil
	}
	a := &Addresses{
		config: AddressConfig{Allow: slices.Clone(c.Allow), Deny: slices.Clone(c.Deny), AllowFile: c.AllowFile, DenyFile: c.DenyFile},
		log:    env.Log, every: addressPolling,
		quit: make(chan struct{}), stopped: make(chan struct{}),
	}
	for _, f := range []*addressFile{{key: "allow_file", path: c.AllowFile}, {key: "deny_file", path: c.DenyFile}} {
		if f.path == "" {
			continue
		}
		f.seen = look(f.path)
		list, err := readAddresses(f.path)
		if err != nil {
			return nil, &FieldError{Key: f.key, Err: err}
		}
		f.list, f.read = list, f.seen
		a.files = append(a.files, f)
	}
	lists, err := a.build()
	if err != nil {
		return nil, err
	}
	a.lists.Store(lists)
	return a, nil
}

// build makes lists of the configuration and of what was read of the files.
func (a *Addresses) build() (*addressLists, error) {
	l := &addressLists{listed: len(a.config.Allow) > 0 || a.config.AllowFile != ""}
	for _, list := range []struct {
		key   string
		texts []string
		table *bart.Lite
	}{{"allow", a.config.Allow, &l.allow}, {"deny", a.config.Deny, &l.deny}} {
		for i, s := range list.texts {
			p, err := parseRange(s)
			if err != nil {
				return nil, &FieldError{Key: entry(list.key, i), Err: err}
			}
			list.table.Insert(p)
		}
	}
	for _, f := range a.files {
		table := &l.allow
		if f.key == "deny_file" {
			table = &l.deny
		}
		for _, p := range f.list {
			table.Insert(p)
		}
	}
	return l, nil
}

// Allows tells whether addr may pass: not when it is denied; else, when there is
// a list of the allowed, only when it is on it. An IPv4 address in IPv6 form is
// the IPv4 address; zones do not count. What is no address may not pass. A nil
// Addresses lets everybody pass. It allocates nothing.
func (a *Addresses) Allows(addr netip.Addr) bool {
	if a == nil {
		return true
	}
	addr = plain(addr)
	l := a.lists.Load()
	return addr.IsValid() && !l.deny.Contains(addr) && (!l.listed || l.allow.Contains(addr))
}

// AddressStats is what Addresses shows and has counted.
type AddressStats struct {
	Allow    int    `json:"allow"` // ranges, each once
	Deny     int    `json:"deny"`
	Reloaded uint64 `json:"reloaded"` // files read again
	Failed   uint64 `json:"failed"`   // files that could not be, so that the list before stayed
}

// Stats returns the numbers of this moment.
func (a *Addresses) Stats() AddressStats {
	l := a.lists.Load()
	return AddressStats{Allow: l.allow.Size(), Deny: l.deny.Size(), Reloaded: a.reloaded.Load(), Failed: a.failed.Load()}
}

// Start begins to follow the files, if there are any. Only the first call counts.
func (a *Addresses) Start() {
	if a == nil || len(a.files) == 0 {
		return
	}
	a.start.Do(func() { go a.watch() })
}

// Stop ends what Start began. It does not wait.
func (a *Addresses) Stop() {
	if a != nil {
		a.stop.Do(func() { close(a.quit) })
	}
}

// watch looks at the files once in a while. A look is one system call a file,
// sees through symbolic links as the system does, and works on file systems
// that tell of no change.
func (a *Addresses) watch() {
	defer close(a.stopped)
	tick := time.NewTicker(a.every)
	defer tick.Stop()
	for {
		select {
		case <-a.quit:
			return
		case <-tick.C:
			a.refresh()
			if a.looked != nil {
				a.looked()
			}
		}
	}
}

// refresh reads the files that have changed and come to rest. Only watch may
// call it.
func (a *Addresses) refresh() {
	var changed []*addressFile
	for _, f := range a.files {
		now := look(f.path)
		if now == f.read || now != f.seen {
			// Unchanged, or maybe still being written: it rests when two looks
			// in a row see the same.
			f.seen = now
			continue
		}
		f.read = now
		list, err := readAddresses(f.path)
		if err != nil {
			a.failed.Inc()
			a.log.Error().Err(err).Msg("address list not reloaded, the one before stays in use")
			continue
		}
		f.list = list
		changed = append(changed, f)
	}
	if len(changed) == 0 {
		return
	}
	lists, err := a.build()
	if err != nil { // what passed once passes again
		a.log.Error().Err(err).Msg("address lists not rebuilt, those before stay in use")
		return
	}
	a.lists.Store(lists)
	for _, f := range changed {
		a.reloaded.Inc()
		a.log.Info().Str("file", f.path).Int("entries", len(f.list)).Msg("address list reloaded")
	}
}

// addressFile is a file and what was read of it.
type addressFile struct {
	key, path  string
	list       []netip.Prefix
	seen, read glance // at the last look, at the last read
}

// glance is what tells whether a file is another than before. Its zero value is
// a file that is not there.
type glance struct {
	device, inode uint64
	size          int64
	changed       int64 // nanoseconds
}

func look(path string) glance {
	info, err := os.Stat(path)
	if err != nil {
		return glance{}
	}
	g := glance{size: info.Size(), changed: info.ModTime().UnixNano()}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		g.device, g.inode = uint64(s.Dev), s.Ino
	}
	return g
}

// readAddresses reads a regular file within bounds. Anything else, which could
// block for ever, is refused.
func readAddresses(path string) ([]netip.Prefix, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: expected a regular file, got %s", path, info.Mode().Type())
	}
	content, err := io.ReadAll(io.LimitReader(f, longestList+1))
	if err != nil {
		return nil, err
	}
	if len(content) > longestList {
		return nil, fmt.Errorf("%s: expected a file of at most %d MiB", path, longestList>>20)
	}
	list, err := parseAddresses(content)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	return list, nil
}

// parseAddresses reads an address or range a line. # or ; and what follows is a
// comment. Its error holds the first mistakes, each begins with "line: ".
func parseAddresses(content []byte) ([]netip.Prefix, error) {
	var list []netip.Prefix
	var mistakes []string
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	for number := 1; len(content) > 0 && len(mistakes) < mostAddressMistakes; number++ {
		var line []byte
		line, content, _ = bytes.Cut(content, []byte{'\n'})
		if len(line) > longestLine {
			mistakes = append(mistakes, fmt.Sprintf("%d: expected lines of at most %d bytes", number, longestLine))
			continue
		}
		if i := bytes.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		p, err := parseRange(string(line))
		switch {
		case err != nil:
			mistakes = append(mistakes, fmt.Sprintf("%d: %v", number, err))
		case len(list) == mostEntries:
			return nil, fmt.Errorf("%d: expected at most %d entries", number, mostEntries)
		default:
			list = append(list, p)
		}
	}
	if len(mistakes) > 0 {
		return nil, errors.New(strings.Join(mistakes, "; "))
	}
	return list, nil
}

// plain is addr as the lists know it: an IPv4 address in IPv6 form is the IPv4
// address, and no zone.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// parseRange reads an address or a range. A range of which bits beyond its length
// are set is a mistake: it is unclear what was meant.
func parseRange(s string) (netip.Prefix, error) {
	const want = "expected an address or a range such as 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32"
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%s, without a zone, got %q", want, s)
		}
		addr = plain(addr)
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%s, got %q", want, s)
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("expected %s, the whole range, or %s, the address alone, got %q", m, p.Addr(), s)
	}
	// A range of IPv4 addresses in IPv6 form.
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}

// String says in words who may pass.
func (c *AddressConfig) String() string {
	var parts []string
	for _, list := range []struct {
		word    string
		entries []string
		file    string
	}{{"deny", c.Deny, c.DenyFile}, {"allow", c.Allow, c.AllowFile}} {
		entries := list.entries
		if list.file != "" {
			entries = append(entries[:len(entries):len(entries)], "those in "+list.file)
		}
		if len(entries) > 0 {
			parts = append(parts, list.word+" "+strings.Join(entries, ", "))
		}
	}
	return strings.Join(parts, "; ")
}
