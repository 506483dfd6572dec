"""What Prometheus scrapes: well-formed, complete from the first scrape, and equal to what was sent."""

import asyncio
import itertools
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from support.agents import all_agents
from support.real_programs import real_program
from support.servers import ServerUnderTest, server_under_test
from support.wire import Frame, Wire, wire_to
from tracewire_telemetry.catalog import (
    METRICS,
    OTHER,
    PROCESS_METRICS,
    RUN_SECONDS_BUCKETS,
    SECONDS_BUCKETS,
    MetricSpec,
)
from tracewire_telemetry.vocabulary import EVENT_TYPES, LINKS

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by sample name and labels."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    """A server with agents that end in different ways."""
    async with server_under_test(tmp_path / "data", agents=all_agents()) as started:
        yield started


async def scrape(server: ServerUnderTest, *, accept: str = "text/plain", token: str | None = None) -> httpx.Response:
    """One scrape over the ops port."""
    headers = {"Accept": accept} | ({"Authorization": f"Bearer {token}"} if token else {})
    async with httpx.AsyncClient() as http:
        return await http.get(f"{server.server.ops_url}/metrics", headers=headers)


async def series(server: ServerUnderTest) -> Series:
    """Every series of one scrape."""
    return series_of(parse_text((await scrape(server)).text))


def series_of(families: Iterable[Metric]) -> Series:
    """The samples of these families."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def label_sets(server: ServerUnderTest, spec: MetricSpec) -> list[dict[str, str]]:
    """Every combination of the metric's labels; those that are filled at start are the server's agents and tools."""
    known = {"agent": {*server.server.agents.names, OTHER}, "tool": {*server.server.agents.tools, OTHER}}
    choices = [[(name, value) for value in values or sorted(known[name])] for name, values in spec.labels]
    return [dict(combination) for combination in itertools.product(*choices)]


async def many_runs(server: ServerUnderTest) -> list[list[Frame]]:
    """The events of runs that end in every way there is, all acked and settled."""
    runs = [
        ("five", "go"),
        ("five", "go"),
        ("streams", "go"),
        ("raises", "exception"),
        ("hangs_in_tool", "go"),
        ("overdue", "go"),
        ("leaves_tool_open", "go"),
        ("threaded", "go"),
        ("returns_no_json", "object"),
    ]
    async with wire_to(server.server.ws_url, server.token("user-who-must-not-be-named")) as wire:
        received = [await acked(wire, await wire.start_run(text, agent=agent)) for agent, text in runs]
        run_id = await wire.start_run("go", agent="waits")
        await wire.receive_type("agent_thinking")
        await wire.send("cancel_run", run_id=run_id)
        received.append(await acked(wire, run_id))
        for events in received:
            await server.trace(events[0]["run_id"])
    return received


async def acked(wire: Wire, run_id: str) -> list[Frame]:
    """The run's events, acked."""
    events = await wire.receive_run(run_id)
    await wire.ack(run_id, len(events))
    return events


