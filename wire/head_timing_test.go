package wire

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/valyala/fasthttp"
)

// What wrk sends, and what a browser does: 15 fields, some 700 bytes.
const (
	smallHead   = "GET /index.html HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
	browserHead = "GET /products/1042/reviews?page=2&sort=newest HTTP/1.1\r\n" +
		"Host: shop.example.com\r\n" +
		"Connection: keep-alive\r\n" +
		"sec-ch-ua: \"Chromium\";v=\"142\", \"Google Chrome\";v=\"142\", \"Not_A Brand\";v=\"99\"\r\n" +
		"sec-ch-ua-mobile: ?0\r\n" +
		"sec-ch-ua-platform: \"Linux\"\r\n" +
		"Upgrade-Insecure-Requests: 1\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n" +
		"Sec-Fetch-Site: same-origin\r\n" +
		"Sec-Fetch-Mode: navigate\r\n" +
		"Sec-Fetch-Dest: document\r\n" +
		"Referer: https://shop.example.com/products/1042\r\n" +
		"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Accept-Language: en-GB,en;q=0.9\r\n" +
		"Cookie: session=5b1f0c9a7d; theme=dark; consent=1\r\n\r\n"
)

func BenchmarkRequestParse(b *testing.B) {
	for name, head := range map[string]string{"small": smallHead, "browser": browserHead} {
		b.Run(name, func(b *testing.B) {
			raw := []byte(head)
			r := Request{Fields: make([]Field, 0, 32)}
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Parse(raw, Limits{Bytes: 32 << 10, Fields: 100}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFasthttpParse reads the same heads with the parser of fasthttp,
// which is laxer and copies nothing either, for what the strictness costs.
func BenchmarkFasthttpParse(b *testing.B) {
	for name, head := range map[string]string{"small": smallHead, "browser": browserHead} {
		b.Run(name, func(b *testing.B) {
			raw := []byte(head)
			var h fasthttp.RequestHeader
			h.DisableNormalizing()
			src := bytes.NewReader(raw)
			in := bufio.NewReaderSize(src, 4096)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				src.Reset(raw)
				in.Reset(src)
				if err := h.Read(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// laxParse is Parse with every check left out that does not find the end of
// something: what strictness costs is what Parse takes more.
func laxParse(r *Request, b []byte) bool {
	sp := bytes.IndexByte(b, ' ')
	end := bytes.IndexByte(b, '\n')
	if sp < 0 || end < sp+10 {
		return false
	}
	r.Method, r.Target = b[:sp], b[sp+1:end-10]
	r.Path, r.Query, r.HasQuery = r.Target, nil, false
	if q := bytes.IndexByte(r.Target, '?'); q >= 0 {
		r.Path, r.Query, r.HasQuery = r.Target[:q], r.Target[q+1:], true
	}
	r.Minor = int(b[end-2] - '0')
	fields, i := r.Fields[:0], end+1
	for {
		if b[i] == '\r' {
			break
		}
		colon := bytes.IndexByte(b[i:], ':')
		end := bytes.IndexByte(b[i:], '\n')
		if end < 0 || colon < 0 || colon > end {
			return false
		}
		name := b[i : i+colon]
		fields = append(fields, Field{Name: name, Value: TrimOWS(b[i+colon+1 : i+end-1]), Kind: KindOf(name)})
		i += end + 1
	}
	r.Fields = fields
	var f framing
	_ = f.read(fields, r.Minor)
	r.Close = f.close
	for i := range fields {
		switch fields[i].Kind {
		case Host:
			r.Host = fields[i].Value
		case Upgrade:
			r.Upgrade = fields[i].Value
		}
	}
	return true
}

func BenchmarkLaxParse(b *testing.B) {
	for name, head := range map[string]string{"small": smallHead, "browser": browserHead} {
		b.Run(name, func(b *testing.B) {
			raw := []byte(head)
			r := Request{Fields: make([]Field, 0, 32)}
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if !laxParse(&r, raw) {
					b.Fatal("refused")
				}
			}
		})
	}
}

func BenchmarkResponseParse(b *testing.B) {
	raw := []byte("HTTP/1.1 200 OK\r\nServer: nginx/1.26.3\r\nDate: Wed, 25 Nov 2026 01:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n" +
		"Last-Modified: Tue, 24 Nov 2026 01:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"6743c3a0-400\"\r\nAccept-Ranges: bytes\r\n\r\n")
	var r Response
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Parse(raw, Limits{Bytes: 64 << 10, Fields: 256}, false); err != nil {
			b.Fatal(err)
		}
	}
}
