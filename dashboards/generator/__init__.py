"""Writes the Grafana boards of `dashboards/grafana`: `make dashboards`, or `python -m dashboards.generator`.

`promql` says how a series is asked for, `house` how a panel looks, `frame` what every board has, and one module each
what stands on a board. Names of metrics, links, types and codes come from the telemetry's own catalogue and vocabulary,
so that a rename there changes the boards, or fails here.
"""
