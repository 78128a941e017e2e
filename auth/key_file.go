package auth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/scanner"
	"github.com/goccy/go-yaml/token"

	"sluice/setting"
)

// A keys file is a YAML list with one mapping for each key. It is read strictly:
// parseKeys goes over the syntax tree and reports every mistake with its
// position, and no mistake repeats what could be a key. Anchors, aliases and tags
// are refused: a list of keys has no use for them.

// The bounds of a keys file. The YAML parser recurses for nesting and works in
// the square of the keys of one mapping, so the words of one entry are counted
// before it sees them.
const (
	mostKeyFile    = 16 << 20 // bytes
	mostEntryWords = 2000
	mostBlank      = 100 // blank lines in a row
	mostName       = 128 // bytes of a name
	mostScopes     = 256
	mostMetadata   = 128
)

// keyEntry is one entry of a keys file.
type keyEntry struct {
	name     string
	hash     [sha256.Size]byte
	scopes   []string
	metadata map[string]any // texts, booleans, int64, float64, and lists of them
	limits   map[string]string
	expires  time.Time // the first instant at which the key is good no more; zero for never
	disabled bool
	line     int // of its first key
}

var entryKeys = []string{"name", "hash", "scopes", "metadata", "limits", "expires", "disabled"}

// reservedClaims are set by the entry itself.
var reservedClaims = []string{"sub", "scope", "scp", "limits", "exp", "iss", "aud"}

// parseKeys reads the text of a keys file; file is its name in mistakes. An
// error is a *fileMistakes.
func parseKeys(file string, text []byte) ([]keyEntry, error) {
	list, _, err := readKeys(file, text)
	return list, err
}

// readKeys is parseKeys, and says in which lines the entries begin: of a list in
// brackets it says nothing.
func readKeys(file string, text []byte) ([]keyEntry, []int, error) {
	r := &keyReader{fileMistakes: fileMistakes{File: file}, names: map[string]int{}, hashes: map[[sha256.Size]byte]int{}}
	root, starts := r.parse(text)
	if len(r.List) > 0 || root == nil {
		return nil, starts, r.err()
	}
	list, ok := root.(*ast.SequenceNode)
	if !ok {
		r.at(root, "", "expected a list of keys, each { name, hash, ... }, got %s", nounOf(root))
		return nil, nil, r.err()
	}
	keys := make([]keyEntry, 0, len(list.Values))
	for i, n := range list.Values {
		keys = append(keys, r.entry(n, "["+strconv.Itoa(i)+"]"))
	}
	if err := r.err(); err != nil {
		return nil, nil, err
	}
	if list.IsFlowStyle {
		starts = nil
	} else if len(starts) != len(keys) {
		starts = nil
	}
	return keys, starts, nil
}

type keyReader struct {
	fileMistakes
	names  map[string]int // to the line
	hashes map[[sha256.Size]byte]int
}

func (r *keyReader) at(n ast.Node, path, format string, args ...any) {
	line, column := placeOf(n)
	r.add(line, column, path, format, args...)
}

// placeOf is where a reader sees n begin: a block mapping at its first key.
func placeOf(n ast.Node) (line, column int) {
	switch x := n.(type) {
	case *ast.MappingNode:
		if !x.IsFlowStyle && len(x.Values) > 0 {
			return placeOf(x.Values[0])
		}
	case *ast.MappingValueNode:
		return placeOf(x.Key)
	case *ast.SequenceNode:
		if x.Start != nil && x.Start.Position != nil {
			return x.Start.Position.Line, x.Start.Position.Column
		}
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line, t.Position.Column
	}
	return 1, 1
}

func nounOf(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.BoolNode:
		return "a boolean"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		return "an anchor, alias or tag"
	}
	return "a text"
}

// secretLike is what a message of the YAML parser must not repeat.
var secretLike = regexp.MustCompile(`[A-Za-z0-9_+/=.-]{16,}`)

