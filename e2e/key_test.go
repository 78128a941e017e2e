package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"sluice/e2e/rig"
)

// keyed runs sluice key with input on its standard input.
func keyed(t *testing.T, input string, args ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	c := rig.Command{Binary: binary, Args: append([]string{"key"}, args...), Stdout: &out}.Exec()
	c.Stderr, c.Stdin = &errs, strings.NewReader(input)
	must(t, rig.Launch(c))
	late := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	defer late.Stop()
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

// TestKey leads a keys file through its life. Standard output holds what scripts
// read and nothing else.
func TestKey(t *testing.T) {
	t.Parallel()
	file := t.TempDir() + "/partners.keys"
	f := func(code int, out, errs, input string, args ...string) string {
		t.Helper()
		o := keyed(t, input, args...)
		if o.code != code || !regexp.MustCompile(out).MatchString(o.out) || !regexp.MustCompile(errs).MatchString(o.errors) {
			t.Errorf("sluice key %s: expected code %d, %q and %q, got %d,\n%s%s", strings.Join(args, " "), code, out, errs, o.code, o.out, o.errors)
		}
		return strings.TrimSuffix(o.out, "\n")
	}
	const ok, fail, usage = 0, 1, 2
	key := f(ok, `^slk_[0-9A-Za-z]{49}\n$`, `^sluice: key "acme" added to .*/partners\.keys; .*\n$`, "",
		"new", "-f", file, "--name", "acme", "--scope", "read", "--scope", "write", "--meta", "plan=gold", "--limit", "per_key=100/s", "--expires", "2100-01-31")
	text := string(given[[]byte](t)(os.ReadFile(file)))
	if info := given[os.FileInfo](t)(os.Stat(file)); info.Mode().Perm() != 0o600 || strings.Contains(text, key) {
		t.Errorf("expected mode 0600 and no key in it, got %v\n%s", info.Mode(), text)
	}
	hash := f(ok, `^hash: sha256:[0-9a-f]{64}\n$`, `^$`, key+"\n", "hash")
	if !strings.Contains(text, "  "+hash+"\n") || !strings.Contains(text, "    plan: gold\n") {
		t.Errorf("expected %s in\n%s", hash, text)
	}
	must(t, os.WriteFile(file, []byte(strings.Replace(text, "- name: acme", "# our first customer\n- name: acme", 1)), 0o600))
	f(ok, `^slk_`, `added`, "", "new", "-f", file, "--name", "other one")
	f(ok, `^NAME +STATE +EXPIRES +SCOPES +LINE\nacme +good +2100-02-01T00:00:00Z +read write +\d\nother one +good +never +- +\d+\n$`, `^$`, "", "list", "-f", file)
	f(ok, `^$`, `^sluice: key "acme" disabled in `, "", "disable", "-f", file, "acme")
	f(ok, `acme +disabled`, `^$`, "", "list", "-f", file)
	f(ok, `^$`, `^sluice: key "other one" removed from `, "", "remove", "-f", file, "other one")
	if after := string(given[[]byte](t)(os.ReadFile(file))); !strings.Contains(after, "# our first customer\n") || strings.Contains(after, "other one") {
		t.Errorf("got\n%s", after)
	}
	f(fail, `^$`, `^sluice: .*partners\.keys: no key is called "acne"; did you mean "acme"\?\n$`, "", "remove", "-f", file, "acne")
	f(fail, `^$`, `^sluice: .*partners\.keys: expected a new name, got "acme", which is that of the key in line 3\n$`, "", "new", "-f", file, "--name", "acme")

	f(ok, `^hash: sha256:`, `^$`, "0123456789abcdef", "hash")
	f(fail, `^$`, `^sluice: expected a key of at least 16 bytes`, "short\n", "hash")
	f(fail, `^$`, `^sluice: expected a whole key of Sluice`, key[:40]+"\n", "hash")
	f(fail, `^$`, `^sluice: expected a key on standard input, got nothing\n$`, "", "hash")
	f(fail, `^$`, `^sluice: expected a key of one line\n$`, key+"\n"+key+"\n", "hash")
	f(ok, `^alice:\$argon2id\$v=19\$m=19456,t=2,p=1\$[^$]+\$[^$]+\n$`, `^$`, "correct horse\n", "password", "--user", "alice")
	f(ok, `^\$2a\$12\$.{53}\n$`, `^$`, "correct horse\n", "password", "--bcrypt")
	f(fail, `^$`, `^sluice: expected a password of at least 8 bytes\n$`, "horse\n", "password")

	broken := written(t, "broken.keys", "- nam: a\n  hash: x\n")
	f(fail, `^$`, `^sluice: .*broken\.keys:1:3: \[0\]: unknown key nam; did you mean "name"\?\nsluice: .*broken\.keys:2:9: \[0\]\.hash: expected sha256: and 64 hex digits\n$`, "", "list", "-f", broken)
	f(fail, `^$`, `none/k: no such file or directory|none: no such file or directory`, "", "new", "-f", t.TempDir()+"/none/k", "--name", "a")
	f(fail, `^$`, `^sluice: .*/none: no such file or directory\n$`, "", "list", "-f", t.TempDir()+"/none")

	f(ok, `(?s)^Keys and passwords.*sluice key new -f FILE.*sluice key password`, `^$`, "", "--help")
	f(ok, `(?s)^Keys and passwords`, `^$`, "", "new", "--help")
	f(ok, `(?s)^Keys and passwords`, `^$`, "", "help")
	f(usage, `^$`, `^sluice: key: expected one of new, hash, .*; sluice key --help\n$`, "")
	f(usage, `^$`, `^sluice: key: expected one of new, .*got "nwe"; did you mean new\?; sluice key --help\n$`, "", "nwe")
	f(usage, `^$`, `^sluice: key new: expected -f FILE`, "", "new", "--name", "a")
	f(usage, `^$`, `^sluice: key new: --name: expected a name`, "", "new", "-f", file)
	f(usage, `^$`, `^sluice: key new: unknown flag: --nam; sluice key --help\n$`, "", "new", "--nam", "a")
	f(usage, `^$`, `^sluice: key new: --meta: expected CLAIM=VALUE, got "plan"\n$`, "", "new", "-f", file, "--name", "a", "--meta", "plan")
	f(usage, `^$`, `^sluice: key new: --meta: expected a claim other than sub`, "", "new", "-f", file, "--name", "a", "--meta", "sub=x")
	f(usage, `^$`, `^sluice: key new: --limit: expected NAME=RATE`, "", "new", "-f", file, "--name", "a", "--limit", "x=10")
	f(usage, `^$`, `^sluice: key new: --scope: expected a scope`, "", "new", "-f", file, "--name", "a", "--scope", `a"b`)
	f(usage, `^$`, `^sluice: key new: --expires: expected a date such as 2027-01-31.*got "soon"\n$`, "", "new", "-f", file, "--name", "a", "--expires", "soon")
	f(usage, `^$`, `^sluice: key new: --expires: expected a day or time to come`, "", "new", "-f", file, "--name", "a", "--expires", "2020-01-31")
	f(usage, `^$`, `^sluice: key disable: expected the NAME of a key`, "", "disable", "-f", file)
	f(usage, `^$`, `^sluice: key hash: expected no further arguments, got 1; sluice key --help\n$`, "", "hash", key)
	f(usage, `^$`, `^sluice: key password: --user: expected a user`, "", "password", "--user", "a:b")
}
