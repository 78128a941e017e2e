package observe

import (
	"fmt"
	"os"
	"sync"
	"syscall"
)

// openOutput opens where a log goes: stdout, stderr, or a file that is
// appended to. isFile says whether it is the caller's to close and to reopen.
func openOutput(name string) (f *os.File, isFile bool, err error) {
	switch name {
	case "stdout":
		return os.Stdout, false, nil
	case "stderr":
		return os.Stderr, false, nil
	case "":
		return nil, false, fmt.Errorf("expected stdout, stderr or a file as a log's output, got none")
	}
	// O_NONBLOCK changes nothing for a file; it makes a FIFO that nobody reads
	// an error here instead of a start that hangs.
	f, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, false, fmt.Errorf("cannot open log output: %w", err)
	}
	return f, true, nil
}

// Output is an open log output whose file can be opened again while in use.
// All methods are safe for concurrent use.
type Output struct {
	name   string
	isFile bool
	mu     sync.Mutex
	file   *os.File
}

// Write appends p. It blocks while the output does.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.file.Write(p)
}

// Reopen opens the file anew, so that logrotate may have moved the old one
// away. On an error the old file stays in use. stdout and stderr stay as they are.
func (o *Output) Reopen() error {
	if !o.isFile {
		return nil
	}
	f, _, err := openOutput(o.name)
	if err != nil {
		return err
	}
	o.mu.Lock()
	old := o.file
	o.file = f
	o.mu.Unlock()
	return old.Close()
}

// Close closes a file; stdout and stderr stay open.
func (o *Output) Close() error {
	if !o.isFile {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.file.Close()
}
