package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A keys file is edited as text, so that comments, order and layout stay as
// people wrote them. What came out is then read again, and must say exactly what
// the edit was to make of it, before it replaces the file: a layout that the
// edit does not understand is an error and not a broken file.
//
// The file is replaced by rename, in one step for whoever reads it, with its mode
// and owner kept. A lock on its folder keeps two edits from losing one another.

// lockWait is how long an edit waits for another one.
const lockWait = 5 * time.Second

// keyEdit changes the lines of a keys file.
type keyEdit struct {
	lines  []string // with their line ends
	keys   []keyEntry
	starts []int // the line, from 1, in which each key begins
}

// editKeys changes the keys file at path by edit, which changes lines, and keys
// to what they must then say. create lets the file be made.
func editKeys(path string, create bool, edit func(*keyEdit) error) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, reasonOf(err))
	}
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	info, err := os.Stat(path)
	var text []byte
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
		text = []byte("# API keys by their hashes, see sluice key --help.\n")
	case err != nil:
		return fmt.Errorf("%s: %w", path, reasonOf(err))
	default:
		if text, _, err = readRegular(path, mostKeyFile); err != nil {
			return located(path, err)
		}
	}
	e := &keyEdit{lines: slices.Collect(strings.Lines(string(text)))}
	if e.keys, e.starts, err = readKeys(path, text); err != nil {
		return err
	}
	if len(e.keys) > 0 && e.starts == nil {
		return fmt.Errorf("%s: expected a list with a dash before each key, one that is written in brackets must be edited by hand", path)
	}
	if err := edit(e); err != nil {
		return located(path, err)
	}
	changed := []byte(strings.Join(e.lines, ""))
	if len(changed) > mostKeyFile {
		return fmt.Errorf("%s: expected a file of at most %s", path, sizeText(mostKeyFile))
	}
	if got, err := parseKeys(path, changed); err != nil || !sameKeys(got, e.keys) {
		return fmt.Errorf("%s: the way in which the file is written is not understood well enough to change it; edit it by hand", path)
	}
	return replaceFile(path, changed, info)
}

func located(path string, err error) error {
	var m *fileMistakes
	if errors.As(err, &m) {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

func sameKeys(a, b []keyEntry) bool {
	return slices.EqualFunc(a, b, func(a, b keyEntry) bool {
		a.line, b.line = 0, 0
		sameTime := a.expires.Equal(b.expires)
		a.expires, b.expires = time.Time{}, time.Time{}
		empty := func(k *keyEntry) {
			if len(k.metadata) == 0 {
				k.metadata = nil
			}
			if len(k.limits) == 0 {
				k.limits = nil
			}
			if len(k.scopes) == 0 {
				k.scopes = nil
			}
		}
		empty(&a)
		empty(&b)
		return sameTime && reflect.DeepEqual(a, b)
	})
}

// add appends k, which expires as the text expires says.
func (e *keyEdit) add(k keyEntry, hash, expires string) error {
	for i := range e.keys {
		if e.keys[i].name == k.name {
			return fmt.Errorf("expected a new name, got %q, which is that of the key in line %d", k.name, e.starts[i])
		}
		if e.keys[i].hash == k.hash {
			return fmt.Errorf("expected a new key, got that of line %d", e.starts[i])
		}
	}
	indent := ""
	if len(e.starts) > 0 {
		first := e.lines[e.starts[0]-1]
		indent = first[:len(first)-len(strings.TrimLeft(first, " "))]
	}
	if n := len(e.lines); n > 0 && !strings.HasSuffix(e.lines[n-1], "\n") {
		e.lines[n-1] += "\n"
	}
	line := func(format string, args ...any) {
		e.lines = append(e.lines, indent+fmt.Sprintf(format, args...)+"\n")
	}
	line("- name: %s", word(k.name))
	line("  hash: %s", hash)
	if len(k.scopes) > 0 {
		words := make([]string, len(k.scopes))
		for i, s := range k.scopes {
			words[i] = word(s)
		}
		line("  scopes: [%s]", strings.Join(words, ", "))
	}
	if len(k.metadata) > 0 {
		line("  metadata:")
		for _, name := range slices.Sorted(maps.Keys(k.metadata)) {
			line("    %s: %s", word(name), word(fmt.Sprint(k.metadata[name])))
		}
	}
	if len(k.limits) > 0 {
		line("  limits:")
		for _, name := range slices.Sorted(maps.Keys(k.limits)) {
			line("    %s: %s", word(name), k.limits[name])
		}
	}
	if expires != "" {
		line("  expires: %s", expires)
	}
	e.keys = append(e.keys, k)
	return nil
}

var (
	bareWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)
	yamlWord = regexp.MustCompile(`(?i)^(true|false|null|yes|no|on|off|y|n)$`)
)

// word writes a text in YAML, with quotes where they are needed.
func word(s string) string {
	if bareWord.MatchString(s) && !yamlWord.MatchString(s) {
		return s
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s)
	return strings.TrimSuffix(b.String(), "\n")
}

// find returns which key is called name.
func (e *keyEdit) find(name string) (int, error) {
	names := make([]string, len(e.keys))
	for i := range e.keys {
		if names[i] = e.keys[i].name; names[i] == name {
			return i, nil
		}
	}
	return 0, unknownKey(name, names)
}

// lines of key i: from up to, not with, to. Blank lines and comments after it
// are not its own.
func (e *keyEdit) extent(i int) (from, to int) {
	from, to = e.starts[i]-1, len(e.lines)
	if i+1 < len(e.starts) {
		to = e.starts[i+1] - 1
	}
	for to > from+1 {
		if s := strings.TrimSpace(e.lines[to-1]); s != "" && s[0] != '#' && s != "..." {
			break
		}
		to--
	}
	return from, to
}

// remove takes the key called name out.
func (e *keyEdit) remove(name string) error {
	i, err := e.find(name)
	if err != nil {
		return err
	}
	from, to := e.extent(i)
	e.lines = slices.Delete(e.lines, from, to)
	e.keys = slices.Delete(e.keys, i, i+1)
	return nil
}

var (
	disabledLine = regexp.MustCompile(`^(\s*(?:- +)?)(disabled:\s*)\S+(.*)$`)
	disabledWord = regexp.MustCompile(`([{,]\s*disabled:\s*)(?:true|false)(\s*[,}])`)
	flowEnd      = regexp.MustCompile(`\s*,?\s*\}\s*(?:#.*)?$`)
	firstKey     = regexp.MustCompile(`^(\s*- +)(\S.*)$`)
)

// disable marks the key called name as disabled.
func (e *keyEdit) disable(name string) error {
	i, err := e.find(name)
	if err != nil {
		return err
	}
	if e.keys[i].disabled {
		return fmt.Errorf("key %q is disabled already", name)
	}
	e.keys[i].disabled = true
	from, to := e.extent(i)
	first := strings.TrimRight(e.lines[from], "\r\n")
	dash := firstKey.FindStringSubmatch(first)
	if dash == nil {
		return errors.New("expected the first key of an entry beside its dash; edit it by hand")
	}
	if strings.HasPrefix(dash[2], "{") {
		for j := from; j < to; j++ {
			if s := disabledWord.ReplaceAllString(e.lines[j], "${1}true${2}"); s != e.lines[j] {
				e.lines[j] = s
				return nil
			}
		}
		last := strings.TrimRight(e.lines[to-1], "\r\n")
		end := flowEnd.FindStringIndex(last)
		if end == nil {
			return errors.New("expected the end of the entry at the end of a line; edit it by hand")
		}
		brace := end[0] + strings.IndexByte(last[end[0]:], '}')
		e.lines[to-1] = last[:end[0]] + ", disabled: true " + last[brace:] + "\n"
		return nil
	}
	for j := from; j < to; j++ {
		line := strings.TrimRight(e.lines[j], "\r\n")
		// One that stands further right is a claim of the same name.
		if m := disabledLine.FindStringSubmatch(line); m != nil && len(m[1]) == len(dash[1]) {
			e.lines[j] = m[1] + m[2] + "true" + m[3] + "\n"
			return nil
		}
	}
	if last := e.lines[to-1]; !strings.HasSuffix(last, "\n") {
		e.lines[to-1] = last + "\n"
	}
	e.lines = slices.Insert(e.lines, to, strings.Repeat(" ", len(dash[1]))+"disabled: true\n")
	return nil
}

// lockFolder takes the lock of edits in folder. The folder is what is locked, for
// the file itself is replaced.
func lockFolder(folder string) (unlock func(), err error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", folder, reasonOf(err))
	}
	for end := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil, errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.ENOTSUP):
			return func() { _ = dir.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(end):
			_ = dir.Close()
			return nil, fmt.Errorf("%s: cannot lock the folder: %w", folder, err)
		}
	}
}