// parse returns the tree of text, nil for an empty one, and the lines in which
// the entries of a block list begin.
func (r *keyReader) parse(text []byte) (ast.Node, []int) {
	s := strings.TrimPrefix(string(text), "\ufeff")
	if line, column := badByte(s); line > 0 {
		r.add(line, column, "", "expected UTF-8 text without control bytes")
		return nil, nil
	}
	// The parser counts the CR of a CRLF as a column.
	s = strings.ReplaceAll(s, "\r\n", "\n")
	if line := blankRun(s); line > 0 {
		r.add(line, 1, "", "expected at most %d blank lines in a row", mostBlank)
		return nil, nil
	}
	tokens, starts, at, why := scanKeys(s)
	if why != "" {
		r.add(at.Line, at.Column, "", "%s", secretLike.ReplaceAllString(why, setting.Hidden))
		return nil, nil
	}
	file, err := parseTokens(tokens)
	if err != nil {
		line, column, message := 1, 1, err.Error()
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) {
			message = syntax.Message
			if syntax.Token != nil && syntax.Token.Position != nil {
				line, column = syntax.Token.Position.Line, syntax.Token.Position.Column
			}
		}
		r.add(line, column, "", "expected YAML: %s", secretLike.ReplaceAllString(message, setting.Hidden))
		return nil, nil
	}
	var root ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil, doc.Body.Type() == ast.CommentType:
		case root != nil || doc.Body.Type() == ast.DirectiveType:
			r.at(doc.Body, "", "expected one YAML document")
			return nil, nil
		default:
			root = doc.Body
		}
	}
	return root, starts
}

// parseTokens shields the process from a parser that panics: a reload must not
// end it.
func parseTokens(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("the parser failed")
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// scanKeys cuts text into tokens, and holds each entry to mostEntryWords. why is
// not empty when text is beyond that or is no YAML.
func scanKeys(text string) (tokens token.Tokens, starts []int, at *token.Position, why string) {
	at = &token.Position{Line: 1, Column: 1}
	defer func() {
		if p := recover(); p != nil {
			why = "expected YAML: the scanner failed"
		}
	}()
	var s scanner.Scanner
	s.Init(text)
	column, words, flow := 0, 0, 0 // column of the dashes of the list
	for {
		batch, err := s.Scan()
		if errors.Is(err, io.EOF) {
			return tokens, starts, at, ""
		}
		for _, t := range batch {
			tokens.Add(t)
			if t.Position != nil {
				at = t.Position
			}
			switch t.Type {
			case token.CommentType:
				continue
			case token.InvalidType:
				return nil, nil, at, "expected YAML: " + t.Error
			case token.MappingStartType, token.SequenceStartType:
				flow++
			case token.MappingEndType, token.SequenceEndType:
				flow--
			case token.SequenceEntryType:
				if column == 0 && flow == 0 {
					column = at.Column
				}
				if at.Column == column && flow == 0 {
					starts, words = append(starts, at.Line), 0
				}
			}
			if words++; words > mostEntryWords {
				return nil, nil, at, fmt.Sprintf("expected a list with a dash before each key, and at most %d words for one key", mostEntryWords)
			}
		}
		if err != nil {
			return nil, nil, at, "expected YAML: " + err.Error()
		}
	}
}

// badByte finds the first byte that the file may not hold.
func badByte(s string) (line, column int) {
	line, column = 1, 1
	for i := 0; i < len(s); {
		c, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == utf8.RuneError && size == 1, c < ' ' && c != '\n' && c != '\t' && c != '\r', c == 0x7f,
			c == '\r' && !strings.HasPrefix(s[i:], "\r\n"):
			return line, column
		case c == '\n':
			line, column = line+1, 1
		default:
			column++
		}
		i += size
	}
	return 0, 0
}

// blankRun returns the line in which a run of blank lines becomes too long, or 0.
func blankRun(s string) int {
	line, run := 0, 0
	for content := range strings.Lines(s) {
		line, run = line+1, run+1
		if strings.TrimSpace(content) != "" {
			run = 0
		}
		if run > mostBlank {
			return line
		}
	}
	return 0
}

// mappingOf lists the keys of a mapping, each once.
func (r *keyReader) mappingOf(n ast.Node, path string) (values []*ast.MappingValueNode, names []string, ok bool) {
	var all []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		all = n.Values
	case *ast.MappingValueNode:
		all = []*ast.MappingValueNode{n}
	default:
		return nil, nil, false
	}
	seen := map[string]int{}
	for _, v := range all {
		name, ok := textNode(v.Key)
		if !ok || v.Key.IsMergeKey() {
			r.at(v.Key, path, "expected a plain key")
			continue
		}
		line, _ := placeOf(v.Key)
		if first := seen[name]; first > 0 {
			r.at(v.Key, path, "expected each key once, got %s also in line %d", shown(name), first)
			continue
		}
		seen[name] = line
		values, names = append(values, v), append(names, name)
	}
	return values, names, true
}

