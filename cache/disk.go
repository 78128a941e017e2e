package cache

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cespare/xxhash/v2"
)

// The form of a file: a line that names it, then records of a length, a sum and an
// object, then a record of length 0 whose sum is the number of those before it.
const (
	diskHead    = "sluice cache 1\n"
	mostOnDisk  = 2 << 30 // bytes of one record
	recordFixed = 4 + 8
)

// Save writes what the store holds to the file at path, which takes its place as
// a whole and can be read by its owner only. It returns the number of objects.
// Requests may go on meanwhile.
func (s *Store) Save(path string) (n int, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err = w.WriteString(diskHead); err != nil {
		return 0, err
	}
	var buf []byte
	s.Each(func(o *Object) bool {
		buf = AppendObject(append(buf[:0], make([]byte, recordFixed)...), o)
		body := buf[recordFixed:]
		binary.BigEndian.PutUint32(buf, uint32(len(body)))
		binary.BigEndian.PutUint64(buf[4:], xxhash.Sum64(body))
		n++
		_, err = w.Write(buf)
		return err == nil
	})
	if err != nil {
		return 0, err
	}
	var end [recordFixed]byte
	binary.BigEndian.PutUint64(end[4:], uint64(n))
	if _, err = w.Write(end[:]); err != nil {
		return 0, err
	}
	if err = w.Flush(); err != nil {
		return 0, err
	}
	if err = f.Sync(); err != nil {
		return 0, err
	}
	if err = f.Close(); err != nil {
		return 0, err
	}
	return n, os.Rename(f.Name(), path)
}

// ErrNotCache says that a file is not one that Save wrote, or is damaged.
var ErrNotCache = errors.New("not a file of stored answers, or a damaged one")

// Load stores what the file at path holds and is of use at the time now, in Unix
// nanoseconds, and returns the number of objects. It is no error that there is no
// such file. After an error those before it are stored.
func (s *Store) Load(path string, now int64) (n int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	return s.load(bufio.NewReaderSize(f, 1<<20), now)
}

func (s *Store) load(r io.Reader, now int64) (n int, err error) {
	head := make([]byte, len(diskHead))
	if _, err := io.ReadFull(r, head); err != nil || string(head) != diskHead {
		return 0, ErrNotCache
	}
	var fixed [recordFixed]byte
	for read := uint64(0); ; read++ {
		if _, err := io.ReadFull(r, fixed[:]); err != nil {
			return n, ErrNotCache
		}
		size, sum := binary.BigEndian.Uint32(fixed[:]), binary.BigEndian.Uint64(fixed[4:])
		if size == 0 {
			if sum != read {
				return n, ErrNotCache
			}
			return n, nil
		}
		if size > mostOnDisk {
			return n, ErrNotCache
		}
		// Grows with what is there, not with what is promised.
		b, err := io.ReadAll(io.LimitReader(r, int64(size)))
		if err != nil {
			return n, fmt.Errorf("cannot read: %w", err)
		}
		if len(b) != int(size) || xxhash.Sum64(b) != sum {
			return n, ErrNotCache
		}
		o, err := ParseObject(b)
		if err != nil {
			return n, ErrNotCache
		}
		if o.Lists == nil && o.Until() < now && !o.Validates() && o.Sum == 0 {
			continue
		}
		o.Generation = s.Generation(URI(o.Key))
		if s.Put(o) {
			n++
		}
	}
}
