"""For the operator's tests: builders of its objects, simulators of fleets and groups, API servers in memory."""
