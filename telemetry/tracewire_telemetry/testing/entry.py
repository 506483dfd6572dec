"""What the entry point `pytest11` names. It leads to the plugin by its module's name, so that a run which is told of
the plugin twice (installed, and by `-p` or in a `conftest.py`) has it once.
"""

pytest_plugins = ["tracewire_telemetry.testing.plugin"]
