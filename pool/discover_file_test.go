package pool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// watchTargets follows the file at path, quickly. Without quick polls only
// events can tell of a change.
func watchTargets(t *testing.T, path string, poll time.Duration) *following {
	t.Helper()
	made, err := newDiscoverer(discoverConfig(DiscoverConfig{File: path}))
	if err != nil {
		t.Fatal(err)
	}
	d := made.(*fileDiscoverer)
	d.settle, d.poll = 10*time.Millisecond, poll
	return runDiscoverer(t, d)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func renameOver(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func TestFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "targets")
	f := watchTargets(t, path, time.Hour)
	f.note("no such file")
	f.noSet()
	writeFile(t, path, "10.0.0.2:9000\nhttp://10.0.0.1:9000\n")
	f.set("http://10.0.0.1:9000*1", "http://10.0.0.2:9000*1")

	// Rename over.
	writeFile(t, path+".new", `["http://10.0.0.3:9000"]`)
	renameOver(t, path+".new", path)
	f.set("http://10.0.0.3:9000*1")

	// Broken, empty, an empty list, gone: the last good set stays.
	writeFile(t, path, "10.0.0.4:9000\nhttp://\n")
	f.note(path + ":2: expected http://host:port")
	writeFile(t, path, "")
	f.note(path + ":1: expected at least one target")
	writeFile(t, path, "[]")
	f.note(path + ":1: expected at least one target")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.note("no such file")
	f.noSet()

	// Other words for the same set are no news; what follows them is.
	writeFile(t, path, "- 10.0.0.3:9000\n")
	writeFile(t, path+".new", "- url: 10.0.0.3:9000\n  weight: 5\n")
	renameOver(t, path+".new", path)
	f.set("http://10.0.0.3:9000*5")
	f.noSet()
}

func TestFileBehindLinksIsFollowed(t *testing.T) {
	// As Kubernetes lays out a ConfigMap.
	dir := t.TempDir()
	for i, text := range []string{"10.0.0.1\n", "10.0.0.2\n", "10.0.0.3\n"} {
		version := filepath.Join(dir, fmt.Sprintf("v%d", i))
		if err := os.Mkdir(version, 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(version, "targets"), text)
	}
	link(t, "v0", filepath.Join(dir, "..data"))
	link(t, "..data/targets", filepath.Join(dir, "targets"))
	f := watchTargets(t, filepath.Join(dir, "targets"), time.Hour)
	f.set("http://10.0.0.1*1")
	for i := 1; i < 3; i++ {
		link(t, fmt.Sprintf("v%d", i), filepath.Join(dir, "..tmp"))
		renameOver(t, filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data"))
		f.set(fmt.Sprintf("http://10.0.0.%d*1", i+1))
	}
	// The file at the end of the links is watched where it is.
	writeFile(t, filepath.Join(dir, "v2", "targets"), "10.0.0.4\n")
	f.set("http://10.0.0.4*1")
}

func TestFileInAFolderThatIsALink(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name, "targets"), name+".test\n")
	}
	link(t, filepath.Join(dir, "a"), filepath.Join(dir, "current"))
	f := watchTargets(t, filepath.Join(dir, "current", "targets"), time.Hour)
	f.set("http://a.test*1")
	link(t, "b", filepath.Join(dir, "next"))
	renameOver(t, filepath.Join(dir, "next"), filepath.Join(dir, "current"))
	f.set("http://b.test*1")
}

func TestFileInAFolderThatComesLater(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "later", "targets")
	f := watchTargets(t, path, time.Hour)
	f.note("no such file")
	if err := os.Mkdir(filepath.Join(dir, "new"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "new", "targets"), "10.0.0.1\n")
	renameOver(t, filepath.Join(dir, "new"), filepath.Join(dir, "later"))
	f.set("http://10.0.0.1*1")
}

