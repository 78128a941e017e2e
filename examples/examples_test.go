package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"sluice/config"
	"sluice/examples"
	"sluice/fault"
	"sluice/gateway"
	"sluice/listen"
	"sluice/observe"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The worker pool of a closed door sweeps once more, at its next tick.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
	)
}

// patience is how long a test waits for what must happen. No test waits for it
// when all is well.
const patience = 20 * time.Second

// production is deploy's file to start from, which is held to the same.
const production = "../deploy/sluice.yaml"

// TestEveryExample loads and compiles each file as `sluice check` does.
func TestEveryExample(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range append(files, production) {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(text, []byte("# ")) {
				t.Error("expected a comment at the start that says what the example is for")
			}
			cfg := load(t, file, demoEnviron)
			withCertificates(t, cfg)
			if err := listen.Check(cfg.Listen); err != nil {
				t.Error(err)
			}
			cfg.Log.Access.Enabled = false
			g := gateway.New(observe.NewMetrics(observe.Build{}, fault.Names()), zerolog.Nop())
			defer g.Close()
			next, err := g.Prepare(cfg)
			if err != nil {
				t.Fatal(err)
			}
			g.Discard(next)
		})
	}
}

// TestProductionAsItStands holds deploy/sluice.yaml to more: it must pass
// without any file or variable beside it.
func TestProductionAsItStands(t *testing.T) {
	cfg := load(t, production, nil)
	if err := listen.Check(cfg.Listen); err != nil {
		t.Error(err)
	}
}

func TestProxy(t *testing.T) {
	e := start(t, "proxy.yaml", nil)
	e.get("/robots.txt").want(t, 200, "Disallow: /api/")
	e.get("/api/users/7?q=1").want(t, 200, "api GET /users/7?q=1")
	e.get("/api").want(t, 200, "api GET /")
	home := e.get("/home")
	home.want(t, 200, "app GET /home")
	if home.header.Get("X-Powered-By") != "" || home.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("got %v, expected the header changed as the route says", home.header)
	}
	e.send("POST", "/api/x", strings.Repeat("x", 1<<20+1)).want(t, 413, "body-too-large")
}