async def test_promtool_accepts_every_scrape(server: ServerUnderTest) -> None:
    """Before the first run and after many, Prometheus's own checker has nothing to say."""
    promtool = real_program("promtool", package="prometheus")
    before = (await scrape(server)).text
    await many_runs(server)
    after = (await scrape(server)).text
    for text in (before, after):
        checked = await asyncio.to_thread(
            subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


async def test_events_by_link_and_type_equal_what_was_sent(server: ServerUnderTest) -> None:
    """Each event counts once at each of the five links, whatever came of its run, and the verdicts leave deltas out."""
    runs = await many_runs(server)
    sent = Counter(event["type"] for events in runs for event in events)
    assert set(sent) == {event_type.value for event_type in EVENT_TYPES} - {"input_required"}
    found = await series(server)
    for link, event_type in itertools.product(LINKS, EVENT_TYPES):
        labels = frozenset({("link", link.value), ("event_type", event_type.value)})
        assert found["tracewire_events_total", labels] == sent[event_type.value], (link, event_type)
    for event_type in EVENT_TYPES:
        verdicts = [
            value
            for (name, labels), value in found.items()
            if name == "tracewire_deliveries_total" and ("event_type", event_type.value) in labels
        ]
        assert sum(verdicts) == (0 if event_type.value == "agent_delta" else sent[event_type.value])
    assert found["tracewire_delivery_seconds_count", frozenset()] == sent.total()


async def test_runs_and_tool_calls_are_counted_by_how_they_ended(server: ServerUnderTest) -> None:
    """Outcomes and statuses equal those of the events; a tool that no agent declares is `other`."""
    runs = await many_runs(server)
    found = await series(server)
    outcomes = Counter(
        (events[0]["agent"], events[-1]["data"].get("code") or events[-1]["type"].removeprefix("agent_"))
        for events in runs
    )
    counted = {
        (dict(labels)["agent"], dict(labels)["outcome"]): value
        for (name, labels), value in found.items()
        if name == "tracewire_runs_total" and value
    }
    assert counted == outcomes
    tools = Counter(
        (event["data"]["tool_name"] if event["data"]["tool_name"] == "look" else OTHER, event["data"]["status"])
        for events in runs
        for event in events
        if event["type"] == "tool_completed"
    )
    counted = {
        (dict(labels)["tool"], dict(labels)["status"]): value
        for (name, labels), value in found.items()
        if name == "tracewire_tool_calls_total" and value
    }
    assert counted == tools
    assert found["tracewire_runs_open", frozenset()] == 0
    assert found["tracewire_ledger_events_open", frozenset()] == 0


async def test_open_runs_are_counted_at_every_scrape(server: ServerUnderTest) -> None:
    """A run that has not ended shows in `events_total`, once a link, however often it is scraped."""
    async with wire_to(server.server.ws_url, server.token("open")) as wire:
        run_id = await wire.start_run("go", agent="waits")
        await wire.receive_type("agent_thinking")
        await scrape(server)
        found = await series(server)
        for link, expected in (("engine", 1), ("bridge", 1), ("emitter", 1), ("socket", 1), ("client", 0)):
            labels = frozenset({("link", link), ("event_type", "agent_thinking")})
            assert found["tracewire_events_total", labels] == expected, link
        assert found["tracewire_runs_open", frozenset()] == 1
        assert found["tracewire_connections", frozenset()] == 1
        await wire.send("cancel_run", run_id=run_id)
        await acked(wire, run_id)


async def test_every_closed_label_set_is_there_at_0_before_the_first_run(server: ServerUnderTest) -> None:
    """Every metric of the catalogue with every combination of its labels; a first incident is then an increase."""
    found = await series(server)
    families = {family.name: family for family in parse_text((await scrape(server)).text)}
    stamps = [spec for spec in METRICS if spec.passing and not spec.labels]
    assert [] == [spec.name for spec in stamps if spec.full_name in families]
    for spec in (spec for spec in METRICS if spec not in stamps):
        family = families[spec.full_name.removesuffix("_total")]
        assert (family.type, family.documentation) == (spec.kind, spec.help)
        if spec.name == "build_info":
            assert [sample.value for sample in family.samples] == [1]
            continue
        if spec.passing:
            assert family.samples == []
            continue
        for labels in label_sets(server, spec):
            if spec.kind == "counter":
                assert found[spec.full_name, frozenset(labels.items())] == 0, (spec.name, labels)
            elif spec.kind == "gauge":
                assert (spec.full_name, frozenset(labels.items())) in found, (spec.name, labels)
            else:
                assert found[f"{spec.full_name}_count", frozenset(labels.items())] == 0, (spec.name, labels)
                assert found[f"{spec.full_name}_sum", frozenset(labels.items())] == 0, (spec.name, labels)
    assert len([name for name in families if name.startswith("tracewire_")]) == len(METRICS) - len(stamps)
    gauges = {spec.full_name for spec in METRICS if spec.kind == "gauge" and not spec.passing}
    idle = gauges - {f"tracewire_{name}" for name in ("build_info", "ready", "eventlog_bytes", "event_loop_lag_seconds",
                                                      "start_timestamp_seconds",
                                                      "watch_last_tick_timestamp_seconds")}  # fmt: skip
    assert {name: found[name, frozenset()] for name in idle} == dict.fromkeys(idle, 0)
    assert found["tracewire_ready", frozenset()] == 1


async def test_histograms_have_the_buckets_of_the_contract(server: ServerUnderTest) -> None:
    """Powers of two: 2⁻¹⁶ to 2⁶ s, for runs 2⁻⁴ to 2¹² s; every bucket is there from the start."""
    found = await series(server)
    for spec in METRICS:
        if spec.kind == "histogram":
            bounds = RUN_SECONDS_BUCKETS if spec.name == "run_seconds" else SECONDS_BUCKETS
            name = f"{spec.full_name}_bucket"
            for labels in label_sets(server, spec):
                own = [dict(key) for (sample, key) in found if sample == name and labels.items() <= dict(key).items()]
                assert sorted(float(key["le"]) for key in own) == [*bounds, float("inf")], (spec.name, labels)


async def test_the_openmetrics_scrape_parses_and_says_the_same(server: ServerUnderTest) -> None:
    """A scraper that asks for OpenMetrics gets it, well-formed to the last line, with the same series."""
    await many_runs(server)
    response = await scrape(server, accept="application/openmetrics-text; version=1.0.0")
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
    open_metrics = series_of(parse_openmetrics(response.text))
    text = await series(server)
    assert open_metrics.keys() == text.keys()
    events = {key: value for key, value in text.items() if key[0] == "tracewire_events_total"}
    assert {key: open_metrics[key] for key in events} == events


async def test_no_created_series_and_nothing_but_ours_is_exposed(server: ServerUnderTest) -> None:
    """`_created` would double the series; every name has our prefix, but for what any program tells of its process."""
    await many_runs(server)
    for accept in ("text/plain", "application/openmetrics-text"):
        body = (await scrape(server, accept=accept)).text
        assert "_created" not in body
        names = {line.split("{")[0].split(" ")[0] for line in body.splitlines() if line and not line.startswith("#")}
        others = {name for name in names if not name.startswith("tracewire_")}
        assert others == {spec.full_name for spec in PROCESS_METRICS}


async def test_the_ops_port_needs_its_token_where_one_is_set(tmp_path: Path) -> None:
    """Without it, with another, or with a user's own: 401; health is for everybody."""
    async with server_under_test(tmp_path / "data", agents=all_agents(), ops_token="for operators alone") as server:
        assert (await scrape(server)).status_code == 401
        assert (await scrape(server, token="something else")).status_code == 401
        assert (await scrape(server, token=server.token("user"))).status_code == 401
        assert (await scrape(server, token="for operators alone")).status_code == 200
        events = (await many_runs(server))[0]
        ledger = f"{server.server.ops_url}/runs/{events[0]['run_id']}/ledger"
        async with httpx.AsyncClient() as http:
            assert (await http.get(ledger)).status_code == 401
            allowed = await http.get(ledger, headers={"Authorization": "Bearer for operators alone"})
            assert (allowed.status_code, allowed.json()["settled"]) == (200, True)
            assert (await http.get(f"{server.server.ops_url}/live")).status_code == 200
            assert (await http.get(f"{server.server.ops_url}/ready")).status_code == 200


async def test_the_ops_port_says_which_paths_it_has(server: ServerUnderTest) -> None:
    """Who opens its address alone learns where to look; there is no `/schema` to send them to."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{server.server.ops_url}/")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_frame")
    assert "/incidents, /live, /metrics, /ready, " in answer.json()["detail"]
    assert "/schema" not in answer.json()["detail"]


async def test_nothing_on_the_public_port_names_a_user_to_another(server: ServerUnderTest) -> None:
    """No metrics and no operator's routes there, no user's name in what anybody may read or another user gets."""
    events = (await many_runs(server))[0]
    run_id = events[0]["run_id"]
    headers = {"Authorization": f"Bearer {server.token('another')}"}
    public, operators = server.server.url, ("/metrics", "/revocations")
    async with httpx.AsyncClient(base_url=public) as http:
        for path in operators:
            assert (await http.get(path, headers=headers)).status_code == 404
        bodies = [
            (await http.get(path, headers=with_token)).text
            for path in (
                *operators,
                "/ready",
                "/live",
                "/schema",
                "/",
                "/agents",
                "/incidents",
                "/runs",
                f"/runs/{run_id}",
                f"/runs/{run_id}/ledger",
                f"/runs/{run_id}/events",
            )
            for with_token in ({}, headers)
        ]
    assert [body for body in bodies if "must-not-be-named" in body] == []
    assert "must-not-be-named" not in (await scrape(server)).text
