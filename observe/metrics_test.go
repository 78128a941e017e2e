package observe

import (
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// scrape returns the lines of one scrape that are about Sluice.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(m.Gatherer(), promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 200 {
		t.Fatalf("scrape: %d %s", w.Code, w.Body)
	}
	var ours strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, "sluice_") {
			ours.WriteString(line)
		}
	}
	return ours.String()
}

func TestMetricsScrape(t *testing.T) {
	m := NewMetrics(Build{"1.2.3", "abc", "go1"}, []string{"", "timeout", "connect"})
	s := m.Route("user")
	if m.Route("user") != s {
		t.Fatal("expected the same counters for the same name")
	}
	s.Begin()
	s.Begin()
	s.End(200, 150*time.Microsecond, 10, 1000)
	s.Begin()
	s.End(502, 3*time.Second, 0, -1)
	s.Begin()
	s.End(0, 0, 0, 0)
	s.Fault(0)
	s.Fault(1)
	s.Fault(3)
	s.Fault(-1)
	m.ConfigApplied(1, "h1", time.UnixMilli(1_500))
	m.ConfigRefused()
	m.LogDropped(func() uint64 { return 7 })
	targets := NewGaugeSeries("sluice_targets", "Targets.", "upstream")
	m.Collect(func(emit Emit) { emit.Value(targets, 3, "users") })

	got := scrape(t, m)
	for want := range strings.Lines(`# TYPE sluice_requests_total counter
sluice_requests_total{code="0",route="user"} 1
sluice_requests_total{code="200",route="user"} 1
sluice_requests_total{code="502",route="user"} 1
# TYPE sluice_requests_in_flight gauge
sluice_requests_in_flight{route="user"} 1
# TYPE sluice_request_bytes_total counter
sluice_request_bytes_total{route="user"} 10
# TYPE sluice_response_bytes_total counter
sluice_response_bytes_total{route="user"} 1000
# TYPE sluice_faults_total counter
sluice_faults_total{kind="timeout",route="user"} 1
# TYPE sluice_log_dropped_total counter
sluice_log_dropped_total 7
# TYPE sluice_build_info gauge
sluice_build_info{go="go1",revision="abc",version="1.2.3"} 1
# TYPE sluice_targets gauge
sluice_targets{upstream="users"} 3
# TYPE sluice_config_generation gauge
sluice_config_generation 1
# TYPE sluice_config_info gauge
sluice_config_info{hash="h1"} 1
# TYPE sluice_config_last_reload_success gauge
sluice_config_last_reload_success 0
# TYPE sluice_config_reloads_total counter
sluice_config_reloads_total{result="applied"} 0
sluice_config_reloads_total{result="refused"} 1
# TYPE sluice_config_last_success_timestamp_seconds gauge
sluice_config_last_success_timestamp_seconds 1.5
# TYPE sluice_request_duration_seconds histogram
sluice_request_duration_seconds_bucket{route="user",le="0.0001"} 1
sluice_request_duration_seconds_bucket{route="user",le="0.0002"} 2
sluice_request_duration_seconds_bucket{route="user",le="5"} 3
sluice_request_duration_seconds_bucket{route="user",le="+Inf"} 3
sluice_request_duration_seconds_sum{route="user"} 3.00015
sluice_request_duration_seconds_count{route="user"} 3
`) {
		if !strings.Contains(got, want) {
			t.Errorf("expected %s", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
	if strings.Contains(got, `kind="connect"`) || strings.Contains(got, `kind=""`) {
		t.Error("expected no series for a kind of fault that never was, or is none")
	}
	problems, err := promlint.New(strings.NewReader(got)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("expected names as Prometheus wants them, got %v, %v", problems, err)
	}
}

func TestRetain(t *testing.T) {
	m := NewMetrics(Build{}, nil)
	kept, gone, none := m.Route("kept"), m.Route("gone"), m.Route(Unrouted)
	m.Retain([]string{"kept", "new"})
	gone.Begin()
	gone.End(200, 0, 0, 0) // a request that began before is harmless
	if m.Route("kept") != kept || m.Route(Unrouted) != none {
		t.Error("expected the counters of routes that stay to stay")
	}
	if m.Route("gone") == gone {
		t.Error("expected a route that came back to start anew")
	}
}

// A series whose labels are wrong must not take the rest of the scrape with it.
func TestWrongLabels(t *testing.T) {
	m := NewMetrics(Build{}, nil)
	m.Route("a\xffb").Begin()
	wrong := NewGaugeSeries("sluice_wrong", "Wrong.", "one")
	m.Collect(func(emit Emit) { emit.Value(wrong, 1) })
	families, err := m.Gatherer().Gather()
	if err == nil {
		t.Error("expected an error for a missing label")
	}
	for _, family := range families {
		if family.GetName() == "sluice_requests_in_flight" {
			return
		}
	}
	t.Error("expected the other series to be there")
}

func TestMetricsTogether(t *testing.T) {
	m := NewMetrics(Build{}, []string{"connect"})
	const workers, each = 4, 200
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				s := m.Route("user")
				s.Begin()
				s.Fault(0)
				s.End(200, time.Duration(i)*time.Millisecond, 1, 1)
				if i%50 == 0 {
					if _, err := m.Gatherer().Gather(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	s := m.Route("user")
	count, _, _ := s.duration.read()
	if count != workers*each || s.inFlight.Load() != 0 || s.bytesOut.Load() != workers*each {
		t.Errorf("expected %d requests and none in flight, got %d and %d", workers*each, count, s.inFlight.Load())
	}
}
