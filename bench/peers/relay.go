package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
)

// relayMain is the sub-command behind the contender "floor": it copies bytes
// between a client and the origin without looking at them. No HTTP proxy that
// keeps one goroutine a connection can cost less.
func relayMain(args []string) error {
	fs := flag.NewFlagSet("relay", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:0", "address to listen on")
	to := fs.String("to", "", "address of the origin")
	if err := fs.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	return relay(l, *to)
}

// relay serves l until it is closed.
func relay(l net.Listener, to string) error {
	for {
		client, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go func() {
			defer client.Close()
			origin, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer origin.Close()
			go copyBytes(origin, client)
			copyBytes(client, origin)
		}()
	}
}

// copyBytes moves bytes until src ends, then passes the end on. It avoids
// io.Copy on purpose: splice needs two calls more for a small message.
func copyBytes(dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	if t, ok := dst.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
}

// discardMain is the sub-command that answers uploads after reading all of
// them. nginx would answer before the body was read.
func discardMain(args []string) error {
	fs := flag.NewFlagSet("discard", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:0", "address to listen on")
	if err := fs.Parse(args); err != nil {
		return err
	}
	return http.ListenAndServe(*listen, http.HandlerFunc(discard))
}

func discard(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintln(w, n)
}