func TestHostsTLS(t *testing.T) {
	e := start(t, "hosts-tls.yaml", nil)
	for _, c := range []struct{ host, certificate, body string }{
		{"www.example.com", "www.example.com", "www GET /x"},
		{"api.example.com", "api.example.com", "api GET /x\nHost: api.internal"},
		{"shop.example.net", "*.example.net", "X-Tenant-Host: shop.example.net"},
		{"b.shop.example.net", "www.example.com", "X-Tenant-Host: b.shop.example.net"},
	} {
		t.Run(c.host, func(t *testing.T) {
			conn, err := tls.Dial("tcp", e.addrs[1], &tls.Config{ServerName: c.host, InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			if got := conn.ConnectionState().PeerCertificates[0].DNSNames[0]; got != c.certificate {
				t.Errorf("got the certificate of %s, expected that of %s", got, c.certificate)
			}
			ask(t, conn, "GET /x HTTP/1.1\r\nHost: "+c.host+"\r\n\r\n").want(t, 200, c.body)
		})
	}
	r := e.sendTo(0, "GET", "example.com", "/a/b", "")
	r.want(t, 301, "")
	if got := r.header.Get("Location"); got != "https://www.example.com/a/b" {
		t.Errorf("got Location %q", got)
	}
	e.sendTo(0, "GET", "example.org", "/", "").want(t, 404, "not-found")
}

func TestCanary(t *testing.T) {
	e := start(t, "canary.yaml", nil)
	first := e.get("/")
	first.want(t, 200, "GET /")
	cookie, _, _ := strings.Cut(first.header.Get("Set-Cookie"), ";")
	_, side, ok := strings.Cut(cookie, "=")
	if !ok || side != "shop" && side != "shop-next" {
		t.Fatalf("got Set-Cookie %q, expected shop_side with a side", first.header.Get("Set-Cookie"))
	}
	for range 20 {
		again := e.get("/", "Cookie: "+cookie)
		again.want(t, 200, side+" GET /")
		if again.header.Get("Set-Cookie") != "" {
			t.Error("the cookie was set again")
		}
	}
	e.get("/", "Cookie: shop_side=shop", "X-Shop-Side: next").want(t, 200, "shop-next GET /")
}

func TestStreaming(t *testing.T) {
	seen := make(chan struct{})
	e := start(t, "streaming.yaml", map[string]http.HandlerFunc{
		"events": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: one\n\n")
			w.(http.Flusher).Flush()
			select { // until the first event has gone all the way
			case <-seen:
			case <-r.Context().Done():
				return
			}
			_, _ = io.WriteString(w, "data: two\n\n")
		},
		"chat": func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
			_, _ = io.Copy(conn, rw)
		},
	})

	conn := e.dial(0)
	fmt.Fprint(conn, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	events := bufio.NewReader(res.Body)
	for _, want := range []string{"data: one\n", "\n", "data: two\n"} {
		if got, err := events.ReadString('\n'); got != want {
			t.Fatalf("got %q, %v, expected %q", got, err, want)
		}
		if want == "\n" {
			close(seen)
		}
	}

	socket := e.dial(0)
	fmt.Fprint(socket, "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(socket)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("got %v, %v, expected 101 for websocket", res, err)
	}
	for _, word := range []string{"hello\n", "again\n"} {
		fmt.Fprint(socket, word)
		if got, err := br.ReadString('\n'); got != word {
			t.Fatalf("got %q, %v, expected %q through the tunnel", got, err, word)
		}
	}

	e.send("PUT", "/files/a/b", strings.Repeat("x", 3<<20)).want(t, 200, fmt.Sprint("files PUT /files/a/b ", 3<<20))
	e.send("POST", "/chat", strings.Repeat("x", 1<<20+1)).want(t, 413, "body-too-large")
}

func TestBehindLoadBalancer(t *testing.T) {
	e := start(t, "behind-lb.yaml", nil)
	const get = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.9, 203.0.113.7\r\n\r\n"
	ask(t, e.dial(0), "PROXY TCP4 203.0.113.8 192.0.2.1 5000 80\r\n"+get).
		want(t, 200, "X-Client-Address: 203.0.113.8", "X-Forwarded-For: 203.0.113.8", "Forwarded: for=203.0.113.8")
	ask(t, e.dial(1), get).
		want(t, 200, "X-Client-Address: 203.0.113.7", "X-Forwarded-For: 198.51.100.9, 203.0.113.7, 127.0.0.1")

	bare := e.dial(0)
	fmt.Fprint(bare, get)
	if _, err := http.ReadResponse(bufio.NewReader(bare), nil); err == nil {
		t.Error("got an answer without a PROXY header, expected a closed connection")
	}
}

func TestMirror(t *testing.T) {
	copies := make(chan string, 1)
	e := startWith(t, "mirror.yaml", map[string]http.HandlerFunc{
		"orders-shadow": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case copies <- r.Method + " " + r.RequestURI:
			default:
			}
		},
	}, func(cfg *config.Config) { cfg.Routes[0].Mirror.Share = 1 })
	e.get("/orders/7").want(t, 200, "orders GET /orders/7")
	select {
	case got := <-copies:
		if got != "GET /orders/7" {
			t.Errorf("the shadow got %q", got)
		}
	case <-time.After(patience):
		t.Error("the shadow got no copy")
	}
	e.send("POST", "/orders/7", "x").want(t, 200, "orders POST /orders/7")
}

