package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"sluice/setting"
)

const keyUsage = `Keys and passwords for authenticators, see docs/auth.md.

Usage:
  sluice key new -f FILE --name NAME [--scope S]... [--meta CLAIM=VALUE]...
                 [--limit NAME=RATE]... [--expires DATE]
                                           make a key, add its hash to FILE, print it
  sluice key hash < KEY                    print the hash of a key that exists
  sluice key list -f FILE                  list the keys of FILE
  sluice key disable -f FILE NAME          refuse a key from now on
  sluice key remove -f FILE NAME           take a key out
  sluice key password [--user USER] [--bcrypt] < PASSWORD
                                           print a line for a password file

The key, hash or line is printed on standard output, all else on standard error.
A running gateway sees a changed file by itself.
`

var keyCommands = []string{"new", "hash", "list", "disable", "remove", "password"}

// UsageError is a mistake in a command line.
type UsageError struct{ Err error }

func (u *UsageError) Error() string { return u.Err.Error() }

// Unwrap returns the mistake itself.
func (u *UsageError) Unwrap() error { return u.Err }

func misused(format string, args ...any) error {
	return &UsageError{fmt.Errorf(format, args...)}
}

// KeyCommand runs sluice key. args are the words after key; keys and passwords
// are read from in and never from args, which every user of the machine can see.
// An error is a *UsageError when the words are wrong.
func KeyCommand(args []string, in io.Reader, out, errs io.Writer) error {
	command := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	flags := pflag.NewFlagSet("sluice key", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	help := flags.BoolP("help", "h", false, "")
	c := &keyCommand{in: in, out: out, errs: errs}
	operands, run := 0, (func([]string) error)(nil)
	file := func() { flags.StringVarP(&c.file, "file", "f", "", "") }
	switch command {
	case "new":
		file()
		flags.StringVar(&c.name, "name", "", "")
		flags.StringArrayVar(&c.scopes, "scope", nil, "")
		flags.StringArrayVar(&c.meta, "meta", nil, "")
		flags.StringArrayVar(&c.limits, "limit", nil, "")
		flags.StringVar(&c.expires, "expires", "", "")
		run = c.make
	case "hash":
		run = c.hash
	case "list":
		file()
		run = c.list
	case "disable":
		file()
		operands, run = 1, c.disable
	case "remove":
		file()
		operands, run = 1, c.remove
	case "password":
		flags.StringVar(&c.user, "user", "", "")
		flags.BoolVar(&c.bcrypt, "bcrypt", false, "")
		run = c.password
	case "", "help":
	default:
		near := ""
		if meant := setting.Nearest(command, keyCommands); meant != "" {
			near = "; did you mean " + meant + "?"
		}
		return misused("key: expected one of %s, got %q%s; sluice key --help", strings.Join(keyCommands, ", "), command, near)
	}
	if err := flags.Parse(args); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return misused("key %s: %v; sluice key --help", command, err)
	}
	if *help || command == "help" {
		_, err := io.WriteString(out, keyUsage)
		return err
	}
	if command == "" {
		return misused("key: expected one of %s; sluice key --help", strings.Join(keyCommands, ", "))
	}
	if flags.Lookup("file") != nil && c.file == "" {
		return misused("key %s: expected -f FILE; sluice key --help", command)
	}
	switch left := flags.Args(); {
	case len(left) < operands:
		return misused("key %s: expected the NAME of a key; sluice key --help", command)
	case len(left) > operands:
		return misused("key %s: expected no further arguments, got %d; sluice key --help", command, len(left)-operands)
	default:
		return run(left)
	}
}

type keyCommand struct {
	in        io.Reader
	out, errs io.Writer

	file, name, expires, user string
	scopes, meta, limits      []string
	bcrypt                    bool
}

// say tells what was done, beside what scripts read.
func (c *keyCommand) say(format string, args ...any) {
	fmt.Fprintf(c.errs, "sluice: "+format+"\n", args...)
}

