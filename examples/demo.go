// Package examples holds configurations to start from, which the tests run,
// and the demonstration that `sluice demo` serves: demo.yaml with two backends
// that live in the same process, on ports the system chooses.
package examples

import (
	"bufio"
	_ "embed"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/valyala/fasthttp"
)

//go:embed demo.yaml
var demoYAML []byte

//go:embed demo.keys
var demoKeys []byte

// Demo is the running backends of the demonstration.
type Demo struct {
	ConfigFile string   // the configuration to serve
	Environ    []string // the variables that it needs
	Help       string   // what to try

	dir     string
	servers []*fasthttp.Server
}

const help = `Sluice demo: http://localhost:8080 with two backends inside this process. Try:

  curl -i  localhost:8080/                      a fixed answer
  curl -i  localhost:8080/users/7               forwarded, path rewritten, header added
  curl -i  localhost:8080/catalogue             from memory for 10 s: read Age and Cache-Status
  curl     localhost:8080/orders                balanced over two targets: repeat it
  curl -i  localhost:8080/account               401: a key is needed
  curl -i  -HX-API-Key:slk_VUlW7YSJJ6LCuCVfJXN2qDQIdufOpj3nnSCbvXaZWCN31pW9p localhost:8080/account
                                                200, who it is told to the target; 429 when repeated quickly
  curl -N  localhost:8080/events                an event stream, event by event
  curl -i  localhost:8080/u/7                   a redirect
  curl -i -X POST localhost:8080/users/7        405 with Allow
  curl -s  localhost:9901/auth                  the authenticators and what they hold
  curl -s  localhost:9901/upstreams             the private door: live state
  curl -i -X POST localhost:9901/cache/purge?all  end what is stored
  curl -s  localhost:9901/metrics | grep sluice_requests
  bin/sluice explain -c examples/demo.yaml GET http://localhost/users/7

The configuration is examples/demo.yaml. Stop with ^C.

`

// StartDemo starts the backends. Close ends them.
func StartDemo() (*Demo, error) {
	d := &Demo{Help: help}
	dir, err := os.MkdirTemp("", "sluice-demo-")
	if err != nil {
		return nil, err
	}
	d.dir = dir
	d.ConfigFile = filepath.Join(dir, "demo.yaml")
	keys := filepath.Join(dir, "demo.keys")
	for file, text := range map[string][]byte{d.ConfigFile: demoYAML, keys: demoKeys} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return nil, err
		}
	}
	d.Environ = append(d.Environ, "DEMO_KEYS="+keys)
	for _, b := range []struct {
		name    string
		handler fasthttp.RequestHandler
	}{
		{"DEMO_USERS", users},
		{"DEMO_ORDERS_1", orders("one")},
		{"DEMO_ORDERS_2", orders("two")},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			d.Close()
			return nil, err
		}
		s := &fasthttp.Server{Handler: b.handler, Name: "demo"}
		d.servers = append(d.servers, s)
		d.Environ = append(d.Environ, fmt.Sprintf("%s=http://%s", b.name, l.Addr()))
		go func() { _ = s.Serve(l) }()
	}
	return d, nil
}

// Close ends the backends and removes what StartDemo wrote.
func (d *Demo) Close() {
	for _, s := range d.servers {
		_ = s.Shutdown()
	}
	_ = os.RemoveAll(d.dir)
}

func users(ctx *fasthttp.RequestCtx) {
	if string(ctx.Path()) == "/events" {
		ctx.SetContentType("text/event-stream")
		ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
			for i := range 10 {
				fmt.Fprintf(w, "data: event %d\n\n", i)
				if w.Flush() != nil {
					return
				}
				time.Sleep(500 * time.Millisecond)
			}
		})
		return
	}
	ctx.SetContentType("application/json")
	fmt.Fprintf(ctx, "{\"path\":%q,\"client\":%q,\"request_id\":%q,\"partner\":%q}\n", ctx.Path(), ctx.Request.Header.Peek("X-Forwarded-For"), ctx.Request.Header.Peek("X-Request-Id"), ctx.Request.Header.Peek("X-Partner"))
}

func orders(name string) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("application/json")
		fmt.Fprintf(ctx, "{\"served_by\":%q,\"orders\":[]}\n", name)
	}
}
