package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"sluice/e2e/rig"
)

// child runs a backend in a process of its own.
func child(t *testing.T, name string) *rig.Backend {
	t.Helper()
	b := given[*rig.Backend](t)(rig.StartChild(name))
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// TestKilledTarget kills one of two targets with SIGKILL under load. Only what
// was on it may fail, each with 502; the access log says where a request was.
func TestKilledTarget(t *testing.T) {
	t.Parallel()
	victim, other := child(t, "victim"), child(t, "other")
	file := filepath.Join(t.TempDir(), "access.log")
	g, _ := serveFile(t, common+`
log: { access: { output: `+file+` } }
upstreams: { a: { targets: ["`+victim.URL+`", "`+other.URL+`"], fail_timeout: 50s } }
routes: [{ name: all, upstream: a }]
`)
	const clients = 6
	running := load(t, rig.Load{Dial: rig.Dialer("tcp", g.Doors[0]), Clients: clients, Bodies: true})
	busy(t, running, 100)

	// Requests that are on one of the two for certain. A POST is not repeated.
	const holding = 8
	type held struct {
		token  string
		answer *bufio.Reader
	}
	var all []held
	for i := range holding {
		c := dial(t, "tcp", g.Doors[0])
		token := fmt.Sprintf("held-%d", i)
		_, err := fmt.Fprintf(c, "POST /hold/%s HTTP/1.1\r\nHost: h\r\nX-Request-Id: %s\r\nContent-Length: 4\r\n\r\nbody", token, token)
		must(t, err)
		all = append(all, held{token, bufio.NewReader(c)})
	}
	onVictim := map[string]bool{}
	for range holding {
		token, on := heldBy(t, victim, other)
		onVictim[token] = on == victim
	}
	must(t, victim.Kill())
	killed := time.Now()
	other.Release()
	doomed := 0
	for _, h := range all {
		res, err := http.ReadResponse(h.answer, nil)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		must(t, err)
		if onVictim[h.token] {
			doomed++
			wantProblem(t, res.StatusCode, res.Header.Get("Content-Type"), string(body), http.StatusBadGateway, "target-reset")
		} else if res.StatusCode != 200 || string(body) != h.token+"\nbody" || res.Header.Get("X-Backend") != "other" {
			t.Errorf("%s: expected the other target's answer, got %s %q", h.token, res.Status, body)
		}
	}
	if doomed == 0 || doomed == holding {
		t.Errorf("expected requests on both targets, got %d of %d on the victim", doomed, holding)
	}

	enough := running.Now().Answers + 200
	must(t, rig.Poll(bounded(t), "the load goes on", func() bool { return running.Now().Answers >= enough }))
	result := running.Stop()
	if result.Failed > clients {
		t.Errorf("expected at most the %d requests under way to fail, got %v", clients, result.Err())
	}
	t.Logf("%d of %d requests of the load failed, and all %d that were held by the victim", result.Failed, result.Answers+result.Failed, doomed)
	must(t, g.Stop(bounded(t)))
	lines := map[string]accessLine{}
	for _, l := range accessLines(t, file) {
		lines[l.RequestID] = l
	}
	for _, f := range result.Failures {
		if f.Began.After(killed) {
			t.Errorf("%s: began after the target was gone, which nobody else noticed", f)
		}
		if f.Err != nil {
			// Its answer had begun when the target died.
			if l := lines[f.Token]; l.Target != victim.URL || l.Flag != "answer-cut" {
				t.Errorf("%s: expected a request on the victim, got %+v", f, l)
			}
			continue
		}
		wantProblem(t, f.Status, f.ContentType, f.Body, http.StatusBadGateway, "target-reset")
		if l := lines[f.Token]; l.Target != victim.URL || l.Flag != "target-reset" {
			t.Errorf("%s: expected a request on the victim, got %+v", f, l)
		}
	}
}

// heldBy waits for a request that one of two backends holds.
func heldBy(t *testing.T, a, b *rig.Backend) (token string, on *rig.Backend) {
	t.Helper()
	token, on, err := rig.HeldByEither(bounded(t), a, b)
	must(t, err)
	return token, on
}
