package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// promptly tells once what was written to it.
type promptly struct{ wrote chan string }

func (p promptly) Write(b []byte) (int, error) {
	select {
	case p.wrote <- string(b):
	default:
	}
	return len(b), nil
}

// What is typed at a terminal is not shown there.
func TestPasswordIsNotEchoed(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminals here")
	}
	defer master.Close()
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	prompt := promptly{make(chan string, 1)}
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- KeyCommand([]string{"password"}, terminal, &out, prompt) }()
	if got := <-prompt.wrote; got != "password: " {
		t.Errorf("the prompt is %q", got)
	}
	if _, err := io.WriteString(master, "correct horse\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS); err != nil || state.Lflag&unix.ECHO == 0 {
		t.Error("the terminal stays silent afterwards")
	}
	_ = terminal.Close()
	shown, _ := io.ReadAll(master) // ends in EIO, for the other end is closed
	if strings.Contains(string(shown), "horse") {
		t.Errorf("the terminal shows %q", shown)
	}
	h, err := parsePasswordHash(strings.TrimSpace(out.String()))
	if err != nil || !h.check([]byte("correct horse")) {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// A key that cannot be shown is said to be lost, for it is kept nowhere.
func TestKeyThatCannotBeShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	r, w := io.Pipe()
	_ = r.Close()
	err := KeyCommand([]string{"new", "-f", path, "--name", "a"}, nil, w, io.Discard)
	var misused *UsageError
	if err == nil || errors.As(err, &misused) || !strings.Contains(err.Error(), "remove it and make another one") {
		t.Errorf("got %v", err)
	}
}