// replaceFile puts text in the place of the file at path, whose mode and owner
// was tells; nil is a new file for its owner alone.
func replaceFile(path string, text []byte, was os.FileInfo) (err error) {
	folder := filepath.Dir(path)
	next, err := os.CreateTemp(folder, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("%s: %w", folder, reasonOf(err))
	}
	defer func() {
		_ = next.Close()
		if err != nil {
			_ = os.Remove(next.Name())
			err = fmt.Errorf("%s: cannot be replaced: %w", path, reasonOf(err))
		}
	}()
	if was != nil {
		// The gateway that reads the file may not be who runs this command.
		if sys, ok := was.Sys().(*syscall.Stat_t); ok && (int(sys.Uid) != os.Geteuid() || int(sys.Gid) != os.Getegid()) {
			if err := next.Chown(int(sys.Uid), int(sys.Gid)); err != nil {
				return fmt.Errorf("its owner cannot be kept: %w", reasonOf(err))
			}
		}
		if err := next.Chmod(was.Mode().Perm()); err != nil {
			return err
		}
	}
	if _, err := next.Write(text); err != nil {
		return err
	}
	if err := next.Sync(); err != nil {
		return err
	}
	if err := next.Close(); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), path); err != nil {
		var link *os.LinkError
		if errors.As(err, &link) {
			return link.Err
		}
		return err
	}
	if dir, err := os.Open(folder); err == nil {
		_ = dir.Sync()
		_ = dir.Close()
	}
	return nil
}

// keyTable writes what there is to know of keys, one a line.
func keyTable(keys []keyEntry, now time.Time) [][]string {
	rows := [][]string{{"NAME", "STATE", "EXPIRES", "SCOPES", "LINE"}}
	for i := range keys {
		k := &keys[i]
		state, expires := "good", "never"
		if !k.expires.IsZero() {
			if expires = k.expires.UTC().Format(time.RFC3339); !now.Before(k.expires) {
				state = "expired"
			}
		}
		if k.disabled {
			state = "disabled"
		}
		scopes := strings.Join(k.scopes, " ")
		if scopes == "" {
			scopes = "-"
		}
		rows = append(rows, []string{k.name, state, expires, scopes, strconv.Itoa(k.line)})
	}
	return rows
}
