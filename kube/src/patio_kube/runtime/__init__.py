"""The machinery that reconcilers run on. It knows neither Kubernetes nor Patio.

- `workqueue`: keys that wait for a worker, with backoff
- `task_pool`: background tasks by key, with limits
- `incremental`: long computations as generators; `time_slices` runs them a few milliseconds at a time
- `loop_lag`: how late the event loop is
- `open_file_limit`: how many connections the process may have
"""
