package encode

import (
	"runtime"
	"sync"
)

// pool keeps encoders of one kind. Those in turns are few and kept for good;
// without turns there may be any number, and the garbage collector takes those
// that are not used.
type pool struct {
	coding Coding
	level  level
	use    use
	idle   sync.Pool
	turns  chan *encoder // nil stands for an encoder that was not needed yet
}

// take returns an encoder, ready for a new body. It may wait for a turn.
func (p *pool) take() *encoder {
	var e *encoder
	if p.turns != nil {
		e = <-p.turns
	} else {
		e, _ = p.idle.Get().(*encoder)
	}
	if e == nil {
		e = newEncoder(p.coding, p.level, p.use)
	}
	return e
}

// give takes back what take returned. sound is false for an encoder that failed,
// which is not used again.
func (p *pool) give(e *encoder, sound bool) {
	e.sink.b = nil
	if sound && (p.coding != Zstd || p.use == pieces) {
		e.w.Reset(&e.sink)
	}
	switch {
	case p.turns != nil && sound:
		p.turns <- e
	case p.turns != nil:
		p.turns <- nil
	case sound:
		p.idle.Put(e)
	}
}

const mostTurns = 8

var pools = func() *[2][levels][codings]pool {
	all := new([2][levels][codings]pool)
	for u := range all {
		for l := range all[u] {
			for c := range all[u][l] {
				p := &all[u][l][c]
				p.coding, p.level, p.use = Coding(c), level(l), use(u)
			}
		}
	}
	for _, c := range []Coding{Brotli, Zstd} {
		turns := make(chan *encoder, min(runtime.GOMAXPROCS(0), mostTurns))
		for range cap(turns) {
			turns <- nil
		}
		all[wholeBodies][small][c].turns = turns
	}
	return all
}()
