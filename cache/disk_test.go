package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache")
	s := newTestStore(t, 8<<20)
	if n, err := s.Load(path, 2); n != 0 || err != nil {
		t.Errorf("no file: %d, %v", n, err)
	}
	for i := range 1000 {
		s.Put(object(fmt.Sprintf("http://a/%d\nr", i), fmt.Sprint("body ", i), "tag"))
	}
	old := object("http://a/old\nr", "of no use")
	old.Life = 0
	s.Put(old)
	s.Put(Remember([]byte("http://a/list\nr"), nil, []byte("accept"), 1))
	s.Purge(Purge{Scope: PurgeURL, Value: "http://a/7", At: 1})
	s.Invalidate([]byte("http://a/8"))
	if n, err := s.Save(path); n != 1000 || err != nil {
		t.Fatalf("saved %d, %v", n, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	again := newTestStore(t, 8<<20)
	if n, err := again.Load(path, 50*second); n != 999 || err != nil {
		t.Fatalf("loaded %d, %v", n, err)
	}
	for i := range 1000 {
		o := again.Get(fmt.Appendf(nil, "http://a/%d\nr", i))
		if (o == nil) != (i == 7 || i == 8) || o != nil && string(o.Body) != fmt.Sprint("body ", i) {
			t.Errorf("%d: %v", i, o)
		}
	}
	if o := again.Get([]byte("http://a/list\nr")); o == nil || !o.Knows([]byte("accept")) {
		t.Error("the list is gone")
	}
	// What is stored goes on to be purged as if it had never left.
	again.Purge(Purge{Scope: PurgeTag, Value: "tag", At: 1})
	if again.Get([]byte("http://a/9\nr")) != nil {
		t.Error("the tag is gone")
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, []byte("other"), whole[:len(whole)-1], whole[:len(whole)/2], append(bytes.Clone(whole[:100]), whole[101:]...)} {
		if _, err := newTestStore(t, 8<<20).load(bytes.NewReader(bad), 2); !errors.Is(err, ErrNotCache) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	s := newTestStore(f, 4<<20)
	s.Put(object("http://a/x\nr", "body", "tag"))
	path := filepath.Join(f.TempDir(), "cache")
	if _, err := s.Save(path); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(diskHead)])
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := s.load(bytes.NewReader(b), 2); err == nil && n > len(b) {
			t.Errorf("%d objects of %d bytes", n, len(b))
		}
	})
}
