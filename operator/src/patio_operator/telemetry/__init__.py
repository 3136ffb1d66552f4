"""What the operator shows of itself: `logs` (JSON lines), `metrics` (Prometheus), `health` (the routes of probes)."""
