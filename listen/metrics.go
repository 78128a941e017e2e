package listen

import "sluice/observe"

var (
	seriesOpen       = observe.NewGaugeSeries("sluice_door_connections", "Open connections that came in by a door.", "door")
	seriesAccepted   = observe.NewCounterSeries("sluice_door_accepted_total", "Connections accepted at a door.", "door")
	seriesRefused    = observe.NewCounterSeries("sluice_door_refused_total", "Connections turned away at a door, by reason.", "door", "reason")
	seriesHandshakes = observe.NewCounterSeries("sluice_door_handshake_errors_total", "TLS handshakes that failed or took too long.", "door")
	seriesAccepts    = observe.NewCounterSeries("sluice_door_accept_errors_total", "Times that the system gave no connection, such as for want of file descriptors.", "door")
	seriesReloads    = observe.NewCounterSeries("sluice_certificate_reload_errors_total", "Certificate files that changed and could not be used.")
	seriesExpiry     = observe.NewGaugeSeries("sluice_certificate_not_after_timestamp_seconds", "When a certificate expires.", "door", "file")
)

// Collect emits the figures of all doors, for observe.Metrics.Collect.
func (d *Doors) Collect(emit observe.Emit) {
	s := d.Stats()
	emit.Value(seriesReloads, float64(s.ReloadErrors))
	for _, door := range s.Doors {
		emit.Value(seriesOpen, float64(door.Open), door.Door)
		emit.Value(seriesAccepted, float64(door.Accepted), door.Door)
		for r, n := range door.Refused {
			emit.Value(seriesRefused, float64(n), door.Door, Refusal(r).String())
		}
		emit.Value(seriesHandshakes, float64(door.HandshakeErrors), door.Door)
		emit.Value(seriesAccepts, float64(door.AcceptErrors), door.Door)
	}
	for _, c := range s.Certificates {
		emit.Value(seriesExpiry, float64(c.NotAfter.Unix()), c.Door, c.File)
	}
}
