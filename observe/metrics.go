package observe

import (
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// The series of this package. Their names, with the labels, are what users
// build dashboards and alerts on: they are never renamed.
var (
	seriesBuild        = NewGaugeSeries("sluice_build_info", "Always 1; the labels say what runs.", "version", "revision", "go")
	seriesRequests     = NewCounterSeries("sluice_requests_total", "Requests, by the status sent; 499: the client left.", "route", "code")
	seriesDuration     = NewHistogramSeries("sluice_request_duration_seconds", "From a request's head, read whole, to its answer's last byte.", "route")
	seriesInFlight     = NewGaugeSeries("sluice_requests_in_flight", "Requests being answered.", "route")
	seriesRequestSize  = NewCounterSeries("sluice_request_bytes_total", "Bytes of request bodies received.", "route")
	seriesResponseSize = NewCounterSeries("sluice_response_bytes_total", "Bytes of answer bodies sent.", "route")
	seriesFaults       = NewCounterSeries("sluice_faults_total", "Requests that failed, by the kind of fault.", "route", "kind")
	seriesPhases       = NewCounterSeries("sluice_budget_phase_seconds_total", "Where the time of requests with a budget went: queue, connect, wait (for the head of the answer), body.", "route", "phase")
	seriesExtra        = NewCounterSeries("sluice_extra_tries_total", "Tries beyond the first: retry or hedge.", "route", "kind")
	seriesFallbacks    = NewCounterSeries("sluice_fallbacks_total", "Requests that a fallback answered.", "route")
	seriesLogDropped   = NewCounterSeries("sluice_log_dropped_total", "Access log lines dropped because the output was too slow or refused them.")
	seriesGeneration   = NewGaugeSeries("sluice_config_generation", "Number of the configuration in use, counted from 1 at the start.")
	seriesConfigInfo   = NewGaugeSeries("sluice_config_info", "Always 1; the label is the hash of the configuration in use.", "hash")
	seriesReloadOK     = NewGaugeSeries("sluice_config_last_reload_success", "1 when the last configuration read is in use, 0 when it was refused.")
	seriesReloads      = NewCounterSeries("sluice_config_reloads_total", "Configurations read after the first.", "result")
	seriesReloadTime   = NewGaugeSeries("sluice_config_last_success_timestamp_seconds", "When the configuration in use was put in use.")
)

// Unrouted is the route label of requests that no route matched.
const Unrouted = "-"

// statuses 100 to 599 have a counter each; index 0 is for all others.
const (
	firstStatus = 100
	lastStatus  = 599
)

// Metrics holds the process's counters and turns them into Prometheus series
// when they are scraped. All methods are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	build    Build
	kinds    []string

	mu       sync.Mutex // guards what follows; never taken by a request
	routes   map[string]*RouteStats
	collects []func(Emit)
	config   configState
	dropped  func() uint64
}

type configState struct {
	generation uint64
	hash       string
	since      time.Time
	refused    bool
	reloads    uint64
	refusals   uint64
}

// NewMetrics returns metrics with series for the Go runtime and the process.
// faultKinds names the kinds that RouteStats.Fault counts, by index; they are
// unique, and what has an empty name is not exported.
func NewMetrics(build Build, faultKinds []string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		build:    build,
		kinds:    slices.Clone(faultKinds),
		routes:   make(map[string]*RouteStats),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collector{m},
	)
	return m
}

// Gatherer is what a scrape reads.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Route returns the counters of the route of this name, the same ones at every
// call until Retain drops them. Look it up once, not for each request.
func (m *Metrics) Route(name string) *RouteStats {
	name = strings.ToValidUTF8(name, "\ufffd")
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.routes[name]
	if s == nil {
		s = &RouteStats{faults: make([]atomic.Uint64, len(m.kinds))}
		m.routes[name] = s
	}
	return s
}

// Retain drops the counters of all routes but these and Unrouted. Requests
// that still hold dropped ones may go on using them; nobody sees them any more.
func (m *Metrics) Retain(names []string) {
	keep := make(map[string]bool, len(names)+1)
	keep[Unrouted] = true
	for _, name := range names {
		keep[strings.ToValidUTF8(name, "\ufffd")] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.routes {
		if !keep[name] {
			delete(m.routes, name)
		}
	}
}

// ConfigApplied records that a configuration was put in use at a time. hash
// may be public: it must not tell what secrets the configuration holds.
func (m *Metrics) ConfigApplied(generation uint64, hash string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &m.config
	if c.generation != 0 {
		c.reloads++
	}
	c.generation, c.hash, c.since, c.refused = generation, strings.ToValidUTF8(hash, ""), at, false
}

// ConfigRefused records that a configuration was read and changed nothing.
func (m *Metrics) ConfigRefused() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.config.refusals++
	m.config.refused = true
}

// LogDropped sets where the number of dropped access log lines comes from. It
// must only grow, also when the log behind it is replaced.
func (m *Metrics) LogDropped(dropped func() uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropped = dropped
}

// Collect adds a function that emits further series at every scrape. It may
// run in several scrapes at once, and must not call m.
func (m *Metrics) Collect(f func(Emit)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.collects = append(m.collects, f)
}