// shown writes a name of the user's choosing. One that is long may be a key that
// stands in the wrong place.
func shown(name string) string {
	if len(name) > 24 || mistyped([]byte(name)) {
		return setting.Hidden
	}
	return setting.Key(name)
}

// textNode is the text of a scalar as it was written: 007 stays 007.
func textNode(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func (r *keyReader) entry(n ast.Node, path string) (k keyEntry) {
	values, names, ok := r.mappingOf(n, path)
	if !ok {
		r.at(n, path, "expected a mapping such as { name: acme, hash: %q }, got %s", hashPrefix+"...", nounOf(n))
		return k
	}
	k.line, _ = placeOf(n)
	has := map[string]bool{}
	for i, v := range values {
		at := path + "." + names[i]
		has[names[i]] = true
		switch names[i] {
		case "name":
			k.name = r.name(v.Value, at)
		case "hash":
			r.hash(&k, v.Value, at)
		case "scopes":
			k.scopes = r.scopes(v.Value, at)
		case "metadata":
			k.metadata = r.metadata(v.Value, at)
		case "limits":
			k.limits = r.limits(v.Value, at)
		case "expires":
			k.expires = r.expires(v.Value, at)
		case "disabled":
			text, _ := textNode(v.Value)
			if k.disabled = text == "true"; text != "true" && text != "false" {
				r.at(v.Value, at, "expected true or false, got %s", nounOf(v.Value))
			}
		default:
			if near := setting.Nearest(names[i], entryKeys); near != "" {
				has[near] = true // what the misspelt key leaves missing is this same mistake
				r.at(v.Key, path, "unknown key %s; did you mean %q?", shown(names[i]), near)
				continue
			}
			r.at(v.Key, path, "unknown key %s; expected one of %s", shown(names[i]), strings.Join(entryKeys, ", "))
		}
	}
	for _, needed := range []string{"name", "hash"} {
		if !has[needed] {
			r.at(n, path, "expected the key %s, got none", needed)
		}
	}
	return k
}

const nameWant = "a name of 1 to 128 bytes without control characters"

func checkName(name string) error {
	if len(name) > mostName || strings.TrimSpace(name) == "" || strings.TrimSpace(name) != name || !utf8.ValidString(name) {
		return errors.New("expected " + nameWant)
	}
	if _, ok := printable(name); !ok {
		return errors.New("expected " + nameWant)
	}
	if strings.HasPrefix(name, keyPrefix) {
		return errors.New("expected a name, got what looks like a key")
	}
	return nil
}

func (r *keyReader) name(n ast.Node, path string) string {
	name, ok := textNode(n)
	if !ok {
		r.at(n, path, "expected %s, got %s", nameWant, nounOf(n))
		return ""
	}
	if err := checkName(name); err != nil {
		r.at(n, path, "%v", err)
		return ""
	}
	line, _ := placeOf(n)
	if first := r.names[name]; first > 0 {
		r.at(n, path, "expected a name of its own, got %q, which is also that of line %d", name, first)
	}
	r.names[name] = line
	return name
}

func (r *keyReader) hash(k *keyEntry, n ast.Node, path string) {
	text, _ := textNode(n)
	hash, err := parseHash(text)
	if err != nil {
		r.at(n, path, "%v", err)
		return
	}
	line, _ := placeOf(n)
	if first := r.hashes[hash]; first > 0 {
		r.at(n, path, "expected each key once, got the key of line %d again", first)
	}
	r.hashes[hash] = line
	k.hash = hash
}

// entriesOf is the entries of a list; one alone may stand without a list.
func entriesOf(n ast.Node) ([]ast.Node, bool) {
	if seq, ok := n.(*ast.SequenceNode); ok {
		return seq.Values, true
	}
	if _, ok := textNode(n); ok {
		return []ast.Node{n}, true
	}
	return nil, false
}

const scopeWant = `a scope without blanks, quotes and backslashes (RFC 6749 3.3)`

// isScope takes the scopes that a key may have.
func isScope(s string) bool { return len(s) <= mostName && isScopeToken(s) }

// isScopeToken is the grammar of RFC 6749 3.3.
func isScopeToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return s != ""
}

func (r *keyReader) scopes(n ast.Node, path string) (scopes []string) {
	list, ok := entriesOf(n)
	if !ok || len(list) > mostScopes {
		r.at(n, path, "expected a list of at most %d scopes", mostScopes)
		return nil
	}
	for i, e := range list {
		text, _ := textNode(e)
		if !isScope(text) {
			r.at(e, path+"["+strconv.Itoa(i)+"]", "expected "+scopeWant)
			continue
		}
		scopes = append(scopes, text)
	}
	return scopes
}

