"""Fixtures that every suite can use."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.agents import known_agents
from support.servers import ServerUnderTest, server_under_test

pytest_plugins = ["no_skip"]


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    """A started server with the known agents, on free ports, in a folder of its own."""
    async with server_under_test(tmp_path / "data", agents=known_agents()) as server:
        yield server
