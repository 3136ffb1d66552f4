"""The model gateway: requests of OpenAI's API to the engine that has the model or adapter now.

Envoy is on the way of each request. `control` turns what is known of models and workers (`snapshot`) into Envoy's
configuration. `front` answers what Envoy cannot: unknown models, models without a worker, the list of models.
`forwarder` is another program: it stands beside an engine and takes Model Engine's calls for it.
"""