func TestFileIsPolled(t *testing.T) {
	// A change through another name of the file makes no event in its folder.
	dir, other := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "targets")
	writeFile(t, path, "10.0.0.1\n")
	if err := os.Link(path, filepath.Join(other, "targets")); err != nil {
		t.Fatal(err)
	}
	f := watchTargets(t, path, 10*time.Millisecond)
	f.set("http://10.0.0.1*1")
	writeFile(t, filepath.Join(other, "targets"), "10.0.0.2\n")
	f.set("http://10.0.0.2*1")
}

func TestFileThatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe, "/dev/zero"} {
		if _, err := readTargetsFile(path); err == nil || !strings.Contains(err.Error(), "expected a regular file") {
			t.Errorf("expected %s to be refused, got %v", path, err)
		}
	}
	big := filepath.Join(dir, "big")
	writeFile(t, big, strings.Repeat("#\n", maxTargetsFile))
	if _, err := readTargetsFile(big); err == nil || !strings.Contains(err.Error(), "at most 1024 KiB") {
		t.Errorf("expected a file out of bounds to be refused, got %v", err)
	}
}

func TestParseTargets(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		set, err := parseTargets([]byte(text), "http")
		if err != nil {
			t.Errorf("expected %q of %q, got the error %v", want, text, err)
			return
		}
		if got := showSet(set); !slices.Equal(got, want) {
			t.Errorf("expected %q of %q, got %q", want, text, got)
		}
	}
	const a, b = "http://10.0.0.1:9000*1", "http://b.test:9000*2"
	f("http://10.0.0.1:9000", a)
	f("\ufeff10.0.0.1:9000\r\n\r\n  b.test:9000\tweight=2 # as big again\r\n# http://c\r\n", a, b)
	f("http://b.test:9000 weight=2\nhttp://10.0.0.1:9000\nhttp://10.0.0.1:9000/\n", a, b)
	f("https://B.test:443\nhttps://b.test", "https://b.test*1")
	f("[::1]:9000\n[::2]\n", "http://[::1]:9000*1", "http://[::2]*1")
	f("b.test:9000 weight=2\nb.test:9000", b)
	f("- http://10.0.0.1:9000\n- url: b.test:9000\n  weight: 2\n", a, b)
	f("# comment\n---\n- '10.0.0.1:9000'\n- {url: \"b.test:9000\", weight: 2}\n", a, b)
	f(`["http://10.0.0.1:9000", {"url": "http://b.test:9000", "weight": 2}]`, a, b)
	f("[\n  {\n    \"weight\": 2,\n    \"url\": \"http://b.test:9000\"\n  },\n  \"10.0.0.1:9000\"\n]\n", a, b)
	f("-\n  url: b.test:9000\n  weight: 2\n", b)
	f("[\"[::1]:9000\"]", "http://[::1]:9000*1")
}