func (c *keyCommand) make([]string) error {
	k := keyEntry{name: c.name, metadata: map[string]any{}, limits: map[string]string{}}
	if err := checkName(c.name); err != nil {
		return misused("key new: --name: %w", err)
	}
	for _, s := range c.scopes {
		for _, scope := range strings.Fields(s) {
			if !isScope(scope) {
				return misused("key new: --scope: expected "+scopeWant+", got %q", scope)
			}
			k.scopes = append(k.scopes, scope)
		}
	}
	for _, pair := range c.meta {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return misused("key new: --meta: expected CLAIM=VALUE, got %q", pair)
		}
		if err := checkClaim(name); err != nil {
			return misused("key new: --meta: %w", err)
		}
		if _, fits := printable(value); !fits || !utf8.ValidString(value) {
			return misused("key new: --meta: expected a text of one line and at most %d bytes for %s", mostText, name)
		}
		if _, twice := k.metadata[name]; twice {
			return misused("key new: --meta: expected each claim once, got %s twice", name)
		}
		k.metadata[name] = value
	}
	for _, pair := range c.limits {
		name, rate, _ := strings.Cut(pair, "=")
		if !isScope(name) || !isRate(rate) {
			return misused("key new: --limit: expected NAME=RATE with "+rateWant+", got %q", pair)
		}
		if _, twice := k.limits[name]; twice {
			return misused("key new: --limit: expected each limit once, got %s twice", name)
		}
		k.limits[name] = rate
	}
	if c.expires != "" {
		var err error
		if k.expires, err = parseExpires(c.expires); err != nil {
			return misused("key new: --expires: %w, got %q", err, c.expires)
		}
		if !time.Now().Before(k.expires) {
			return misused("key new: --expires: expected a day or time to come, got %q", c.expires)
		}
	}
	key := newKey()
	hash := keyHash([]byte(key))
	k.hash, _ = parseHash(hash)
	if err := editKeys(c.file, true, func(e *keyEdit) error { return e.add(k, hash, c.expires) }); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c.out, key); err != nil {
		return fmt.Errorf("key %q was added to %s but cannot be shown: remove it and make another one", c.name, c.file)
	}
	c.say("key %q added to %s; it is shown this once and kept nowhere", c.name, c.file)
	return nil
}

func (c *keyCommand) hash([]string) error {
	key, err := c.secret("key", mostKey)
	if err != nil {
		return err
	}
	if err := checkImported(key); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "hash: %s\n", keyHash(key))
	return err
}

func (c *keyCommand) list([]string) error {
	text, _, err := readRegular(c.file, mostKeyFile)
	if err != nil {
		return located(c.file, err)
	}
	keys, err := parseKeys(c.file, text)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, row := range keyTable(keys, time.Now()) {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func (c *keyCommand) disable(names []string) error {
	if err := editKeys(c.file, false, func(e *keyEdit) error { return e.disable(names[0]) }); err != nil {
		return err
	}
	c.say("key %q disabled in %s", names[0], c.file)
	return nil
}

func (c *keyCommand) remove(names []string) error {
	if err := editKeys(c.file, false, func(e *keyEdit) error { return e.remove(names[0]) }); err != nil {
		return err
	}
	c.say("key %q removed from %s", names[0], c.file)
	return nil
}

func unknownKey(name string, known []string) error {
	if checkName(name) != nil {
		return errors.New("expected the name of a key")
	}
	if near := setting.Nearest(name, known); near != "" {
		return fmt.Errorf("no key is called %q; did you mean %q?", name, near)
	}
	return fmt.Errorf("no key is called %q", name)
}

func (c *keyCommand) password([]string) error {
	if c.user != "" {
		if err := checkUser(c.user); err != nil {
			return misused("key password: --user: %w", err)
		}
	}
	password, err := c.secret("password", mostPassword)
	if err != nil {
		return err
	}
	hash, err := hashPassword(password, c.bcrypt)
	if err != nil {
		return err
	}
	if c.user != "" {
		hash = c.user + ":" + hash
	}
	_, err = fmt.Fprintln(c.out, hash)
	return err
}

// secret reads one line of at most most bytes. A terminal is asked, without
// showing what is typed.
func (c *keyCommand) secret(what string, most int) ([]byte, error) {
	if f, ok := c.in.(*os.File); ok {
		if state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			silent := *state
			silent.Lflag &^= unix.ECHO
			if unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &silent) == nil {
				defer func() {
					_ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, state)
					fmt.Fprintln(c.errs)
				}()
			}
			fmt.Fprintf(c.errs, "%s: ", what)
			return c.line(what, most, readLine)
		}
	}
	return c.line(what, most, io.ReadAll)
}

func (c *keyCommand) line(what string, most int, read func(io.Reader) ([]byte, error)) ([]byte, error) {
	text, err := read(io.LimitReader(c.in, int64(most)+3))
	if err != nil {
		return nil, fmt.Errorf("cannot read the %s: %w", what, reasonOf(err))
	}
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	switch {
	case len(text) == 0:
		return nil, fmt.Errorf("expected a %s on standard input, got nothing", what)
	case bytes.ContainsAny(text, "\r\n"):
		return nil, fmt.Errorf("expected a %s of one line", what)
	case len(text) > most:
		return nil, fmt.Errorf("expected a %s of at most %d bytes", what, most)
	}
	return text, nil
}

// readLine reads up to the end of a line: a terminal that is read to its end
// waits for more.
func readLine(r io.Reader) (line []byte, err error) {
	for b := []byte{0}; ; {
		n, err := r.Read(b)
		if n == 1 {
			if line = append(line, b[0]); b[0] == '\n' {
				return line, nil
			}
		}
		if errors.Is(err, io.EOF) {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
