package listen

import (
	"io"
	"net"
	"testing"

	"github.com/rs/zerolog"

	"sluice/config"
	"sluice/wire"
)

// BenchmarkConnection is one connection from accept to close, without a byte
// said on it. The client's share is in the figures.
func BenchmarkConnection(b *testing.B) {
	d := New(Options{HTTP1: engineFunc(func(*wire.Conn) error { return nil }), Log: zerolog.Nop()})
	defer d.Close()
	if err := d.Apply([]config.Listener{{Address: "127.0.0.1:0"}}, server()); err != nil {
		b.Fatal(err)
	}
	addr := d.Addrs()[0].String()
	var one [1]byte
	b.ReportAllocs()
	for b.Loop() {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(one[:]); err != io.EOF {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

// BenchmarkAddressCount is the counting of one connection, from many at once.
func BenchmarkAddressCount(b *testing.B) {
	var a addressCount
	a.init()
	key := addressKey(socketAddr(tcp("192.0.2.1:1")).Addr())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if a.enter(key, 1<<30) {
				a.leave(key)
			}
		}
	})
}
