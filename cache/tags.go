package cache

import "sluice/wire"

// Bounds of what an answer may bring of surrogate keys. What is beyond is not
// stored as a key.
const (
	mostTags    = 256
	mostTagText = 16 << 10
)

// defaultTags are the fields of Fastly and Cloudflare.
var defaultTags = []string{"surrogate-key", "cache-tag"}

// TakeTags reads the surrogate keys of an answer, and marks their fields so that
// they end here, unless they are to be shown. It allocates when there are some.
func (p *Policy) TakeTags(fields []wire.Field) (sums []uint64) {
	names := p.tags
	if len(names) == 0 {
		names = defaultTags
	}
	for i := range fields {
		f := &fields[i]
		if f.Kind != wire.Other {
			continue
		}
		for _, name := range names {
			if len(f.Name) != len(name) || !foldEqual(f.Name, name) {
				continue
			}
			sums = appendTags(sums, f.Value)
			f.Drop = f.Drop || !p.showTags
		}
	}
	return sums
}

func appendTags(sums []uint64, list []byte) []uint64 {
	if len(list) > mostTagText {
		list = list[:mostTagText]
	}
	start := -1
	for i := 0; i <= len(list); i++ {
		if i < len(list) && list[i] != ' ' && list[i] != ',' && list[i] != '\t' {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 && len(sums) < mostTags {
			sums = append(sums, TagSum(list[start:i]))
		}
		start = -1
	}
	return sums
}

// OwnField tells whether name is the targeted field that speaks to this cache alone:
// it is not sent on.
func (p *Policy) OwnField(name []byte) bool {
	return p.own != "" && len(name) == len(p.own) && wire.EqualFold(name, p.own)
}
