"""How many workers a ModelEndpoint should have now, and which of them goes. Pure.

`planner.plan` takes the time, an `observation.Observations`, a `spec.ScalingSpec` and the `memory.ScalingMemory` of the
step before, and returns a `decision.Decision` with the next memory in it. `demand` adds up what gateways report;
`memory` keeps the peaks of the last window; `victims` orders workers by what is lost with them. `trace` reads and
writes observations as JSON lines, `replay` plans a whole trace, and `python -m` this package shows it as a table.

The caller observes, lets workers drain, and patches the scale subresource. Nothing here does I/O, asks for the time or
draws a random number, so a recorded trace gives the same decisions again.
"""
