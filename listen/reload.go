package listen

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A certificate and its key are written one after the other. Files are read
// when nothing has happened for settle, or busy after the first event, and
// every poll in any case: on some file systems changes make no event.
const (
	settle = 100 * time.Millisecond
	busy   = time.Second
	poll   = time.Minute
)

// fileWatch tells when files may have changed. It watches directories, for
// tools that renew certificates put new files, or new symbolic links, in place
// of old ones.
type fileWatch struct {
	events  *fsnotify.Watcher               // nil when the system has none to give: poll alone
	ways    atomic.Pointer[map[string]bool] // the paths to listen for
	quit    chan struct{}
	stopped chan struct{}
}

// watchFiles makes the watch follow the files of the open doors, once any door
// speaks TLS, and reads those that have changed. The caller holds d.mu.
func (d *Doors) watchFiles() {
	ids := d.identities()
	if d.watch == nil {
		if len(ids) == 0 {
			return
		}
		events, err := fsnotify.NewWatcher()
		if err != nil {
			events = nil
			d.log.Warn().Err(err).Dur("every", poll).Msg("cannot watch certificate files, reading them from time to time instead")
		}
		d.watch = &fileWatch{events: events, quit: make(chan struct{}), stopped: make(chan struct{})}
		d.watch.ways.Store(new(map[string]bool))
		d.follow(ids)
		go d.watch.run(d.reloadFiles)
	} else {
		d.follow(ids)
	}
	// After follow, so that a change in between is seen by one of the two.
	d.refresh(ids)
}

// reloadFiles is called by the watch.
func (d *Doors) reloadFiles() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	ids := d.identities()
	d.follow(ids)
	d.refresh(ids)
}

func (d *Doors) identities() []*identity {
	var ids []*identity
	for _, o := range d.doors {
		if id := o.settings.Load().tls; id != nil {
			ids = append(ids, id)
		}
	}
	return ids
}

func (d *Doors) refresh(ids []*identity) {
	for _, id := range ids {
		changed, broken := id.refresh()
		for _, file := range changed {
			d.log.Info().Str("file", file).Msg("certificate reloaded")
		}
		for _, err := range broken {
			d.reloadErrors.Add(1)
			d.log.Error().Err(err).Msg("certificate not reloaded, the one before stays in use")
		}
	}
	if d.refreshed != nil {
		d.refreshed()
	}
}

// follow watches every directory in which an entry on the way to a file could
// be put in place of another.
func (d *Doors) follow(ids []*identity) {
	w := d.watch
	if w.events == nil {
		return
	}
	ways, dirs := make(map[string]bool), make(map[string]bool)
	for _, id := range ids {
		for _, file := range id.files() {
			for _, way := range wayTo(file) {
				ways[way] = true
				dirs[filepath.Dir(way)] = true
			}
		}
	}
	w.ways.Store(&ways) // before the watches, whose events it tells apart
	for _, dir := range w.events.WatchList() {
		if !dirs[dir] {
			_ = w.events.Remove(dir)
		}
	}
	for dir := range dirs {
		// A directory that is not there, or one too many for the system, is
		// left to the poll.
		_ = w.events.Add(dir)
	}
}

// wayTo lists, as paths without symbolic links before their last element, the
// entries that decide which file is opened under this name: every link on the
// way, and the file at its end.
func wayTo(file string) []string {
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil
	}
	var ways []string
	at, rest := "/", strings.Split(abs, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		target, err := os.Readlink(next)
		if err != nil {
			if len(rest) == 0 {
				ways = append(ways, next)
			}
			at = next
			continue
		}
		ways = append(ways, next)
		if links++; links > 40 { // the kernel gives up here too
			return ways
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return ways
}

// run calls changed, from one goroutine, until stop.
func (w *fileWatch) run(changed func()) {
	defer close(w.stopped)
	var events <-chan fsnotify.Event
	var lost <-chan error
	if w.events != nil {
		events, lost = w.events.Events, w.events.Errors
		defer func() { _ = w.events.Close() }()
	}
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	quiet := time.NewTimer(0)
	quiet.Stop()
	var first time.Time // of the events that are not dealt with
	for {
		select {
		case <-w.quit:
			return
		case e := <-events:
			if !(*w.ways.Load())[filepath.Clean(e.Name)] {
				continue
			}
		case <-lost: // the queue ran over: anything may have happened
		case <-ticker.C:
			changed()
			continue
		case <-quiet.C:
			first = time.Time{}
			changed()
			continue
		}
		now := time.Now()
		if first.IsZero() {
			first = now
		}
		quiet.Reset(max(0, min(settle, busy-now.Sub(first))))
	}
}

// stop ends the watch and waits for it. The caller must not hold Doors.mu,
// which a reload may be waiting for.
func (w *fileWatch) stop() {
	close(w.quit)
	<-w.stopped
}
