"""Dashboards, alerts and runbooks of Patio as data, and what they are written as.

`dashboards` and `alerts` say what there is, `grafana`, `perses`, `rules` and `pages` write it as files, and `__main__`
writes or checks all of them. Nothing here imports the products: their metrics are known by name alone, and tests
compare the names with the generated reference. No product imports this package, and no image has it.
"""