func checkClaim(name string) error {
	first, _, _ := strings.Cut(name, ".")
	for _, reserved := range reservedClaims {
		if first == reserved {
			return fmt.Errorf("expected a claim other than %s, which the key has already", strings.Join(reservedClaims, ", "))
		}
	}
	if name == "" || len(name) > mostName {
		return fmt.Errorf("expected the name of a claim, of 1 to %d bytes", mostName)
	}
	for i := 0; i < len(name); i++ {
		if name[i] <= ' ' || name[i] >= 0x7f {
			return errors.New("expected the name of a claim, of printable ASCII without blanks")
		}
	}
	return nil
}

func (r *keyReader) metadata(n ast.Node, path string) map[string]any {
	values, names, ok := r.mappingOf(n, path)
	if !ok || len(values) > mostMetadata {
		r.at(n, path, "expected a mapping of at most %d claims, got %s", mostMetadata, nounOf(n))
		return nil
	}
	metadata := make(map[string]any, len(values))
	for i, v := range values {
		at := path + "." + shown(names[i])
		if err := checkClaim(names[i]); err != nil {
			r.at(v.Key, at, "%v", err)
			continue
		}
		if seq, ok := v.Value.(*ast.SequenceNode); ok {
			list := make([]any, 0, len(seq.Values))
			for j, e := range seq.Values {
				if value, ok := r.claim(e, at+"["+strconv.Itoa(j)+"]"); ok {
					list = append(list, value)
				}
			}
			metadata[names[i]] = list
			continue
		}
		if value, ok := r.claim(v.Value, at); ok {
			metadata[names[i]] = value
		}
	}
	return metadata
}

// claim is a scalar. A number that would be written differently, such as 007, is
// the text that it was written as.
func (r *keyReader) claim(n ast.Node, path string) (any, bool) {
	text, ok := textNode(n)
	if _, fits := printable(text); !ok || !fits {
		r.at(n, path, "expected a text of one line and at most %d bytes, a number, true, false, or a list of them", mostText)
		return nil, false
	}
	switch n.(type) {
	case *ast.BoolNode:
		if text == "true" || text == "false" {
			return text == "true", true
		}
	case *ast.IntegerNode:
		if v, err := strconv.ParseInt(text, 10, 64); err == nil && strconv.FormatInt(v, 10) == text {
			return v, true
		}
	case *ast.FloatNode:
		if v, err := strconv.ParseFloat(text, 64); err == nil && strconv.FormatFloat(v, 'f', -1, 64) == text {
			return v, true
		}
	}
	return text, true
}

func (r *keyReader) limits(n ast.Node, path string) map[string]string {
	values, names, ok := r.mappingOf(n, path)
	if !ok || len(values) > mostMetadata {
		r.at(n, path, "expected a mapping of at most %d limits to their rates, got %s", mostMetadata, nounOf(n))
		return nil
	}
	limits := make(map[string]string, len(values))
	for i, v := range values {
		at := path + "." + shown(names[i])
		if !isScope(names[i]) {
			r.at(v.Key, at, "expected the name of a limit")
			continue
		}
		text, _ := textNode(v.Value)
		if !isRate(text) {
			r.at(v.Value, at, "expected %s", rateWant)
			continue
		}
		limits[names[i]] = text
	}
	return limits
}

const rateWant = "a rate such as 100/s, 5000/m, 10/h or 1000/d, at most 1000000 a second"

// isRate tells whether package limiter will read s as a rate. The two do not
// know each other; a test holds them together.
func isRate(s string) bool {
	count, unit, _ := strings.Cut(s, "/")
	seconds := map[string]int64{"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
	if count == "" || count[0] < '1' || count[0] > '9' {
		return false
	}
	n, err := strconv.ParseInt(count, 10, 64)
	return err == nil && seconds > 0 && n <= seconds*1_000_000
}

const expiresWant = "a date such as 2027-01-31, which is the last day in UTC, or a time such as 2027-01-31T12:00:00Z"

// parseExpires returns the first instant at which a key is good no more.
func parseExpires(text string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, errors.New("expected " + expiresWant)
	}
	return at, nil
}

func (r *keyReader) expires(n ast.Node, path string) time.Time {
	text, _ := textNode(n)
	at, err := parseExpires(text)
	if err != nil {
		r.at(n, path, "%v", err)
	}
	return at
}
