package cache

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
)

func newTestStore(t testing.TB, size int64) *Store {
	t.Helper()
	s, err := NewStore(StoreConfig{Bytes: size, MaxObject: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// object is an answer under key, asked for at the time 1.
func object(key, body string, tags ...string) *Object {
	o := NewObject([]byte(key), &Entry{Stored: 1, Life: 60 * second, Status: 200, Date: 1, Modified: noDate, Head: []byte("X: y\r\n")}, []byte(body))
	o.Asked = 1
	for _, tag := range tags {
		o.Tags = append(o.Tags, TagSum([]byte(tag)))
	}
	o.Tags = append(o.Tags, URISum(URI(o.Key)))
	return o
}

func TestStoreKeepsAndReplaces(t *testing.T) {
	s := newTestStore(t, 8<<20)
	for round := range 5 {
		for i := range 100 {
			if !s.Put(object(fmt.Sprint("key", i), fmt.Sprint("body", i, round))) {
				t.Fatal("refused")
			}
		}
		for range 4 { // cold, then hot
			for i := range 100 {
				o := s.Get([]byte(fmt.Sprint("key", i)))
				if o == nil || string(o.Body) != fmt.Sprint("body", i, round) || string(o.Head) != "X: y\r\n" {
					t.Fatalf("round %d, key %d: %+v", round, i, o)
				}
			}
		}
	}
	if n := s.Stats(); n.HotBytes == 0 || n.Objects != 100 {
		t.Errorf("%+v", n)
	}
	s.Delete([]byte("key7"))
	if s.Get([]byte("key7")) != nil {
		t.Error("deleted, and there")
	}
	if s.Put(object("large", string(make([]byte, 64<<10+headRoom)))) || s.Get([]byte("large")) != nil {
		t.Error("an object beyond the bound was taken")
	}
}

func TestStoreKeepsLists(t *testing.T) {
	s := newTestStore(t, 8<<20)
	list := Remember([]byte("k"), nil, []byte("accept"), 5)
	list = Remember([]byte("k"), list, []byte("accept,cookie"), 6)
	list = Remember([]byte("k"), list, []byte("accept"), 7)
	s.Put(list)
	o := s.Get([]byte("k"))
	if o == nil || len(o.Lists) != 2 || !o.Knows([]byte("accept")) || o.Knows([]byte("accept,cookie")) || o.Asked != 7 {
		t.Errorf("%+v", o)
	}
	for i := range 10 {
		list = Remember([]byte("k"), list, []byte(fmt.Sprint("x", i)), 7)
	}
	if len(list.Lists) != MostLists {
		t.Errorf("%d lists", len(list.Lists))
	}
}

func TestPurges(t *testing.T) {
	keys := []string{"http://a/x\n1", "http://a/y?q\n1", "http://b/x\n1"}
	for _, c := range []struct {
		name, want string
		purge      Purge
	}{
		{"nothing", "+++", Purge{Scope: PurgeTag, Value: "zero", At: 1}},
		{"one tag", "-++", Purge{Scope: PurgeTag, Value: "one", At: 1}},
		{"tag of two", "--+", Purge{Scope: PurgeTag, Value: "two", At: 1}},
		{"before it was asked for", "+++", Purge{Scope: PurgeTag, Value: "two", At: 0}},
		{"soft tag", "ss+", Purge{Scope: PurgeTag, Value: "two", At: 1, Soft: true}},
		{"prefix", "--+", Purge{Scope: PurgePrefix, Value: "http://a/", At: 1}},
		{"soft prefix", "++s", Purge{Scope: PurgePrefix, Value: "http://b", At: 1, Soft: true}},
		{"url", "+-+", Purge{Scope: PurgeURL, Value: "http://a/y?q", At: 1}},
		{"url without its query", "+++", Purge{Scope: PurgeURL, Value: "http://a/y", At: 1}},
		{"all", "---", Purge{Scope: PurgeAll, At: 1}},
		{"all soft", "sss", Purge{Scope: PurgeAll, At: 1, Soft: true}},
	} {
		for _, heat := range []int{0, 4} {
			s := newTestStore(t, 8<<20)
			s.Put(object(keys[0], "1", "one", "two"))
			s.Put(object(keys[1], "2", "two"))
			s.Put(object(keys[2], "3"))
			for range heat {
				for _, k := range keys {
					s.Get([]byte(k))
				}
			}
			s.Purge(c.purge)
			for range 3 {
				got := ""
				for _, k := range keys {
					switch o := s.Get([]byte(k)); {
					case o == nil:
						got += "-"
					case o.has(MarkPurged):
						got += "s"
					default:
						got += "+"
					}
				}
				if got != c.want {
					t.Errorf("%s, asked for %d times before: %s, want %s", c.name, heat, got, c.want)
				}
			}
		}
	}
}

func TestManyPurgesForgetNothingTooLate(t *testing.T) {
	s := newTestStore(t, 4<<20)
	for i := range mostTagMarks + 10 {
		s.Purge(Purge{Scope: PurgeTag, Value: fmt.Sprint(i), At: int64(i + 1)})
	}
	o := object("k\n", "b", "3")
	o.Asked = 2 // before its tag was purged
	s.Put(o)
	if s.Get([]byte("k\n")) != nil {
		t.Error("a purge was forgotten")
	}
	for i := range mostPrefixMarks + 10 {
		s.Purge(Purge{Scope: PurgePrefix, Value: fmt.Sprint("http://", i), At: int64(mostTagMarks*2 + i)})
	}
	o = object("http://3/x\n", "b")
	o.Asked = mostTagMarks * 2
	s.Put(o)
	if s.Get(o.Key) != nil {
		t.Error("a purge by prefix was forgotten")
	}
	o = object("http://z/x\n", "b")
	o.Asked = mostTagMarks * 3
	s.Put(o)
	if s.Get(o.Key) == nil {
		t.Error("what came after all purges is gone")
	}
}

func TestInvalidateEndsAllQueries(t *testing.T) {
	s := newTestStore(t, 4<<20)
	for _, k := range []string{"http://a/x?1\nr", "http://a/x\nr", "http://a/y\nr"} {
		s.Put(object(k, "b"))
	}
	before := s.Generation([]byte("http://a/x"))
	s.Invalidate([]byte("http://a/x?z"))
	late := object("http://a/x?late\nr", "b")
	late.Generation = before // it was asked for before
	s.Put(late)
	for k, want := range map[string]bool{"http://a/x?1\nr": false, "http://a/x\nr": false, "http://a/x?late\nr": false, "http://a/y\nr": true} {
		if got := s.Get([]byte(k)) != nil; got != want {
			t.Errorf("%q: %v", k, got)
		}
	}
}

func TestStoreUnderLoad(t *testing.T) {
	s := newTestStore(t, 4<<20)
	body := bytes.Repeat([]byte("b"), 2000)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 20000 {
				key := fmt.Sprint("key", (i*7919+g)%5000)
				o := s.Get([]byte(key))
				switch {
				case o == nil:
					s.Put(object(key, string(body)))
				case string(o.Key) != key:
					t.Error("another's object")
				case i%100 == 0:
					s.Delete([]byte(key))
				}
			}
		}()
	}
	wg.Wait()
	if n := s.Stats(); n.Evicted == 0 || n.Bytes > 4<<20 || n.HotBytes > 4<<20/hotShare {
		t.Errorf("%+v", n)
	}
}

// While there is room nothing is thrown out, asked for or not: what one store
// takes over from another comes without its counts.
func TestStoreFillsBeforeItThrowsOut(t *testing.T) {
	s := newTestStore(t, 16<<20)
	const objects = 5000 // of 16 MiB the half, more than the small queue holds
	body := string(make([]byte, 1500))
	for i := range objects {
		s.Put(object(fmt.Sprint("key", i), body))
	}
	for i := range objects {
		if s.Get([]byte(fmt.Sprint("key", i))) == nil {
			t.Fatalf("object %d is gone, %+v", i, s.Stats())
		}
	}
	if n := s.Stats(); n.Evicted > 0 || n.Objects != objects {
		t.Errorf("%+v", n)
	}
}

// No version of an object may come back once a later one was stored, however it
// moves between the queues.
func TestNoOldVersionComesBack(t *testing.T) {
	s := newTestStore(t, 4<<20)
	var newest [64]struct {
		sync.Mutex
		version int
	}
	body := string(make([]byte, 4000))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 30000 {
				n := (i*31 + g*7) % len(newest)
				key := fmt.Sprint("key", n)
				v := &newest[n]
				v.Lock()
				switch i % 5 {
				case 0:
					v.version++
					o := object(key, body)
					o.Asked = int64(v.version)
					s.Put(o)
				case 1:
					s.Put(object(fmt.Sprint("filler", g, i), body)) // pushes others about
				default:
					if o := s.Get([]byte(key)); o != nil && o.Asked != int64(v.version) {
						t.Errorf("version %d came back, %d is the newest", o.Asked, v.version)
					}
				}
				v.Unlock()
			}
		}()
	}
	wg.Wait()
}

