"""What the operator shows of itself: `logs` (JSON lines), `metrics` (Prometheus) and `health` (/healthz, /readyz, /metrics)."""
