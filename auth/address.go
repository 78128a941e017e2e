package auth

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gaissmai/bart"

	"sluice/setting"
)

// Addresses decides by the caller's address. Both lists are tries behind one
// atomic pointer: a request reads them without a lock, the watch of the files
// builds new ones aside and puts them in place whole. A file that cannot be read
// or holds a mistake changes nothing. All methods may be called from many
// goroutines.
type Addresses struct {
	config AddressConfig
	lists  atomic.Pointer[addressLists]

	start sync.Once
	mu    sync.Mutex     // guards the lists of files, each of which is watched for itself
	files []*addressFile // fixed once it is made
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
	}
	for _, f := range []*addressFile{{key: "allow_file", path: c.AllowFile}, {key: "deny_file", path: c.DenyFile}} {
		if f.path == "" {
			continue
		}
		var err error
		f.watchedFile, err = openWatched(f.path, "ip."+f.key, longestList, env.Log, func(text []byte) error { return a.read(f, text) })
		if err != nil {
			if !strings.HasPrefix(err.Error(), f.path) {
				err = fmt.Errorf("%s: %w", f.path, err)
			}
			return nil, &FieldError{Key: f.key, Err: err}
		}
		a.files = append(a.files, f)
	}
	lists, err := a.build()
	if err != nil {
		return nil, err
	}
	a.lists.Store(lists)
	return a, nil
}

// read puts the entries of a file in use.
func (a *Addresses) read(f *addressFile, text []byte) error {
	list, err := parseAddresses(text)
	if err != nil {
		return fmt.Errorf("%s:%w", f.path, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f.list = list
	if a.lists.Load() == nil {
		return nil // the first reading: all is built at its end
	}
	lists, err := a.build()
	if err != nil {
		return err
	}
	a.lists.Store(lists)
	return nil
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
	s := AddressStats{Allow: l.allow.Size(), Deny: l.deny.Size()}
	for _, f := range a.files {
		s.Reloaded += f.reloaded.Load()
		s.Failed += f.refused.Load()
	}
	return s
}

// Start begins to watch the files, if there are any. Only the first call counts.
func (a *Addresses) Start() {
	if a == nil {
		return
	}
	a.start.Do(func() {
		for _, f := range a.files {
			f.watchedFile.start()
		}
	})
}

// Stop ends what Start began. It does not wait.
func (a *Addresses) Stop() {
	if a == nil {
		return
	}
	for _, f := range a.files {
		f.stop()
	}
}

// addressFile is a file and what was read of it.
type addressFile struct {
	*watchedFile
	key, path string
	list      []netip.Prefix
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
