package auth

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestEditKeys holds that an edit changes the lines of its key and no other.
func TestEditKeys(t *testing.T) {
	disable := func(e *keyEdit) error { return e.disable("b") }
	remove := func(e *keyEdit) error { return e.remove("b") }
	hashC := keyHash([]byte("the third key of all"))
	add := func(e *keyEdit) error {
		k := keyEntry{name: "c", scopes: []string{"read", "yes"}, metadata: map[string]any{"a b?": "x", "plan": "10"}, limits: map[string]string{"l": "1/s"}}
		k.metadata = map[string]any{"plan": "10"}
		k.hash, _ = parseHash(hashC)
		return e.add(k, hashC, "")
	}
	added := "- name: c\n  hash: " + hashC + "\n  scopes: [read, \"yes\"]\n  metadata:\n    plan: \"10\"\n  limits:\n    l: 1/s\n"
	f := func(edit func(*keyEdit) error, before, after string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "k")
		write(t, path, before)
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if err := editKeys(path, true, edit); err != nil {
			t.Error(err)
			return
		}
		if got := read(t, path); got != after {
			t.Errorf("got\n%s\nwant\n%s", got, after)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("the mode is not kept: %v, %v", info.Mode(), err)
		}
	}
	a := "- name: a # first\n  hash: " + hashA + "\n"
	b := "- name: b\n  hash: " + hashB + " # second\n"
	flow := "- { name: b, hash: '" + hashB + "' } # second\n"
	f(add, "", added)
	f(add, "# keys", "# keys\n"+added)
	f(add, a+"# end", a+"# end\n"+added)
	f(add, "  "+strings.ReplaceAll(strings.TrimSpace(a), "\n", "\n  ")+"\n", "  "+strings.ReplaceAll(strings.TrimSpace(a+added), "\n", "\n  ")+"\n")
	f(remove, a+b, a)
	f(remove, "# x\n"+b+"\n# y\n"+a, "# x\n\n# y\n"+a)
	f(remove, a+"# above b\n"+flow+"# end\n", a+"# above b\n# end\n")
	f(remove, b, "")
	f(remove, a+strings.TrimSuffix(b, "\n"), a)
	f(disable, a+b, a+b+"  disabled: true\n")
	f(disable, a+strings.TrimSuffix(b, "\n"), a+b+"  disabled: true\n")
	f(disable, b+"\n# y\n"+a, b+"  disabled: true\n\n# y\n"+a)
	f(disable, b+"  disabled:  false # not yet\n"+a, b+"  disabled:  true # not yet\n"+a)
	f(disable, "- disabled: false\n  name: b\n  hash: "+hashB+"\n"+a, "- disabled: true\n  name: b\n  hash: "+hashB+"\n"+a)
	f(disable, flow+a, "- { name: b, hash: '"+hashB+"', disabled: true } # second\n"+a)
	f(disable, "- {disabled: false, name: b, hash: '"+hashB+"'}\n", "- {disabled: true, name: b, hash: '"+hashB+"'}\n")
	f(disable, "-   name: b\n    hash: "+hashB+"\n", "-   name: b\n    hash: "+hashB+"\n    disabled: true\n")
	f(disable, b+"  metadata:\n    disabled: false\n"+"  disabled: false\n", b+"  metadata:\n    disabled: false\n"+"  disabled: true\n")
	f(disable, b+"  metadata:\n    disabled: false\n", b+"  metadata:\n    disabled: false\n  disabled: true\n")
	f(disable, strings.ReplaceAll(b+a, "\n", "\r\n"), strings.ReplaceAll(b, "\n", "\r\n")+"  disabled: true\n"+strings.ReplaceAll(a, "\n", "\r\n"))

	refuse := func(edit func(*keyEdit) error, before, want string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "k")
		write(t, path, before)
		err := editKeys(path, true, edit)
		if err == nil || !strings.Contains(err.Error(), want) || read(t, path) != before {
			t.Errorf("expected %q and the file as it was, got %v\n%s", want, err, read(t, path))
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	refuse(remove, a, `no key is called "b"; did you mean "a"?`)
	refuse(disable, b+"  disabled: true\n", `key "b" is disabled already`)
	refuse(add, "[{ name: a, hash: '"+hashA+"' }]\n", "must be edited by hand")
	refuse(add, a+"...\n", "edit it by hand")
	refuse(add, "- name: a\n", "k:1:3: [0]: expected the key hash")
	refuse(add, a+"- name: c\n  hash: "+hashB+"\n", "expected a new name")
	refuse(disable, "-\n  name: b\n  hash: "+hashB+"\n", "by hand")
}

