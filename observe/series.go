package observe

import "github.com/prometheus/client_golang/prometheus"

// Series is the name, help and labels of a metric whose values are given at
// each scrape through Emit. Make it once, as a package variable.
type Series struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// NewCounterSeries describes numbers that only grow. By custom the name ends
// in _total.
func NewCounterSeries(name, help string, labels ...string) *Series {
	return &Series{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

// NewGaugeSeries describes numbers that go up and down.
func NewGaugeSeries(name, help string, labels ...string) *Series {
	return &Series{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

// NewHistogramSeries describes Histograms. By custom the name ends in _seconds.
func NewHistogramSeries(name, help string, labels ...string) *Series {
	return &Series{prometheus.NewDesc(name, help, labels, nil), prometheus.UntypedValue}
}

// Emit takes values during one scrape. A value whose labels do not fit its
// series, are not UTF-8 or were emitted before is reported as that scrape's
// error; the others still come through.
type Emit struct{ ch chan<- prometheus.Metric }

// Value emits the number that s has for these label values now.
func (e Emit) Value(s *Series, value float64, labels ...string) {
	metric, err := prometheus.NewConstMetric(s.desc, s.kind, value, labels...)
	if err != nil {
		metric = prometheus.NewInvalidMetric(s.desc, err)
	}
	e.ch <- metric
}

// Histogram emits what h counted so far.
func (e Emit) Histogram(s *Series, h *Histogram, labels ...string) {
	count, sum, upTo := h.read()
	metric, err := prometheus.NewConstHistogram(s.desc, count, sum, upTo, labels...)
	if err != nil {
		metric = prometheus.NewInvalidMetric(s.desc, err)
	}
	e.ch <- metric
}