func TestFromNginx(t *testing.T) {
	e := start(t, "from-nginx.yaml", nil)
	get := func(path string) answer { return e.sendTo(0, "GET", "shop.example.com", path, "") }
	get("/health").want(t, 200, "ok\n")
	get("/img/42").want(t, 200, "app GET /images?id=42", "X-Real-IP: 127.0.0.1")
	get("/img/x").want(t, 200, "app GET /img/x")
	get("/api/users").want(t, 200, "app GET /users")
	shop := get("/cart?x=1")
	shop.want(t, 200, "app GET /cart?x=1", "Host: shop.example.com", "X-Real-IP: 127.0.0.1")
	if shop.header.Get("X-Frame-Options") != "DENY" || shop.header.Get("X-Powered-By") != "" {
		t.Errorf("got %v, expected the header changed as the route says", shop.header)
	}
	old := get("/old/a/b")
	old.want(t, 301, "")
	if got := old.header.Get("Location"); got != "/new/a/b" {
		t.Errorf("got Location %q", got)
	}
}

func TestProduction(t *testing.T) {
	e := start(t, production, nil)
	e.get("/.well-known/ping").want(t, 200, "pong")
	e.get("/x").want(t, 200, "app GET /x")
}

// TestDemo tries what the demonstration says can be tried.
func TestDemo(t *testing.T) {
	d, err := examples.StartDemo()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	cfg := load(t, d.ConfigFile, d.Environ)
	e := serve(t, cfg)
	e.get("/").want(t, 200, "Sluice is running")
	user := e.get("/users/7")
	user.want(t, 200, `"path":"/v2/users/7"`)
	if got := user.header.Get("X-Served-By"); got != "user" {
		t.Errorf("got X-Served-By %q", got)
	}
	e.get("/orders").want(t, 200, `"served_by"`)
	e.get("/u/7").want(t, 301, "")
	not := e.send("POST", "/users/7", "")
	not.want(t, 405, "method-not-allowed")
	if got := not.header.Get("Allow"); got != "GET, HEAD" {
		t.Errorf("got Allow %q", got)
	}
}

var demoEnviron = []string{"DEMO_USERS=http://192.0.2.1:1", "DEMO_ORDERS_1=http://192.0.2.1:2", "DEMO_ORDERS_2=http://192.0.2.1:3", "DEMO_KEYS=demo.keys"}

func load(t *testing.T, file string, environ []string) *config.Config {
	t.Helper()
	cfg, err := config.Load(&config.Sources{File: file, Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// edge is a gateway that serves an example.
type edge struct {
	t     *testing.T
	addrs []string // of the doors, in the order of the file
}

func start(t *testing.T, file string, handlers map[string]http.HandlerFunc) *edge {
	t.Helper()
	return startWith(t, file, handlers, nil)
}

// startWith serves file with a backend of the test's own for each upstream:
// one of handlers by its name, or one that tells the upstream's name and what
// it was asked.
func startWith(t *testing.T, file string, handlers map[string]http.HandlerFunc, change func(*config.Config)) *edge {
	t.Helper()
	cfg := load(t, file, nil)
	withCertificates(t, cfg)
	for name, u := range cfg.Upstreams {
		h := handlers[name]
		if h == nil {
			h = tell(name)
		}
		backend := httptest.NewUnstartedServer(h)
		if strings.HasPrefix(u.Targets[0].URL, "https:") {
			cert, key, ca := certificate(t, u.TLS.ServerName)
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			backend.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
			u.TLS.CA = ca
			backend.StartTLS()
		} else {
			backend.Start()
		}
		t.Cleanup(backend.Close)
		for i := range u.Targets {
			u.Targets[i].URL = backend.URL
		}
		u.Targets = u.Targets[:1] // targets of one address would be one target
		cfg.Upstreams[name] = u
	}
	// The networks of the example stand for the test's own address.
	if len(cfg.Forwarded.Trusted) > 0 {
		cfg.Forwarded.Trusted = []string{"127.0.0.0/8"}
	}
	if change != nil {
		change(cfg)
	}
	return serve(t, cfg)
}

func serve(t *testing.T, cfg *config.Config) *edge {
	t.Helper()
	cfg.Log.Access.Enabled = false
	for i := range cfg.Listen {
		cfg.Listen[i].Address = "127.0.0.1:0"
		if p := cfg.Listen[i].ProxyProtocol; p != nil {
			p.Trusted = []string{"127.0.0.0/8"}
		}
	}
	g := gateway.New(observe.NewMetrics(observe.Build{}, fault.Names()), zerolog.Nop())
	next, err := g.Prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.Commit(next)
	doors := listen.New(listen.Options{HTTP1: g.Engine, Log: zerolog.Nop()})
	if err := doors.Apply(cfg.Listen, cfg.Server); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		doors.Close()
		ended, cancel := context.WithCancel(context.Background())
		cancel() // what is still open is of no interest
		g.Engine.Drain(ended)
		g.Close()
	})
	e := &edge{t: t}
	for _, a := range doors.Addrs() {
		e.addrs = append(e.addrs, a.String())
	}
	return e
}

// tell answers with the upstream's name, the request and its header.
func tell(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Powered-By", "test")
		fmt.Fprintf(w, "%s %s %s", name, r.Method, r.RequestURI)
		if n > 0 {
			fmt.Fprintf(w, " %d", n)
		}
		fmt.Fprintf(w, "\nHost: %s\n", r.Host)
		_ = r.Header.Write(headerWriter{w})
	}
}

