package proxy

import (
	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// arrival reads the body of an answer piece by piece, without waiting.
type arrival struct {
	conn       *pool.Conn
	chunked    bool
	untilClose bool
	left       int64
	chunks     wire.Chunked
}

func newArrival(conn *pool.Conn, res *wire.Response) arrival {
	return arrival{conn: conn, chunked: res.Chunked, untilClose: res.UntilClose, left: res.Length}
}

// buffered takes a piece of the body from what has been read.
func (a *arrival) buffered() (piece []byte, done bool, f fault.Kind) {
	c := a.conn
	switch {
	case a.chunked:
		data, used, done, bad := a.chunks.Next(c.Buf[c.R:c.W])
		if c.R += used; bad != nil {
			return nil, false, fault.BadAnswer
		}
		return data, done, fault.None
	case a.untilClose:
		piece = c.Buf[c.R:c.W]
		c.R = c.W
		return piece, false, fault.None
	}
	piece = c.Buf[c.R : c.R+int(min(a.left, int64(c.W-c.R)))]
	c.R += len(piece)
	a.left -= int64(len(piece))
	return piece, a.left == 0, fault.None
}
