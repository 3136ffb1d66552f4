"""Where a snapshot comes from: URLs that a person gave, or Kubernetes. Each source yields whole snapshots."""
