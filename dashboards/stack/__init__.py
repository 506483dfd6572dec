"""The stack beside Tracewire: what `make stack` runs as plain processes, and the helpers of `compose.yaml`.

`__main__` starts the programs and ends them, `programs` says which there are, `rendering` puts addresses into the
shipped configurations. `receiver` prints notifications, `visitor` is a user. `prepare` and `gate` are for containers
alone: the secrets of a first start, and the ops port for a browser on this machine. Nothing here needs more than
Tracewire itself does.
"""
