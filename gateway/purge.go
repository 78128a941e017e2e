package gateway

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"sluice/cache"
	"sluice/proxy"
)

// ErrNoCache says that no route caches.
var ErrNoCache = errors.New("no route of the configuration in use has cache")

// Purge ends what is stored and in the scope of the order, or makes it stale when
// that is soft. A URL or prefix is written as clients write it; it is brought into
// the form that keys have. The error says what is wrong with the order.
func (g *Gateway) Purge(scope, value string, soft bool) error {
	now := g.Current()
	if now == nil || now.cache == nil {
		return ErrNoCache
	}
	order := cache.Purge{Scope: cache.Scope(scope), Value: value, Soft: soft, At: time.Now().UnixNano()}
	var values []string
	switch order.Scope {
	case cache.PurgeAll:
		values = []string{""}
	case cache.PurgeTag:
		if value == "" || strings.ContainsAny(value, " ,\t\n") {
			return fmt.Errorf("expected a surrogate key without spaces and commas, got %q", value)
		}
		values = []string{value}
	case cache.PurgeURL, cache.PurgePrefix:
		var err error
		if values, err = now.urisOf(value, order.Scope == cache.PurgePrefix); err != nil {
			return err
		}
	default:
		return fmt.Errorf("expected url, prefix, tag or all, got %q", scope)
	}
	var failed error
	for _, v := range values {
		order.Value = v
		now.cache.Purge(order)
		if f := now.cache.Fleet; f != nil {
			failed = errors.Join(failed, f.Order(order))
		}
	}
	if failed != nil {
		return fmt.Errorf("purged here, but other gateways could not be told: %w", failed)
	}
	return nil
}

// urisOf is what keys of answers to requests for text begin with: routes may key
// the query in different ways.
func (n *Generation) urisOf(text string, prefix bool) ([]string, error) {
	scheme, rest, found := strings.Cut(text, "://")
	scheme = strings.ToLower(scheme)
	if !found || scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf("expected a URL such as https://www.example.com/news, got %q", text)
	}
	host, path, query, has := rest, "", "", false
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	path, _, _ = strings.Cut(path, "#")
	path, query, has = strings.Cut(path, "?")
	if _, err := url.Parse(scheme + "://" + host); err != nil || host == "" {
		return nil, fmt.Errorf("expected a host in %q", text)
	}
	if path != "" || !prefix {
		normal, ok := proxy.NormalPath(path)
		if !ok {
			return nil, fmt.Errorf("expected a path that a request may have in %q", text)
		}
		path = normal
	}
	uri := string(cache.AppendURI(nil, scheme, []byte(host), []byte(path)))
	if prefix {
		if has {
			uri += "?" + query
		}
		return []string{uri}, nil
	}
	var list []string
	for _, r := range n.routes {
		if r.Cache == nil {
			continue
		}
		if q, ok := r.Cache.AppendQuery([]byte(uri), []byte(query), has); ok && !slices.Contains(list, string(q)) {
			list = append(list, string(q))
		}
	}
	return list, nil
}

// CacheState is the cache as the admin door shows it.
type CacheState struct {
	Size     int64  `json:"size"`
	Bytes    int64  `json:"bytes"`
	HotBytes int64  `json:"hot_bytes"`
	Objects  int    `json:"objects"`
	Evicted  uint64 `json:"evicted"`
}

// Cache shows the cache of the generation in use.
func (g *Gateway) Cache() any {
	now := g.Current()
	if now.cache == nil {
		return struct{}{}
	}
	s := now.cache.Stats()
	return CacheState{int64(now.Config.Cache.Size), s.Bytes, s.HotBytes, s.Objects, s.Evicted}
}

// SaveCache writes what is stored to cache.file, if there is one.
func (g *Gateway) SaveCache() {
	now := g.Current()
	if now == nil || now.cache == nil || now.Config.Cache.File == "" {
		return
	}
	path := now.Config.Cache.File
	n, err := now.cache.Save(path)
	if err != nil {
		g.log.Error().Err(err).Str("file", path).Msg("stored answers not written")
		return
	}
	g.log.Info().Int("objects", n).Str("file", path).Msg("stored answers written")
}

// loadCache reads what an earlier process left.
func (g *Gateway) loadCache(next *Generation) {
	path := next.Config.Cache.File
	if path == "" {
		return
	}
	n, err := next.cache.Load(path, time.Now().UnixNano())
	if err != nil {
		g.log.Warn().Err(err).Int("objects", n).Str("file", path).Msg("stored answers not all read")
		return
	}
	g.log.Info().Int("objects", n).Str("file", path).Msg("stored answers read")
}

// FleetStats counts what is shared with other gateways; all is 0 when nothing is.
func (g *Gateway) FleetStats() cache.FleetStats {
	if now := g.Current(); now.cache != nil && now.cache.Fleet != nil {
		return now.cache.Fleet.Stats()
	}
	return cache.FleetStats{}
}
