package auth

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"

	"sluice/observe"
)

// watchedFile keeps what was read from one file in step with it. The folder is
// watched, so that a file replaced by rename is seen; every lookAgain the file's
// stamp is compared too, for file systems that tell nothing (NFS, some mounts).
//
// A file that cannot be read or has a mistake changes nothing: what was read
// last stays, and the log and a counter say so. One goroutine runs between start
// and stop; it alone calls use after first.
type watchedFile struct {
	path  string
	name  string // of the authenticator, for the log
	most  int64  // bytes
	log   zerolog.Logger
	use   func(text []byte) error // puts text in use, or returns what is wrong with it
	stamp fileStamp               // of what was looked at last
	done  chan struct{}
	once  sync.Once

	reloaded observe.Counter
	refused  observe.Counter
	loaded   atomic.Int64 // when what is in use was read, in Unix seconds
	mistake  atomic.Pointer[string]
}

// fileStamp changes when a file is written or replaced.
type fileStamp struct {
	device, inode uint64
	size          int64
	modified      int64 // nanoseconds
}

const (
	settleTime = 100 * time.Millisecond // a file is left alone for so long before it is read: editors write in steps
	settleMost = time.Second            // and no longer than this after the first change
	lookAgain  = 5 * time.Second
)

// openWatched reads path for the first time.
func openWatched(path, name string, most int64, log zerolog.Logger, use func([]byte) error) (*watchedFile, error) {
	w := &watchedFile{path: path, name: name, most: most, log: log, use: use, done: make(chan struct{})}
	text, stamp, err := readRegular(path, most)
	for tries := 1; errors.Is(err, errMoving) && tries < 3; tries++ {
		text, stamp, err = readRegular(path, most)
	}
	if err != nil {
		return nil, err
	}
	if err := use(text); err != nil {
		return nil, err
	}
	w.stamp = stamp
	w.loaded.Store(time.Now().Unix())
	return w, nil
}

func (w *watchedFile) start() { go w.run() }
func (w *watchedFile) stop()  { w.once.Do(func() { close(w.done) }) }

func (w *watchedFile) run() {
	var events chan fsnotify.Event
	var lost chan error
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn().Err(err).Str("auth", w.name).Str("file", w.path).Msg("changes of the file are seen late: the system gives no watch")
	} else {
		defer notify.Close()
		events, lost = notify.Events, notify.Errors
	}
	watched := map[string]bool{}
	names := w.follow(notify, watched)
	// The file may have changed between the first reading and now.
	settle := time.NewTimer(0)
	defer settle.Stop()
	var since time.Time // of the first change that is not looked at yet
	changed := func() {
		if since.IsZero() {
			since = time.Now()
		}
		settle.Reset(min(settleTime, max(settleMost-time.Since(since), 0)))
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-w.done:
			return
		case e := <-events:
			if e.Op != fsnotify.Chmod && (names[filepath.Clean(e.Name)] || filepath.Base(e.Name) == "..data") {
				changed()
			}
		case <-lost:
			changed()
		case <-tick.C:
			names = w.follow(notify, watched)
			if stamp, err := stampOf(w.path); err != nil && w.stamp != (fileStamp{}) || err == nil && stamp != w.stamp {
				changed()
			}
		case <-settle.C:
			overdue := !since.IsZero() && time.Since(since) >= settleMost
			if !w.look(overdue) {
				if overdue {
					since = time.Time{}
				}
				changed()
				continue
			}
			since = time.Time{}
			names = w.follow(notify, watched)
		}
	}
}

