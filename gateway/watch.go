package gateway

import (
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"
)

// FileWatch tells when one of a set of files may have changed.
type FileWatch struct {
	Changed chan struct{} // one token for any number of changes

	log    zerolog.Logger
	notify *fsnotify.Watcher // nil when the system gives none
	done   chan struct{}

	mu    sync.Mutex // guards what follows
	files map[string]bool
	dirs  map[string]bool
}

// settleTime is how long a file must have been left alone: editors write in
// several steps.
const settleTime = 100 * time.Millisecond

// WatchFiles returns a watch of no files.
func WatchFiles(log zerolog.Logger) *FileWatch {
	w := &FileWatch{Changed: make(chan struct{}, 1), log: log, done: make(chan struct{}), files: map[string]bool{}, dirs: map[string]bool{}}
	n, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn().Err(err).Msg("configuration files are not watched")
		close(w.done)
		return w
	}
	w.notify = n
	go w.run()
	return w
}

// Set makes files the ones that are watched. Their folders are, so that a file
// that is replaced, as editors and configuration management do it, is seen too.
func (w *FileWatch) Set(files []string) {
	if w.notify == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.files)
	dirs := map[string]bool{}
	for _, f := range files {
		abs, err := filepath.Abs(f)
		if err != nil {
			continue
		}
		w.files[abs] = true
		dirs[filepath.Dir(abs)] = true
		// A file behind a link changes where the link points.
		if real, err := filepath.EvalSymlinks(abs); err == nil && real != abs {
			w.files[real] = true
			dirs[filepath.Dir(real)] = true
		}
	}
	for dir := range dirs {
		if !w.dirs[dir] {
			if err := w.notify.Add(dir); err != nil {
				w.log.Warn().Err(err).Str("folder", dir).Msg("configuration folder is not watched")
				continue
			}
			w.dirs[dir] = true
		}
	}
	for dir := range w.dirs {
		if !dirs[dir] {
			_ = w.notify.Remove(dir)
			delete(w.dirs, dir)
		}
	}
}

// Close ends the watch.
func (w *FileWatch) Close() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
	<-w.done
}

func (w *FileWatch) run() {
	defer close(w.done)
	settle := time.NewTimer(time.Hour)
	settle.Stop()
	for {
		select {
		case e, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if w.concerns(e) {
				settle.Reset(settleTime)
			}
		case _, ok := <-w.notify.Errors:
			if !ok {
				return
			}
			// Events were lost; look again rather than miss a change.
			settle.Reset(settleTime)
		case <-settle.C:
			select {
			case w.Changed <- struct{}{}:
			default:
			}
		}
	}
}

func (w *FileWatch) concerns(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// Kubernetes swaps the link ..data beside the files.
	return w.files[filepath.Clean(e.Name)] || filepath.Base(e.Name) == "..data"
}
