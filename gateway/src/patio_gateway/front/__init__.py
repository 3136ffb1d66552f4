"""What Envoy cannot answer: models without a worker, unknown models, the list of models, the page for people.

`app` is the way in. `queue` decides which held request goes on (pure), `holder` is the shell around it. A request whose
model has a worker never comes here; one that was held goes back to Envoy, so that no answer of an engine passes Python.
"""
