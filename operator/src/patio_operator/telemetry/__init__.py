"""What the operator shows of itself: `logs` (JSON lines), `metrics` (Prometheus), `health` (routes of probes, metrics).

`metrics` counts, `collectors` reads what others keep, `object_gauges` follows objects by what `statuses` reads of them,
and `exposition` writes all of it as a page.
"""
