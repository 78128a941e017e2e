package gateway

import (
	"sluice/observe"
	"sluice/pool"
)

var (
	seriesBreaker   = observe.NewGaugeSeries("sluice_upstream_breaker_state", "0: closed, 1: half-open, 2: open.", "upstream")
	seriesOpened    = observe.NewCounterSeries("sluice_upstream_breaker_opened_total", "How often the breaker opened.", "upstream")
	seriesRefused   = observe.NewCounterSeries("sluice_upstream_breaker_refused_total", "Tries that the open breaker refused.", "upstream")
	seriesEjections = observe.NewCounterSeries("sluice_upstream_ejections_total", "How often a target was ejected as an outlier.", "upstream")
	seriesAtWork    = observe.NewGaugeSeries("sluice_upstream_requests_at_work", "Requests that hold one of the upstream's places (concurrency).", "upstream")
	seriesQueued    = observe.NewGaugeSeries("sluice_upstream_requests_waiting", "Requests that wait for one of them.", "upstream")
	seriesLimit     = observe.NewGaugeSeries("sluice_upstream_adaptive_limit", "The adaptive limit of requests in flight.", "upstream")
	seriesShed      = observe.NewCounterSeries("sluice_upstream_shed_total", "Requests turned away by the adaptive limit.", "upstream")
	seriesPanic     = observe.NewGaugeSeries("sluice_upstream_panic", "1 while too few targets are healthy and all are used.", "upstream")
	seriesLatency   = observe.NewGaugeSeries("sluice_upstream_answer_seconds", "A quantile of the time to an answer's head over the last ten seconds; hedges and budgets go by it.", "upstream", "quantile")
	seriesUnhealthy = observe.NewGaugeSeries("sluice_target_unhealthy", "1 while a target fails its health checks.", "upstream", "target")
	seriesEjected   = observe.NewGaugeSeries("sluice_target_ejected", "1 while a target is ejected as an outlier.", "upstream", "target")
)

var breakerStates = map[string]float64{"closed": 0, "half-open": 1, "open": 2}

// collectGuards emits what guards u.
func collectGuards(emit observe.Emit, u *pool.Upstream) {
	g := u.Guards()
	if u.Config.Breaker != nil {
		emit.Value(seriesBreaker, breakerStates[g.Breaker], u.Name)
		emit.Value(seriesOpened, float64(g.Opened), u.Name)
		emit.Value(seriesRefused, float64(g.Refused), u.Name)
	}
	if u.Config.Outlier != nil {
		emit.Value(seriesEjections, float64(g.Ejections), u.Name)
	}
	if u.Config.Concurrency != nil {
		emit.Value(seriesAtWork, float64(g.AtWork), u.Name)
		emit.Value(seriesQueued, float64(g.Waiting), u.Name)
	}
	if u.Config.Adaptive != nil {
		emit.Value(seriesLimit, g.AdaptiveLimit, u.Name)
		emit.Value(seriesShed, float64(g.Shed), u.Name)
	}
	emit.Value(seriesPanic, oneIf(g.Panic), u.Name)
	emit.Value(seriesLatency, g.P50MS/1e3, u.Name, "0.5")
	emit.Value(seriesLatency, g.P99MS/1e3, u.Name, "0.99")
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
