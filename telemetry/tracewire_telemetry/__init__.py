"""Tracewire's telemetry: stamps on the path of an event, and what comes of them.

`ledger` is the pure record of one run; `watch` its clock; `chain` and `spans` make a trace of it, `export` sends it,
`metrics` counts, `stamps` is what the event log keeps. `catalog` declares every name, `vocabulary` every closed set.
`sdk` builds it all; nothing global is set.
"""
