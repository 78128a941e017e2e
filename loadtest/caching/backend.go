package main

import (
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// backend answers what a request's path says, and notes when that came:
//
//	/slow/KEY      after a while, what may be stored
//	/private/KEY   after a while, what may not
//	/plain/KEY     at once; the gateway has no cache there, and the same with
//	/plain/slow/KEY
//	/page/KEY      at once, what may be stored
//	/tagged/KEY    the same, with the surrogate key "many"
//
// An answer is pageSize bytes that begin with the number of the request, so that
// it shows when one is sent to two, and then repeat its path.
type backend struct {
	addr   string
	takes  time.Duration
	server fasthttp.Server

	mu     sync.Mutex
	number int64
	came   map[string][]arrival // only of what is slow: all else is too much
	asked  map[string]int       // of each first word of a path
}

type arrival struct {
	number int64
	at     time.Time
}

const pageSize = 1 << 10

func startBackend(takes time.Duration) (*backend, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &backend{addr: l.Addr().String(), takes: takes, came: map[string][]arrival{}, asked: map[string]int{}}
	b.server.Handler = b.serve
	b.server.NoDefaultServerHeader = true
	go func() { _ = b.server.Serve(l) }()
	return b, nil
}

func (b *backend) close() { _ = b.server.Shutdown() }

func (b *backend) serve(ctx *fasthttp.RequestCtx) {
	at := time.Now()
	path := string(ctx.Path())
	word, _, _ := strings.Cut(path[1:], "/")
	slow := word == "slow" || word == "private" || strings.HasPrefix(path, "/plain/slow/")
	b.mu.Lock()
	b.number++
	number := b.number
	b.asked[word]++
	if slow {
		b.came[path] = append(b.came[path], arrival{number, at})
	}
	b.mu.Unlock()
	h := &ctx.Response.Header
	switch word {
	case "private":
		h.Set("Cache-Control", "private")
	case "tagged":
		h.Set("Surrogate-Key", "many")
		fallthrough
	default:
		h.Set("Cache-Control", "max-age=86400")
	}
	if slow {
		time.Sleep(b.takes)
	}
	ctx.Response.SetBody(pageOf(number, path))
}

// arrivals is when the requests for path came.
func (b *backend) arrivals(path string) []arrival {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.came[path]
}

// count is how many requests began with word.
func (b *backend) count(word string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked[word]
}

func pageOf(number int64, path string) []byte {
	body := append(strconv.AppendInt(make([]byte, 0, pageSize+len(path)), number, 10), '\n')
	for len(body) < pageSize {
		body = append(body, path...)
	}
	return body[:pageSize]
}

// isPage tells whether body is an answer to a request for path, and to which.
func isPage(body []byte, path string) (number int64, ok bool) {
	digits, _, _ := strings.Cut(string(body[:min(len(body), 20)]), "\n")
	number, err := strconv.ParseInt(digits, 10, 64)
	return number, err == nil && string(pageOf(number, path)) == string(body)
}