// follow watches the folders of the file and of what it links to, and returns
// the names that matter.
func (w *watchedFile) follow(notify *fsnotify.Watcher, watched map[string]bool) map[string]bool {
	names := map[string]bool{}
	if notify == nil {
		return names
	}
	abs, err := filepath.Abs(w.path)
	if err != nil {
		return names
	}
	names[abs] = true
	if target, err := filepath.EvalSymlinks(abs); err == nil {
		names[target] = true
	}
	folders := map[string]bool{}
	for name := range names {
		folders[filepath.Dir(name)] = true
	}
	for folder := range folders {
		// A folder that was removed and made again needs a new watch, which
		// for one that is still watched changes nothing.
		if notify.Add(folder) == nil {
			watched[folder] = true
		}
	}
	for folder := range watched {
		if !folders[folder] {
			_ = notify.Remove(folder)
			delete(watched, folder)
		}
	}
	return names
}

// look reads the file if it has changed. It returns false when the file seems
// to be at work: written just now, unless overdue, or while it was read. What is
// there of a file that is being written may well be read without a mistake, with
// half of its keys.
func (w *watchedFile) look(overdue bool) bool {
	stamp, err := stampOf(w.path)
	if err == nil && stamp == w.stamp {
		return true
	}
	// The time of a file may be another machine's, and in the future.
	if age := time.Since(time.Unix(0, stamp.modified)); err == nil && age >= 0 && age < settleTime && !overdue {
		return false
	}
	var text []byte
	if err == nil {
		text, stamp, err = readRegular(w.path, w.most)
		if errors.Is(err, errMoving) {
			return false
		}
	}
	if err != nil {
		stamp = fileStamp{}
		if was := w.mistake.Load(); was != nil && *was == reasonOf(err).Error() {
			return true
		}
	} else {
		err = w.use(text)
	}
	w.stamp = stamp
	if err != nil {
		why := reasonOf(err).Error()
		w.mistake.Store(&why)
		w.refused.Inc()
		w.log.Error().Str("auth", w.name).Str("file", w.path).Str("mistakes", why).Msg("file refused, what was read last stays")
		return true
	}
	w.mistake.Store(nil)
	w.reloaded.Inc()
	w.loaded.Store(time.Now().Unix())
	w.log.Info().Str("auth", w.name).Str("file", w.path).Msg("file in use")
	return true
}

// state fills in what there is to show.
func (w *watchedFile) state(detail map[string]string) {
	detail["file"] = w.path
	detail["loaded"] = time.Unix(w.loaded.Load(), 0).UTC().Format(time.RFC3339)
	if why := w.mistake.Load(); why != nil {
		detail["mistakes"] = *why
	}
}

func (w *watchedFile) counts() map[string]uint64 {
	return map[string]uint64{"file_reloaded": w.reloaded.Load(), "file_refused": w.refused.Load()}
}

var errMoving = errors.New("the file is being written")

// readRegular reads a whole file of at most most bytes. It refuses a pipe, a
// device or a terminal, which would block, and a file that changes meanwhile.
func readRegular(path string, most int64) ([]byte, fileStamp, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileStamp{}, reasonOf(err)
	}
	defer file.Close()
	before, err := file.Stat()
	switch {
	case err != nil:
		return nil, fileStamp{}, reasonOf(err)
	case before.IsDir():
		return nil, fileStamp{}, syscall.EISDIR
	case !before.Mode().IsRegular():
		return nil, fileStamp{}, errors.New("not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, fileStamp{}, reasonOf(err)
	}
	after, err := file.Stat()
	if err != nil {
		return nil, fileStamp{}, reasonOf(err)
	}
	if stampOfInfo(before) != stampOfInfo(after) {
		return nil, fileStamp{}, errMoving
	}
	if int64(len(text)) > most {
		return nil, fileStamp{}, &fileMistakes{File: path, List: []fileMistake{{1, 1, "", "expected a file of at most " + sizeText(most)}}}
	}
	return text, stampOfInfo(after), nil
}

func stampOf(path string) (fileStamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{}, reasonOf(err)
	}
	return stampOfInfo(info), nil
}

func stampOfInfo(info os.FileInfo) fileStamp {
	s := fileStamp{size: info.Size(), modified: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode = uint64(sys.Dev), sys.Ino
	}
	return s
}

// reasonOf cuts the operation and the path off an error of package os.
func reasonOf(err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}
