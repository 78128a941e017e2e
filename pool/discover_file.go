package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/fsnotify/fsnotify"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	lex "github.com/goccy/go-yaml/token"
)

// The bounds of a file of targets.
const (
	maxTargetsFile = 1 << 20 // bytes
	maxTargetLine  = 1024    // bytes
	maxTargetGap   = 100     // empty lines in a row; the YAML parser works in their square

	// Of a YAML list: an entry with url and weight has eleven, and a comment.
	maxTargetTokens = 16 * maxDiscovered
)

// A file is read when its folder has been quiet for fileSettle, or fileBusy
// after the first event, for it may be written in several steps; and every
// filePoll, since some file systems tell of no change.
const (
	fileSettle = 100 * time.Millisecond
	fileBusy   = time.Second
	filePoll   = 15 * time.Second
)

// fileDiscoverer follows a file of targets. It watches the folders of the file
// and of each symbolic link on the way to it, so that a file or a link that is
// renamed over the old one (as editors, configuration management and Kubernetes
// do it) is seen like one that is written.
type fileDiscoverer struct {
	path   string
	scheme string        // of entries without one
	settle time.Duration // see fileSettle
	poll   time.Duration // see filePoll

	last    lastSet
	content []byte // last read, nil when it could not be
	gone    string // last error, so that the poll does not repeat it
}

func newFileDiscoverer(c DiscoverConfig) *fileDiscoverer {
	return &fileDiscoverer{path: c.File, scheme: c.Scheme, settle: fileSettle, poll: filePoll}
}

// Run is documented at Discoverer. A file that stays broken is noted once.
func (d *fileDiscoverer) Run(ctx context.Context, update func([]Discovered), note func(error)) {
	var events <-chan fsnotify.Event
	var lost <-chan error
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		note(fmt.Errorf("discover %s: not watched, only read every %s: %w", d.path, d.poll, err))
	} else {
		defer func() { _ = watch.Close() }()
		events, lost = watch.Events, watch.Errors
	}
	poll := time.NewTicker(d.poll)
	defer poll.Stop()
	quiet := time.NewTimer(0) // the first read
	defer quiet.Stop()
	var ways map[string]bool
	var first time.Time // of the events that are not dealt with
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if !ways[filepath.Clean(e.Name)] {
				continue
			}
		case <-lost: // the queue ran over: anything may have happened
		case <-quiet.C:
			first = time.Time{}
			// Before the read, so that a change in between is seen.
			ways = follow(watch, d.path)
			d.read(update, note)
			continue
		case <-poll.C:
			ways = follow(watch, d.path)
			d.read(update, note)
			continue
		}
		now := time.Now()
		if first.IsZero() {
			first = now
		}
		quiet.Reset(max(0, min(d.settle, fileBusy-now.Sub(first))))
	}
}

// read reads the file and tells what is new.
func (d *fileDiscoverer) read(update func([]Discovered), note func(error)) {
	content, err := readTargetsFile(d.path)
	if err == nil {
		if d.content != nil && bytes.Equal(content, d.content) {
			return
		}
		d.content, d.gone = content, ""
		var set []Discovered
		if set, err = parseTargets(content, d.scheme); err == nil {
			if d.last.differs(set) {
				update(set)
			}
			note(nil)
			return
		}
		err = fmt.Errorf("%s:%w", d.path, err)
	} else {
		d.content = nil
		if err.Error() == d.gone {
			return
		}
		d.gone = err.Error()
	}
	note(fmt.Errorf("discover: %w", err))
}

// readTargetsFile reads a regular file within the bound. Anything else, which
// could block for ever, is refused.
func readTargetsFile(path string) ([]byte, error) {
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
	content, err := io.ReadAll(io.LimitReader(f, maxTargetsFile+1))
	if err == nil && len(content) > maxTargetsFile {
		err = fmt.Errorf("%s: expected a file of at most %d KiB", path, maxTargetsFile>>10)
	}
	return content, err
}

