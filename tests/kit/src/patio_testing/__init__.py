"""What several test files share: builders, simulators, doubles, and ways to a real API server or cluster.

`operator` and `sidecar` have what the tests of each need in their own process. The modules beside them start and reach
real things: `kube` is the API server as its users see it, `operator_process` and `engine_pods` are what runs beside an
API server without nodes, `environment` is a whole cluster with Patio installed. What one test file alone uses lies
beside that file. No product imports this package.
"""
