package cache

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A body that is large and asked for often is also laid into a file of memory
// (memfd_create(2)), from which the kernel sends its pages without copying them.
// Such a file counts towards the hot tier's bytes.
const (
	fileFrom  = 32 << 10 // bytes of a body
	fileAfter = 8        // times that it was sent
	mostFiles = 1024
)

// file is the descriptor of a file of memory plus one, or why there is none.
type file struct {
	state atomic.Int32
	sent  atomic.Uint32
}

const (
	noFile   int32 = 0
	making   int32 = -1
	fileless int32 = -2
)

// File returns the descriptor of a file that holds o's body, while o is
// referenced. ok is false for a body that has none.
func (o *Object) File() (fd int, ok bool) {
	if len(o.Body) < fileFrom || o.tier == nil {
		return 0, false
	}
	switch s := o.file.state.Load(); {
	case s > 0:
		return int(s - 1), true
	case s == noFile:
		if o.file.sent.Add(1) >= fileAfter && o.file.state.CompareAndSwap(noFile, making) {
			o.makeFile()
		}
	}
	return 0, false
}

func (o *Object) makeFile() {
	h, size := o.tier, int64(len(o.Body))
	fd := -1
	if h.bytes.Add(size) <= h.most && h.files.Load() < mostFiles {
		if fd = fileOf(o.Body); fd >= 0 {
			h.files.Add(1)
		}
	}
	if fd < 0 {
		// There may be room when it is next read into this tier.
		h.bytes.Add(-size)
		o.file.state.Store(fileless)
		return
	}
	runtime.AddCleanup(o, func(fd int) {
		_ = unix.Close(fd)
		h.bytes.Add(-size)
		h.files.Add(-1)
	}, fd)
	o.file.state.Store(int32(fd) + 1)
}

// fileOf returns a file of memory with this content that nobody can change, or -1.
func fileOf(b []byte) int {
	fd, err := unix.MemfdCreate("sluice", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1
	}
	for at := 0; at < len(b); {
		n, err := unix.Pwrite(fd, b[at:], int64(at))
		if err != nil || n == 0 {
			_ = unix.Close(fd)
			return -1
		}
		at += n
	}
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL)
	return fd
}
