package rig

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// maxPage bounds what the private door may answer.
const maxPage = 16 << 20

// Ask sends a request to the private door.
func (g *Gateway) Ask(ctx context.Context, method, path string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+g.Admin+path, nil)
	if err != nil {
		return 0, "", err
	}
	// No connection is kept: nobody would close it.
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxPage))
	return res.StatusCode, string(text), err
}

// Scrape reads the metrics. A sample's key is its name and its labels by name:
// sluice_requests_total{code="200",route="a"}. A sample that is there twice is
// an error. Of a histogram it holds the count, under name_count.
func (g *Gateway) Scrape(ctx context.Context) (map[string]float64, error) {
	status, text, err := g.Ask(ctx, http.MethodGet, "/metrics")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("/metrics: expected 200, got %d: %.300s", status, text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("/metrics: %w", err)
	}
	samples := map[string]float64{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			key, value := sample(name, m)
			if _, twice := samples[key]; twice {
				return nil, fmt.Errorf("/metrics: %s is there twice", key)
			}
			samples[key] = value
		}
	}
	return samples, nil
}

func sample(name string, m *dto.Metric) (key string, value float64) {
	switch {
	case m.Counter != nil:
		value = m.Counter.GetValue()
	case m.Gauge != nil:
		value = m.Gauge.GetValue()
	case m.Histogram != nil:
		name += "_count"
		value = float64(m.Histogram.GetSampleCount())
	case m.Summary != nil:
		name += "_count"
		value = float64(m.Summary.GetSampleCount())
	case m.Untyped != nil:
		value = m.Untyped.GetValue()
	}
	var labels []string
	for _, l := range m.GetLabel() {
		labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	if len(labels) == 0 {
		return name, value
	}
	sort.Strings(labels)
	return name + "{" + strings.Join(labels, ",") + "}", value
}

// The ways to tell a gateway that its configuration has changed.
const (
	BySignal = "SIGHUP"
	ByAdmin  = "POST /reload"
	ByFile   = "file change" // it is watched, nothing needs to be told
)

// Reload puts text in the place of the configuration file, tells the gateway,
// and waits until that has been read: applied, or else refused.
func (g *Gateway) Reload(ctx context.Context, how, file, text string) (applied bool, err error) {
	before, err := g.reloads(ctx)
	if err != nil {
		return false, err
	}
	if err := Replace(file, text); err != nil {
		return false, err
	}
	switch how {
	case BySignal:
		err = g.Signal(syscall.SIGHUP)
	case ByAdmin:
		var status int
		var body string
		if status, body, err = g.Ask(ctx, http.MethodPost, "/reload"); err == nil && status != http.StatusOK && status != http.StatusUnprocessableEntity {
			err = fmt.Errorf("POST /reload: expected 200 or 422, got %d: %s", status, body)
		}
	}
	if err != nil {
		return false, err
	}
	var now reloads
	var failed error
	err = Poll(ctx, "the configuration was read", func() bool {
		now, failed = g.reloads(ctx)
		return failed != nil || now != before
	})
	if err == nil {
		err = failed
	}
	return now.applied > before.applied, err
}

type reloads struct{ applied, refused float64 }

func (g *Gateway) reloads(ctx context.Context) (r reloads, err error) {
	samples, err := g.Scrape(ctx)
	return reloads{
		samples[`sluice_config_reloads_total{result="applied"}`],
		samples[`sluice_config_reloads_total{result="refused"}`],
	}, err
}

// Replace writes a file as careful programs do: whole, under another name, and
// then moved into place.
func Replace(file, text string) error {
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Alternate reloads between two configurations, one reload begun every so
// often, until total is over. It returns how many there were; each must be
// applied.
func (g *Gateway) Alternate(ctx context.Context, how, file string, texts [2]string, every, total time.Duration) (count int, err error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	over := time.After(total)
	for {
		applied, err := g.Reload(ctx, how, file, texts[count%2])
		if err == nil && !applied {
			err = fmt.Errorf("reload %d was refused", count)
		}
		if err != nil {
			return count, err
		}
		count++
		select {
		case <-tick.C:
		case <-over:
			return count, nil
		case <-ctx.Done():
			return count, ctx.Err()
		}
	}
}