// RouteStats are the counters of one route. All methods are safe for
// concurrent use, and neither block nor allocate.
type RouteStats struct {
	inFlight Gauge
	bytesIn  Counter
	bytesOut Counter
	duration Histogram
	statuses [1 + lastStatus - firstStatus + 1]atomic.Uint64
	faults   []atomic.Uint64
	phases   [len(phaseNames)]Counter // ns
	retries  Counter
	hedges   Counter
	fallback Counter
	cached   [cacheResults]Counter
	cacheOut Counter // bytes of bodies
	hitAge   Histogram
	renewed  [2]Counter // refreshes that stored nothing, and that did
}

var phaseNames = [...]string{"queue", "connect", "wait", "body"}

// Spent adds where the time of a request with a budget went.
func (s *RouteStats) Spent(queue, connect, wait, body time.Duration) {
	for i, d := range [...]time.Duration{queue, connect, wait, body} {
		if d > 0 {
			s.phases[i].Add(uint64(d))
		}
	}
}

// Extra counts the tries of a request beyond its first, and whether a fallback
// answered in the end.
func (s *RouteStats) Extra(retries, hedges int, fellBack bool) {
	if retries > 0 {
		s.retries.Add(uint64(retries))
	}
	if hedges > 0 {
		s.hedges.Add(uint64(hedges))
	}
	if fellBack {
		s.fallback.Inc()
	}
}

// Begin counts a request as in flight until End.
func (s *RouteStats) Begin() { s.inFlight.Add(1) }

// End counts a request that Begin announced: the status sent (0 when none
// was), how long it took, and the bytes of its body and of its answer's.
func (s *RouteStats) End(status int, d time.Duration, in, out int64) {
	s.inFlight.Add(-1)
	s.duration.Observe(d)
	i := 0
	if firstStatus <= status && status <= lastStatus {
		i = 1 + status - firstStatus
	}
	s.statuses[i].Add(1)
	if in > 0 {
		s.bytesIn.Add(uint64(in))
	}
	if out > 0 {
		s.bytesOut.Add(uint64(out))
	}
}

// Fault counts a failure of a kind: an index into NewMetrics's faultKinds.
// Other indexes count nothing.
func (s *RouteStats) Fault(kind int) {
	if uint(kind) < uint(len(s.faults)) {
		s.faults[kind].Add(1)
	}
}

// Build says which program runs.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
}

// ReadBuild completes version with what the Go linker knows. An empty version
// becomes the module's, or "devel".
func ReadBuild(version string) Build {
	b := Build{Version: version, Revision: "unknown", Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		if b.Version == "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				b.Revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				defer func() { b.Revision += "+modified" }()
			}
		}
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	return b
}

// collector is Metrics as Prometheus sees it. It describes nothing beforehand,
// for which series there are depends on the configuration.
type collector struct{ m *Metrics }

func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	m, emit := c.m, Emit{ch}
	m.mu.Lock()
	names := make([]string, 0, len(m.routes))
	routes := make([]*RouteStats, 0, len(m.routes))
	for name, s := range m.routes {
		names, routes = append(names, name), append(routes, s)
	}
	collects := slices.Clone(m.collects)
	config, dropped := m.config, m.dropped
	m.mu.Unlock()

	emit.Value(seriesBuild, 1, m.build.Version, m.build.Revision, m.build.Go)
	for i, s := range routes {
		s.emit(emit, names[i], m.kinds)
	}
	if dropped != nil {
		emit.Value(seriesLogDropped, float64(dropped()))
	}
	config.emit(emit)
	for _, f := range collects {
		f(emit)
	}
}

func (s *RouteStats) emit(emit Emit, route string, kinds []string) {
	for i := range s.statuses {
		n := s.statuses[i].Load()
		if n == 0 {
			continue
		}
		code := 0
		if i > 0 {
			code = firstStatus + i - 1
		}
		emit.Value(seriesRequests, float64(n), route, strconv.Itoa(code))
	}
	for i := range s.faults {
		if n := s.faults[i].Load(); n > 0 && kinds[i] != "" {
			emit.Value(seriesFaults, float64(n), route, kinds[i])
		}
	}
	emit.Histogram(seriesDuration, &s.duration, route)
	emit.Value(seriesInFlight, float64(s.inFlight.Load()), route)
	emit.Value(seriesRequestSize, float64(s.bytesIn.Load()), route)
	emit.Value(seriesResponseSize, float64(s.bytesOut.Load()), route)
	emit.Value(seriesExtra, float64(s.retries.Load()), route, "retry")
	emit.Value(seriesExtra, float64(s.hedges.Load()), route, "hedge")
	emit.Value(seriesFallbacks, float64(s.fallback.Load()), route)
	s.emitCache(emit, route)
	for i, phase := range phaseNames {
		emit.Value(seriesPhases, float64(s.phases[i].Load())/1e9, route, phase)
	}
}

func (c configState) emit(emit Emit) {
	success := 1.0
	if c.refused {
		success = 0
	}
	emit.Value(seriesReloadOK, success)
	emit.Value(seriesReloads, float64(c.reloads), "applied")
	emit.Value(seriesReloads, float64(c.refusals), "refused")
	emit.Value(seriesGeneration, float64(c.generation))
	if c.generation != 0 {
		emit.Value(seriesConfigInfo, 1, c.hash)
		emit.Value(seriesReloadTime, float64(c.since.UnixMilli())/1000)
	}
}