func TestParseTargetsSaysWhatIsWrong(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if set, err := parseTargets([]byte(text), "http"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected the error %q of %.60q, got %v, %v", want, text, err, set)
		}
	}
	f("", "1: expected at least one target")
	f("# nothing\n\n", "1: expected at least one target")
	f("[]", "1: expected at least one target")
	f("---\n", "1: expected at least one target")
	f("10.0.0.1\nftp://a\n", "2: expected http://host:port or https://host:port, got \"ftp://a\"")
	f("http://a/path", "without a path")
	f("http://user:word@a", "without credentials")
	f("a:0", "expected a port from 1 to 65535")
	f("a:65536", "expected a port from 1 to 65535")
	f("a b", "1: expected weight=N")
	f("a weight=0", "1: expected a weight from 1 to 1000, got \"0\"")
	f("a weight=1 x", "1: expected a URL and at most weight=N")
	f("a_b$c", "expected a host name")
	f("- a\n- url: b\n  weight: 2000\n", "expected a weight from 1 to 1000")
	f("- a\n- wieght: 2\n", "expected url or weight, got the key \"wieght\"")
	f("- weight: 2\n", "expected the key url")
	f("- url: a\n  url: b\n", "expected url once")
	f("- url: [a]\n", "expected url to have a value")
	f("- url: {url: a}\n", "expected url to have a value")
	f("- [a]\n", "expected a URL, or url and weight")
	f("- - a\n", "1:3: expected a target, got a list in a list")
	f("- &x a\n- *x\n", "expected a list of URLs")
	f("- !t a\n", "expected a list of URLs")
	f("- |\n  a\n", "expected a list of URLs")
	f("- true\n", "expected a list of URLs")
	f("- \"a\n", "1")
	f("[a, b", "1")
	f("[[[a]]]", "deeper nesting")
	f("[a,,b]", "1:4: expected a target, got nothing between two commas")
	f("["+strings.Repeat("a", 2000)+"]", "1:2: expected a word of at most 1024 bytes")
	f("[a"+strings.Repeat(",a", maxTargetTokens)+"]", "expected at most 65536 words and signs")
	f("- a\n---\n- b\n", "expected one list of targets")
	f("a\x00", "1: expected UTF-8 text")
	f("a\nb\xff", "2: expected UTF-8 text")
	f("a"+strings.Repeat("\n", 200), "expected UTF-8 text")
	f(strings.Repeat("a", 2000), "1: expected UTF-8 text")
	f(strings.Repeat("a\n", maxDiscovered+1), "4097: expected at most 4096 targets")
	f(strings.Repeat("- a\n", maxDiscovered+1), "expected at most 4096 targets, got 4097")
	f(strings.Repeat("[", 60_000), "1:3: expected a list of targets, got deeper nesting")
	f("["+strings.Repeat("'a' ", 60_000)+"]", "1:6: expected a YAML list") // once a matter of 20 s
	f(strings.Repeat("- ", 500), "list in a list")
	f("- "+strings.Repeat("a: ", 300), "1")
}

func TestParseTargetsTakesTheLargestSet(t *testing.T) {
	var lines, list, flow strings.Builder
	for i := range maxDiscovered {
		fmt.Fprintf(&lines, "http://host-%d.test:9000 weight=7\n", i)
		fmt.Fprintf(&list, "- url: http://host-%d.test:9000\n  weight: 7\n", i)
		fmt.Fprintf(&flow, "%c{\"url\": \"http://host-%d.test:9000\", \"weight\": 7}", "[,"[min(i, 1)], i)
	}
	flow.WriteString("]")
	var before []Discovered
	for _, text := range []string{lines.String(), list.String(), flow.String()} {
		set, err := parseTargets([]byte(text), "http")
		if err != nil || len(set) != maxDiscovered {
			t.Fatalf("expected %d targets, got %d, %v", maxDiscovered, len(set), err)
		}
		if before != nil && !slices.Equal(before, set) {
			t.Error("expected the same set of the same targets")
		}
		before = set
	}
}

func FuzzParseTargets(f *testing.F) {
	for _, text := range []string{
		"", "a", "10.0.0.1:9000\nhttps://b weight=3 # c\n", "[::1]:80", "- a\n- url: b\n  weight: 2\n",
		`["http://a:1", {"url": "b", "weight": 2}]`, "- [a]\n", "- &x a\n- *x", "---\n- a\n...\n", "[[", "- {a: b", "? a", "- - -", "\ufeff- a\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > maxTargetsFile {
			return
		}
		set, err := parseTargets(content, "http")
		if err != nil {
			if set != nil || err.Error()[0] < '1' || err.Error()[0] > '9' {
				t.Fatalf("expected no set and a place, got %v, %v", set, err)
			}
			return
		}
		if len(set) == 0 || len(set) > maxDiscovered {
			t.Fatalf("expected from 1 to %d targets, got %d", maxDiscovered, len(set))
		}
		var again strings.Builder
		for _, d := range set {
			if d.Weight < 1 || d.Weight > maxWeight || d.Address != "" || checkTargetURL(d.URL) != "" {
				t.Fatalf("expected a target in bounds, got %+v", d)
			}
			fmt.Fprintf(&again, "%s weight=%d\n", d.URL, d.Weight)
		}
		if got, err := parseTargets([]byte(again.String()), "https"); err != nil || !slices.Equal(got, set) {
			t.Fatalf("expected %+v to be read as it was written, got %+v, %v", set, got, err)
		}
	})
}
