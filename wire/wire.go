// Package wire is HTTP/1.1 as bytes: the strict grammar of heads (head.go,
// target.go), the framing of bodies (chunk.go), the sockets that carry them
// (conn.go) and the clock that ends waits (watch.go).
//
// It knows nothing of routes, upstreams or policies. Parsers are pure: bytes
// in, slices of the same bytes out, no copy, no allocation, one verdict. What
// RFC 9110 and RFC 9112 call malformed is an error here, never a guess, for two
// parties that guess differently are what request smuggling is made of.
//
// Parsers never block. A Conn blocks in Read, Write and Session until data, a
// deadline or Expire ends the wait. Nothing on the path of a request allocates;
// opening a connection does.
package wire