func TestObjectForms(t *testing.T) {
	o := object("http://a/\nkey", "body", "one")
	o.Generation = 7
	o.Vary, o.ETag = []byte("accept"), []byte(`"x"`)
	b := AppendObject(nil, o)
	if len(b) != o.Size() {
		t.Errorf("%d bytes, Size says %d", len(b), o.Size())
	}
	got, err := ParseObject(b)
	if err != nil || string(got.Key) != string(o.Key) || string(got.Body) != "body" || len(got.Tags) != 2 || got.Generation != 7 || string(got.ETag) != `"x"` {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range b {
		if _, err := ParseObject(b[:n]); err == nil {
			t.Errorf("%d of %d bytes are an object", n, len(b))
		}
	}
}

func FuzzParseObject(f *testing.F) {
	f.Add(AppendObject(nil, object("http://a/\nkey", "body", "one")))
	f.Add(AppendObject(nil, Remember([]byte("k"), nil, []byte("accept"), 5)))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseObject(b)
		if err != nil {
			return
		}
		if again := AppendObject(nil, o); !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func BenchmarkHotHit(b *testing.B) {
	s := newTestStore(b, 64<<20)
	key := []byte("http://example.com/some/path?x=1\nr")
	s.Put(object(string(key), "body"))
	for range 4 {
		s.Get(key)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if s.Get(key) == nil {
				b.Fatal("gone")
			}
		}
	})
}