// headerWriter writes lines that end in LF alone, and spells X-Real-IP the way
// it was sent.
type headerWriter struct{ w io.Writer }

func (h headerWriter) Write(b []byte) (int, error) {
	text := strings.NewReplacer("\r\n", "\n", "X-Real-Ip", "X-Real-IP").Replace(string(b))
	_, err := io.WriteString(h.w, text)
	return len(b), err
}

func (e *edge) dial(door int) net.Conn {
	e.t.Helper()
	conn, err := net.Dial("tcp", e.addrs[door])
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func (e *edge) get(path string, header ...string) answer {
	e.t.Helper()
	return ask(e.t, e.dial(0), "GET "+path+" HTTP/1.1\r\nHost: x\r\n"+strings.Join(append(header, "\r\n"), "\r\n"))
}

func (e *edge) send(method, path, body string) answer {
	e.t.Helper()
	return e.sendTo(0, method, "x", path, body)
}

func (e *edge) sendTo(door int, method, host, path, body string) answer {
	e.t.Helper()
	return ask(e.t, e.dial(door), fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", method, path, host, len(body), body))
}

type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request and reads its answer, which may come before all of the
// request is sent.
func ask(t *testing.T, conn net.Conn, request string) answer {
	t.Helper()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(conn, request)
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	<-sent
	return answer{res.StatusCode, res.Header, string(body)}
}

func (a answer) want(t *testing.T, status int, parts ...string) {
	t.Helper()
	if a.status != status {
		t.Errorf("got status %d, expected %d: %s", a.status, status, a.body)
	}
	for _, p := range parts {
		if !strings.Contains(a.body, p) {
			t.Errorf("got %q, expected %q in it", a.body, p)
		}
	}
}

// withCertificates puts files that exist in the place of those that an example
// names: for api.example.com.crt a certificate of that name, for
// wildcard.example.net.crt one of *.example.net.
func withCertificates(t *testing.T, cfg *config.Config) {
	t.Helper()
	pair := func(cert, key *string) {
		name := strings.TrimSuffix(filepath.Base(*cert), ".crt")
		name = strings.Replace(name, "wildcard.", "*.", 1)
		*cert, *key, _ = certificate(t, name)
	}
	for i := range cfg.Listen {
		if s := cfg.Listen[i].TLS; s != nil {
			if s.Cert != "" {
				pair(&s.Cert, &s.Key)
			}
			for i := range s.Certificates {
				pair(&s.Certificates[i].Cert, &s.Certificates[i].Key)
			}
		}
	}
	for name, u := range cfg.Upstreams {
		if u.TLS.CA != "" {
			_, _, u.TLS.CA = certificate(t, "ca")
			cfg.Upstreams[name] = u
		}
	}
}

// certificate makes a self-signed certificate, which is its own CA.
func certificate(t *testing.T, name string) (cert, key, ca string) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	chain, err := x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: chain}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, cert
}
