//go:build !race

package auth

import (
	"testing"
)

// A session that was opened before costs nothing, in one cookie or in parts.
func TestOIDCRecallAllocatesNothing(t *testing.T) {
	for _, pad := range []int{0, 2600} {
		o := newTestOIDC(t, nil)
		r := oidcTestRequest(t, "https")
		s := oidcTestSession(r.Now, pad)
		if err := s.read(); err != nil {
			t.Fatal(err)
		}
		lines, err := o.keepSession(r, s)
		if err != nil {
			t.Fatal(err)
		}
		back := oidcTestRequest(t, "https", "Accept: text/html", cookieHeader(t, lines))
		if n := testing.AllocsPerRun(1000, func() {
			if o.Recall(back).Outcome != Identified {
				t.Fatal("not recalled")
			}
		}); n != 0 {
			t.Errorf("%d cookies: expected no allocation, got %v", len(lines), n)
		}
		none := oidcTestRequest(t, "https", "Accept: text/html")
		if n := testing.AllocsPerRun(1000, func() { o.Recall(none) }); n != 0 {
			t.Errorf("no cookie: expected no allocation, got %v", n)
		}
	}
}

func BenchmarkRecallOIDC(b *testing.B) {
	o := newTestOIDC(b, nil)
	r := oidcTestRequest(b, "https")
	s := oidcTestSession(r.Now, 400)
	if err := s.read(); err != nil {
		b.Fatal(err)
	}
	lines, err := o.keepSession(r, s)
	if err != nil {
		b.Fatal(err)
	}
	back := oidcTestRequest(b, "https", cookieHeader(b, lines))
	b.Run("recall", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			o.Recall(back)
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			o.Verify(back)
		}
	})
}
