"""Fixtures that every suite can use."""

from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from support.agents import known_agents
from support.servers import ServerUnderTest, server_under_test

pytest_plugins = ["no_skip", "tracewire_telemetry.testing.plugin"]

# How long an example takes on a machine with busy cores says nothing of what is tested.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

# Where rich is installed, as with mutmut, structlog draws all locals beside a traceback, and blocks the loop for it.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

LONGEST = (
    "test_planted_bugs.py", "test_schedules.py", "test_alert_rules.py", "test_crash.py", "test_alerting.py",
    "test_monitoring_failures.py", "test_chaos_short.py", "test_alarms_short.py", "test_page.py", "test_drills.py",
    "test_catalogue_live.py", "test_stack.py", "test_collector.py", "test_outside_examples.py",
    "test_mutants_short.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that two workers are done at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    """A started server with the known agents, on free ports, in a folder of its own."""
    async with server_under_test(tmp_path / "data", agents=known_agents()) as server:
        yield server
