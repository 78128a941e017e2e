package cache

import (
	"encoding/binary"
	"fmt"
)

// Cache is what the routes of a gateway share: the store, and the answers on
// their way into it.
type Cache struct {
	*Store
	*Fills
	Fleet  *Fleet // nil when it is this gateway's alone
	Config Config
}

// Keep stores o. Where gateways share what they store it goes to their Redis too;
// ticket is what that gave out before the origin was asked.
func (c *Cache) Keep(o *Object, ticket Ticket) {
	if c.Put(o) && c.Fleet != nil {
		c.Fleet.Put(o, ticket)
	}
}

// Changed ends what is stored under uri, here and on the gateways' Redis.
func (c *Cache) Changed(uri []byte) {
	c.Invalidate(uri)
	if c.Fleet != nil {
		c.Fleet.Invalidate(uri)
	}
}

// New returns an empty cache for c, which must be valid.
func New(c *Config) (*Cache, error) {
	store, err := NewStore(StoreConfig{Bytes: int64(c.Size), MaxObject: int(c.MaxObject)})
	if err != nil {
		return nil, fmt.Errorf("cannot take %v of memory for answers: %w", c.Size, err)
	}
	return &Cache{Store: store, Fills: NewFills(int64(c.MaxObject)), Config: *c}, nil
}

// Adopt takes along what from holds, as far as there is room. Requests that store
// meanwhile win.
func (c *Cache) Adopt(from *Store) {
	from.Each(func(o *Object) bool {
		next := &Object{Key: o.Key, Entry: o.Entry, Body: o.Body, Tags: o.Tags, Asked: o.Asked, Lists: o.Lists, Sum: o.Sum}
		next.Generation = c.Generation(URI(o.Key))
		c.Put(next)
		return true
	})
}

// AppendEra writes what tells the requests before a purge or a change of what
// they name from those after it: they do not share an answer on its way.
func (c *Cache) AppendEra(dst []byte, generation uint32) []byte {
	dst = binary.BigEndian.AppendUint32(dst, generation)
	return binary.BigEndian.AppendUint64(dst, c.purges.latest.Load())
}