func TestEditKeysElsewhere(t *testing.T) {
	nothing := func(*keyEdit) error { return nil }
	dir := t.TempDir()
	if err := editKeys(dir+"/none/k", true, nothing); err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Error(err)
	}
	if err := editKeys(dir+"/k", false, nothing); err == nil || !strings.Contains(err.Error(), "k: no such file or directory") {
		t.Error(err)
	}
	if err := editKeys(dir, true, nothing); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Error(err)
	}
	write(t, dir+"/real", "# real\n")
	if err := os.Symlink("real", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := editKeys(dir+"/link", true, func(e *keyEdit) error { e.lines = append(e.lines, "# more\n"); return nil }); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(dir + "/link"); err != nil || target != "real" || read(t, dir+"/real") != "# real\n# more\n" {
		t.Error("the link was replaced, not what it points to")
	}
	failed := errors.New("failed")
	if err := editKeys(dir+"/new", true, func(*keyEdit) error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/new"); err == nil {
		t.Error("an edit that failed made a file")
	}
}

func TestEditsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			k := keyEntry{name: fmt.Sprint("key", i)}
			hash := keyHash([]byte(newKey()))
			k.hash, _ = parseHash(hash)
			if err := editKeys(path, true, func(e *keyEdit) error { return e.add(k, hash, "") }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if keys, err := parseKeys(path, []byte(read(t, path))); err != nil || len(keys) != 20 {
		t.Errorf("expected 20 keys, got %d, %v", len(keys), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("expected mode 0600, got %v, %v", info.Mode(), err)
	}
}

// Whatever the layout, an edit does exactly what it is to do, or nothing.
func FuzzEditKeys(f *testing.F) {
	f.Add("- name: a\n  hash: "+hashA+"\n- name: b\n  hash: "+hashB+"\n", uint8(0))
	f.Add("- { name: b, hash: '"+hashB+"' }\n# end", uint8(1))
	f.Add("- name: b\n  metadata:\n    x: |\n      # no comment\n  hash: "+hashB+"\n", uint8(2))
	f.Fuzz(func(t *testing.T, text string, what uint8) {
		before, _, err := readKeys("k", []byte(text))
		if err != nil || len(before) == 0 {
			return
		}
		path := filepath.Join(t.TempDir(), "k")
		write(t, path, text)
		name := before[int(what>>2)%len(before)].name
		err = editKeys(path, true, func(e *keyEdit) error {
			switch what % 3 {
			case 0:
				return e.remove(name)
			case 1:
				return e.disable(name)
			}
			k := keyEntry{name: "a new one"}
			k.expires, _ = parseExpires("2027-01-31")
			hash := keyHash([]byte(newKey()))
			k.hash, _ = parseHash(hash)
			return e.add(k, hash, "2027-01-31")
		})
		after, err2 := parseKeys("k", []byte(read(t, path)))
		if err2 != nil {
			t.Fatalf("the file is broken: %v", err2)
		}
		if want := len(before) + []int{-1, 0, 1}[what%3]; err == nil && len(after) != want {
			t.Errorf("expected %d keys, got %d", want, len(after))
		}
		if err != nil && read(t, path) != text {
			t.Error("changed in spite of an error")
		}
	})
}