// follow watches every folder in which another entry could be put in place of
// one on the way to file, and returns those entries: each symbolic link, and
// the file at the end.
func follow(watch *fsnotify.Watcher, file string) map[string]bool {
	ways := map[string]bool{}
	abs, err := filepath.Abs(file)
	if watch == nil || err != nil {
		return ways
	}
	at, rest := "/", strings.Split(abs, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		target, err := os.Readlink(next)
		if err != nil {
			if _, err := os.Lstat(next); err != nil || len(rest) == 0 {
				// The end, or the first that is missing and may yet come.
				ways[next] = true
				break
			}
			at = next
			continue
		}
		ways[next] = true
		if links++; links > 40 { // the kernel gives up here too
			break
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	dirs := map[string]bool{}
	for way := range ways {
		dirs[filepath.Dir(way)] = true
	}
	for _, dir := range watch.WatchList() {
		if !dirs[dir] {
			_ = watch.Remove(dir)
		}
	}
	for dir := range dirs {
		// One too many for the system is left to the poll.
		_ = watch.Add(dir)
	}
	return ways
}

// parseTargets reads the content of a file of targets: a YAML or JSON list
// whose entries are URLs or {url: URL, weight: N}, or lines of a URL each, after
// which weight=N may stand. A URL without a scheme gets scheme. # begins a
// comment. The first line that is neither empty nor a comment tells which it is:
// that of a list begins with "- ", "---" or "[". It returns at least one target;
// errors begin with "line:column: " or "line: ".
func parseTargets(content []byte, scheme string) ([]Discovered, error) {
	if line := badLine(content); line > 0 {
		return nil, fmt.Errorf("%d: expected UTF-8 text without control bytes, in lines of at most %d bytes, of which at most %d are empty in a row",
			line, maxTargetLine, maxTargetGap)
	}
	text := strings.ReplaceAll(strings.TrimPrefix(string(content), "\ufeff"), "\r\n", "\n")
	read := readLines
	if isList(text) {
		read = readList
	}
	set, err := read(text, scheme)
	switch {
	case err != nil:
		return nil, err
	case len(set) == 0:
		return nil, errors.New("1: expected at least one target, got none")
	}
	return inOrder(set), nil
}

// badLine returns the first line that is out of bounds, or 0. JSON on one line
// may be as long as the file.
func badLine(content []byte) int {
	line, gap := 0, 0
	for rest := content; len(rest) > 0; {
		var text []byte
		text, rest, _ = bytes.Cut(rest, []byte("\n"))
		text = bytes.TrimSuffix(text, []byte("\r"))
		line, gap = line+1, gap+1
		if len(bytes.TrimSpace(text)) > 0 {
			gap = 0
		}
		long := len(text) > maxTargetLine && text[0] != '['
		if long || gap > maxTargetGap || !utf8.Valid(text) || bytes.ContainsFunc(text, isControl) {
			return line
		}
	}
	return 0
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

func isList(text string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '[' {
			// An IPv6 address is written in brackets too.
			inside, _, closed := strings.Cut(line[1:], "]")
			_, err := netip.ParseAddr(inside)
			return !closed || err != nil
		}
		return line == "-" || strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "---")
	}
	return false
}

func readLines(text, scheme string) ([]Discovered, error) {
	var set []Discovered
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		fields := strings.Fields(line)
		for i, f := range fields {
			if f[0] == '#' {
				fields = fields[:i]
				break
			}
		}
		if len(fields) == 0 {
			continue
		}
		weight := "1"
		if len(fields) == 2 {
			var ok bool
			if weight, ok = strings.CutPrefix(fields[1], "weight="); !ok {
				return nil, fmt.Errorf("%d: expected weight=N after the URL, got %q", number, fields[1])
			}
		} else if len(fields) > 2 {
			return nil, fmt.Errorf("%d: expected a URL and at most weight=N, got %q", number, strings.Join(fields, " "))
		}
		t, err := readTarget(fields[0], weight, scheme)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", number, err)
		}
		if set = append(set, t); len(set) > maxDiscovered {
			return nil, fmt.Errorf("%d: expected at most %d targets", number, maxDiscovered)
		}
	}
	return set, nil
}

// readTarget reads one entry.
func readTarget(raw, weight, scheme string) (Discovered, error) {
	full := raw
	if !strings.Contains(raw, "://") {
		full = scheme + "://" + raw
	}
	if why := checkTargetURL(full); why != "" {
		return Discovered{}, fmt.Errorf("%s, got %q", why, raw)
	}
	u, _ := url.Parse(full) // as checkTargetURL has
	if !isHostName(u.Hostname()) && !isAddress(u.Hostname()) {
		return Discovered{}, fmt.Errorf("expected a host name or an address, got %q", u.Hostname())
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return Discovered{}, fmt.Errorf("expected a port from 1 to 65535, got %q", p)
		}
	}
	w, err := strconv.Atoi(weight)
	if err != nil || w < 1 || w > maxWeight {
		return Discovered{}, fmt.Errorf("expected a weight from 1 to %d, got %q", maxWeight, weight)
	}
	canonical, _ := targetURL(u.Scheme, u.Hostname(), u.Port())
	return Discovered{URL: canonical, Weight: w}, nil
}

