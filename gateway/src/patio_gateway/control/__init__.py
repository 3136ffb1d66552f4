"""Turns what is known into the files that Envoy watches. `resources` is the way in; all of it is pure."""
