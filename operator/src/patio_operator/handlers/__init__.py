"""kopf's share: it watches the ClusterEngineRuntimeProfiles, logs in and ends with the process.

`profiles` is its handler and adds the profile's name to the work queue, `login` and `runner` set kopf up. All other
resources are watched by informers (`kube.informer`), since users of a namespace write them and kopf decodes objects
without a bound (docs/decisions/0022).
"""