// listError is a mistake at a place in a list.
func listError(t *lex.Token, format string, args ...any) error {
	line, column := 1, 1
	if t != nil && t.Position != nil {
		line, column = max(1, t.Position.Line), max(1, t.Position.Column)
	}
	return fmt.Errorf("%d:%d: %w", line, column, fmt.Errorf(format, args...))
}

func readList(text, scheme string) (set []Discovered, err error) {
	// The parser has been seen to panic on texts that are no YAML; one more of
	// them must not end the process.
	defer func() {
		if r := recover(); r != nil {
			set, err = nil, fmt.Errorf("1: expected a YAML list, the parser failed: %v", r)
		}
	}()
	tokens := lexer.Tokenize(text)
	if err := checkTokens(tokens); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		// Not err.Error(), which draws the place in the text in quadratic time.
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) {
			return nil, listError(syntax.Token, "expected a YAML list: %s", syntax.Message)
		}
		return nil, errors.New("1: expected a YAML list")
	}
	var list *ast.SequenceNode
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		seq, ok := doc.Body.(*ast.SequenceNode)
		if !ok || list != nil {
			return nil, listError(doc.Body.GetToken(), "expected one list of targets, got %s", doc.Body.Type())
		}
		list = seq
	}
	if list == nil {
		return nil, nil
	}
	if len(list.Values) > maxDiscovered {
		return nil, listError(list.GetToken(), "expected at most %d targets, got %d", maxDiscovered, len(list.Values))
	}
	for _, n := range list.Values {
		t, err := readEntry(n, scheme)
		if err != nil {
			return nil, listError(n.GetToken(), "%w", err)
		}
		set = append(set, t)
	}
	return set, nil
}

// readEntry reads a URL, or a mapping with url and weight.
func readEntry(n ast.Node, scheme string) (Discovered, error) {
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.StringNode:
		return readTarget(n.Value, "1", scheme)
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		return Discovered{}, fmt.Errorf("expected a URL, or url and weight, got %s", n.Type())
	}
	entry := map[string]string{"weight": "1"}
	seen := map[string]bool{}
	for _, p := range pairs {
		key := p.Key.GetToken().Value
		if key != "url" && key != "weight" {
			return Discovered{}, fmt.Errorf("expected url or weight, got the key %q", key)
		}
		if seen[key] {
			return Discovered{}, fmt.Errorf("expected %s once", key)
		}
		seen[key] = true
		switch v := p.Value.(type) {
		case *ast.StringNode:
			entry[key] = v.Value
		case *ast.IntegerNode:
			entry[key] = v.GetToken().Value
		default:
			return Discovered{}, fmt.Errorf("expected %s to have a value, got %s", key, p.Value.Type())
		}
	}
	if !seen["url"] {
		return Discovered{}, errors.New("expected the key url")
	}
	return readTarget(entry["url"], entry["weight"], scheme)
}

// checkTokens lets through only what a list of targets is made of, and holds it
// to bounds: the parser recurses for each level of nesting and works in the
// square of the keys of a mapping.
func checkTokens(tokens lex.Tokens) error {
	if len(tokens) > maxTargetTokens {
		return listError(tokens[maxTargetTokens], "expected at most %d words and signs", maxTargetTokens)
	}
	depth, keys := 0, 0
	for _, t := range tokens {
		if len(t.Value) > maxTargetLine && t.Type != lex.CommentType {
			return listError(t, "expected a word of at most %d bytes", maxTargetLine)
		}
		switch t.Type {
		case lex.StringType, lex.SingleQuoteType, lex.DoubleQuoteType, lex.IntegerType,
			lex.CommentType, lex.DocumentHeaderType, lex.DocumentEndType, lex.SpaceType:
		case lex.CollectEntryType:
			if t.Prev != nil && t.Prev.Type == lex.CollectEntryType {
				return listError(t, "expected a target, got nothing between two commas")
			}
		case lex.MappingValueType:
			if keys++; keys > 4 {
				return listError(t, "expected a target with at most url and weight")
			}
		case lex.SequenceEntryType:
			if t.Prev != nil && t.Prev.Type == lex.SequenceEntryType {
				return listError(t, "expected a target, got a list in a list, or an entry with nothing in it")
			}
			keys = 0
		case lex.SequenceStartType, lex.MappingStartType:
			if depth++; depth > 2 {
				return listError(t, "expected a list of targets, got deeper nesting")
			}
			keys = 0
		case lex.SequenceEndType, lex.MappingEndType:
			depth--
		case lex.InvalidType:
			return listError(t, "expected a YAML list: %s", t.Error)
		default:
			return listError(t, "expected a list of URLs, or of url and weight, got %q", t.Value)
		}
	}
	return nil
}
