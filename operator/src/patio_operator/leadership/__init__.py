"""Which replica acts: `rules` decides from what the Lease says, `elector` reads and writes the Lease.

Every replica watches and answers admissions; the leader alone works queues off and talks to sidecars. The Lease is
kept as client-go keeps it, so that what people know about leases holds for this one.
"""
