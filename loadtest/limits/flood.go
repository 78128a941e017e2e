package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/e2e/rig"
)

// signer makes tokens of one issuer.
type signer struct{ key *ecdsa.PrivateKey }

func (s signer) jwks() string {
	point, err := s.key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"k","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
}

// token is a good token of the nth caller.
func (s signer) token(n int) string {
	b64 := base64.RawURLEncoding.EncodeToString
	claims, err := json.Marshal(map[string]any{
		"iss": "https://id.example.com", "aud": "api", "sub": "caller-" + strconv.Itoa(n), "scope": "read",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		panic(err)
	}
	signed := b64([]byte(`{"alg":"ES256","kid":"k","typ":"JWT"}`)) + "." + b64(claims)
	sum := sha256.Sum256([]byte(signed))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		panic(err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	v.FillBytes(signature[32:])
	return signed + "." + b64(signature[:])
}

// bad is token with a signature of nobody, another each time.
func bad(token string) string {
	var signature [64]byte
	_, _ = rand.Read(signature[:])
	return token[:strings.LastIndexByte(token, '.')+1] + base64.RawURLEncoding.EncodeToString(signature[:])
}

// floods prints what bad tokens cost, and whom.
func (p plan) floods(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	s := signer{key}
	jwks := filepath.Join(p.dir, "jwks.json")
	file := filepath.Join(p.dir, "flood.yaml")
	text := "listen: [\"127.0.0.1:0\"]\nadmin: { address: \"\" }\nlog: { access: { output: \"" + filepath.Join(p.dir, "access.log") + "\" }, audit: { output: \"" + filepath.Join(p.dir, "audit.log") + "\" } }\n" +
		"forwarded: { trusted: [127.0.0.1] }\n" +
		"auth: { customers: { jwt: { issuer: \"https://id.example.com\", audience: api, file: \"" + jwks + "\" } } }\n" +
		"routes: [{ name: all, match: /*, auth: customers, require: { scope: read }, respond: ok }]\n"
	if err := errors.Join(os.WriteFile(jwks, []byte(s.jwks()), 0o600), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		return err
	}
	g, err := rig.Start(ctx, rig.Command{Binary: p.binary, Args: []string{"-c", file}, Env: []string{"GOMAXPROCS=1"}})
	if err != nil {
		return err
	}
	defer func() { _ = g.Kill() }()
	addr := g.Doors[0]

	fmt.Fprintf(p.out, "\n### Bad tokens\n\nOne gateway on one core, ES256, answers of its own; %d s a case.\n\n| each request brings | requests | CPU us a request | beside good new ones |\n|---|---:|---:|---:|\n", p.seconds)
	good := make([]string, 64)
	for i := range good {
		good[i] = s.token(i)
	}
	var serial atomic.Int64
	many := func() string { return "X-Forwarded-For: 10." + number(serial.Add(1)) + "\r\n" }
	cases := []struct {
		name   string
		header func() string
		want   []int
	}{
		{"a good token, never seen", nil, []int{200}},
		{"a good token, remembered", func() string { return "Authorization: Bearer " + good[serial.Add(1)%64] + "\r\n" }, []int{200}},
		{"a bad signature, from many addresses", func() string { return many() + "Authorization: Bearer " + bad(good[0]) + "\r\n" }, []int{401}},
		{"a bad signature, from one address", func() string { return "Authorization: Bearer " + bad(good[0]) + "\r\n" }, []int{401, 429}},
		{"garbage, from many addresses", func() string { return many() + "Authorization: Bearer " + bad("x.y.z") + "\r\n" }, []int{401}},
	}
	// Signing costs more than checking, so new tokens are made before.
	fresh := make([]string, 6000*min(p.seconds, 10))
	for i := range fresh {
		fresh[i] = s.token(1000 + i)
	}
	var used atomic.Int64
	cases[0].header = func() string {
		return "Authorization: Bearer " + fresh[min(int(used.Add(1)), len(fresh))-1] + "\r\n"
	}
	base := 0.0
	for i, c := range cases {
		most := int64(1 << 62)
		if i == 0 {
			most = int64(len(fresh))
		}
		before, err := cpu(g.PID())
		if err != nil {
			return err
		}
		n, err := p.load(ctx, addr, 16, most, c.header, c.want)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		after, err := cpu(g.PID())
		if err != nil {
			return err
		}
		each := float64((after - before).Microseconds()) / float64(n)
		if i == 0 {
			base = each
		}
		fmt.Fprintf(p.out, "| %s | %d | %.1f | %.2f |\n", c.name, n, each, each/base)
	}

	fmt.Fprintf(p.out, "\nHolders of remembered tokens, 500 requests a second, beside %d bad ones a second:\n\n| the flood | good answers | others | p50 | p99 | flood reached |\n|---|---:|---:|---:|---:|---:|\n", p.flood)
	for _, c := range []struct {
		name   string
		header func() string
	}{
		{"none", nil},
		{"bad signatures from many addresses", cases[2].header},
		{"bad signatures from the same address", cases[3].header},
	} {
		if err := p.beside(ctx, addr, c.name, good, c.header); err != nil {
			return err
		}
	}
	return nil
}

func number(n int64) string {
	return fmt.Sprintf("%d.%d.%d", n>>16&255, n>>8&255, n&255)
}

// load asks without pause on some connections; it returns how many were answered.
func (p plan) load(ctx context.Context, addr string, clients int, most int64, header func() string, want []int) (int64, error) {
	var n atomic.Int64
	until := time.Now().Add(time.Duration(p.seconds) * time.Second)
	errs := make(chan error, clients)
	for range clients {
		go func() {
			errs <- converse(addr, until, func() string { return header() }, func(status int) bool {
				return slices.Contains(want, status) && n.Add(1) < most && ctx.Err() == nil
			})
		}()
	}
	var err error
	for range clients {
		err = errors.Join(err, <-errs)
	}
	if n.Load() == 0 {
		err = errors.Join(err, fmt.Errorf("no answer was one of %v", want))
	}
	return n.Load(), err
}

// converse asks on one connection, until then or until on says no.
func converse(addr string, until time.Time, header func() string, on func(status int) bool) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(until.Add(10 * time.Second))
	in := bufio.NewReader(c)
	for time.Now().Before(until) {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n"+header()+"\r\n"); err != nil {
			return err
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		if !on(res.StatusCode) {
			return nil
		}
	}
	return nil
}

// beside measures the good ones while the flood comes in.
func (p plan) beside(ctx context.Context, addr, name string, good []string, flood func() string) error {
	var wg sync.WaitGroup
	until := time.Now().Add(time.Duration(p.seconds) * time.Second)
	var flooded, others atomic.Int64
	if flood != nil {
		const clients = 32
		for i := range clients {
			wg.Go(func() {
				due := time.Now().Add(time.Duration(i) * time.Millisecond)
				_ = converse(addr, until, func() string {
					time.Sleep(time.Until(due))
					due = due.Add(clients * time.Second / time.Duration(p.flood))
					return flood()
				}, func(int) bool { flooded.Add(1); return true })
			})
		}
	}
	var mu sync.Mutex
	var took []time.Duration
	const clients, rate = 10, 500
	for i := range clients {
		wg.Go(func() {
			due := time.Now().Add(time.Duration(i) * 2 * time.Millisecond)
			began := due
			n := i
			_ = converse(addr, until, func() string {
				time.Sleep(time.Until(due))
				began = due // what it had to wait for its turn counts too
				due = due.Add(clients * time.Second / rate)
				n += clients
				return "Authorization: Bearer " + good[n%len(good)] + "\r\n"
			}, func(status int) bool {
				if status != http.StatusOK {
					others.Add(1)
					return true
				}
				mu.Lock()
				took = append(took, time.Since(began))
				mu.Unlock()
				return ctx.Err() == nil
			})
		})
	}
	wg.Wait()
	if len(took) == 0 {
		return fmt.Errorf("%s: no good answer", name)
	}
	slices.Sort(took)
	fmt.Fprintf(p.out, "| %s | %d | %d | %.1f ms | %.1f ms | %d/s |\n", name, len(took), others.Load(),
		took[len(took)/2].Seconds()*1e3, took[len(took)*99/100].Seconds()*1e3, flooded.Load()/int64(p.seconds))
	return nil
}

// cpu is the user and system time of a process so far.
func cpu(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
