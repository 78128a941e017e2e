package limiter

import (
	"time"
	"unsafe"
)

// Ask asks s for a request of c under the limit l, which has the same name and
// settings: whose budget it takes from, by which plan, by rate or by quota. now
// is in the unit of wire.Nanotime, wall the same moment. applies is false when
// the limit leaves such requests alone. A quota that cannot be counted on Redis
// is counted by l, where on_error is local.
func (s *Shared) Ask(l *Limit, c Caller, cost, now int64, wall time.Time) (d Decision, basis Basis, applies bool) {
	h := s.NewHasher()
	if complete := h.feed(l.key, c, l.cfg.IPv6Prefix); !complete && l.skips {
		return Decision{OK: true}, Counted, false
	}
	plan := l.PlanOf(c)
	if plan == nil {
		plan = l.own
	}
	if l.kind == ByQuota {
		_, ends := l.quota.period.window(wall.In(l.quota.zone))
		if d, basis = s.Quota(h.Sum(), plan.most, cost, ends, wall); basis == Alone {
			key, _ := l.Key(c)
			return l.AllowPlan(key, plan, cost, now), Alone, true
		}
	} else {
		d, basis = s.Allow(h.Sum(), plan.rate, plan.most, cost, now)
	}
	d.plan, d.Limit = plan, max(plan.most, plan.rate.Count)
	return d, basis, true
}

// feed is Hasher.Feed for the keys that all gateways share.
func (h *SharedHasher) feed(key []Part, c Caller, prefix int) (complete bool) {
	complete = true
	for i := 0; i < len(key); {
		found := key[i].feedShared(h, c, prefix)
		for i++; i < len(key) && key[i].Or; i++ {
			found = found || key[i].feedShared(h, c, prefix)
		}
		if !found {
			h.Missing()
			complete = false
		}
	}
	return complete
}

// feedShared feeds p of c, unless it is missing; one that stands in for another
// is marked as such.
func (p *Part) feedShared(h *SharedHasher, c Caller, prefix int) (ok bool) {
	var value []byte
	switch p.Source {
	case IP:
		a := c.Address()
		if a.IsValid() {
			h.mark(p)
			h.Addr(a, prefix)
		}
		return a.IsValid()
	case Route:
		value, ok = c.RouteName(), true
	case Header:
		value, ok = c.Header(p.Name)
	case Cookie:
		value, ok = c.Cookie(p.Name)
	case Claim:
		var text string
		text, ok = c.Claim(p.Name)
		value = bytesOf(text)
	case Identity:
		var by, who string
		if by, who, ok = c.Identity(); ok {
			h.mark(p)
			h.Bytes(bytesOf(by))
			h.Bytes(bytesOf(who))
		}
		return ok
	}
	if ok {
		h.mark(p)
		h.Bytes(value)
	}
	return ok
}

func (h *SharedHasher) mark(p *Part) {
	if p.Or {
		h.part(sharedBytes, uint64(p.Source)+1<<32, nil)
	}
}

// bytesOf is s without a copy; nothing may change it.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
