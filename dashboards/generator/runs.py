"""The board "Runs and agents": what agents are asked for, how their runs end, and what their tools do."""

from typing import Final

from dashboards.generator import links, promql, traceql
from dashboards.generator.found import found_columns
from dashboards.generator.frame import Board, Placed, Row, ops_variable, query_variable
from dashboards.generator.house import COUNT, PER_SECOND, SECONDS, SHARE, Asked, Column, lines, number, traces
from tracewire_telemetry.catalog import (
    EVENTS,
    REJECTED,
    RUN_OLDEST_SECONDS,
    RUN_SECONDS,
    RUNS,
    RUNS_ABANDONED,
    RUNS_LOST_AT_START,
    RUNS_OPEN,
    TOOL_CALLS,
    TOOL_SECONDS,
    Attribute,
)
from tracewire_telemetry.vocabulary import EventType, Link, Outcome, ToolStatus

_THIS: Final = 'agent=~"$agent"'
_ENDED_WELL: Final = f"{Outcome.COMPLETED}|{Outcome.CANCELLED}"


def board() -> Board:
    """What stands on it: runs, then their tools, then the traces of those that failed."""
    variable = query_variable(
        "agent",
        "Agent",
        "The agents that were known when a server started; others are `other`.",
        f"label_values({promql.series(RUNS)}, agent)",
    )
    return Board(
        links.RUNS,
        "Tracewire / Runs and agents",
        "What is asked of agents, how their runs end and how long they take, and what their tools do.",
        [_runs(), _tools(), _traces()],
        variables=[variable, ops_variable()],
    )


def _runs() -> Row:
    failed = promql.increase(RUNS, _THIS, f'outcome!~"{_ENDED_WELL}"')
    ended = promql.increase(RUNS, _THIS)
    started = (f'link="{Link.ENGINE}"', f'event_type="{EventType.AGENT_STARTED}"')
    return Row(
        "Runs",
        [
            Placed(
                number(
                    "Open",
                    "Runs without a terminal event, of all agents.",
                    COUNT,
                    Asked(promql.summed(promql.series(RUNS_OPEN))),
                    decimals=0,
                    graph=True,
                ),
                4,
                4,
            ),
            Placed(
                number(
                    "Oldest open run",
                    "Age of the oldest open run that awaits no input. Every run ends at its deadline, 3,600 s by "
                    "default: one past it is stuck.",
                    SECONDS,
                    Asked(promql.largest(RUN_OLDEST_SECONDS)),
                    steps=((None, "green"), (1800, "orange"), (3660, "red")),
                    decimals=0,
                ),
                4,
                4,
            ),
            Placed(
                number(
                    "Ended in an error",
                    "The share of runs in the time shown that ended neither completed nor cancelled.",
                    SHARE,
                    Asked(f"{failed} / ({ended} > 0)"),
                    steps=((None, "green"), (0.01, "orange"), (0.1, "red")),
                    decimals=1,
                    none="no run ended",
                ),
                4,
                4,
            ),
            Placed(
                number(
                    "Ran on after their end",
                    "Agents in the time shown that went on after the end of their run, and were left to themselves: "
                    "they swallow the cancellation.",
                    COUNT,
                    Asked(promql.increase(RUNS_ABANDONED, _THIS)),
                    steps=((None, "green"), (1, "orange")),
                    decimals=0,
                ),
                4,
                4,
            ),
            Placed(
                number(
                    "Lost at the last start",
                    "Runs that a crash had left open, and that the start after it closed with worker_lost.",
                    COUNT,
                    Asked(promql.summed(promql.series(RUNS_LOST_AT_START))),
                    steps=((None, "green"), (1, "orange")),
                    decimals=0,
                ),
                4,
                4,
            ),
            Placed(
                number(
                    "Refused, last hour",
                    "Frames and requests that were refused in the last hour, for whatever reason.",
                    COUNT,
                    Asked(promql.increase(REJECTED, over="1h")),
                    decimals=0,
                ),
                4,
                4,
            ),
            Placed(
                lines(
                    "Starts, and ends by agent",
                    "Runs started a second, of all agents, and ended, by agent. Ends that stay below starts are runs "
                    "that pile up.",
                    PER_SECOND,
                    Asked(promql.rate(EVENTS, *started), "started, all agents"),
                    Asked(promql.rate(RUNS, _THIS, by="agent"), "{{agent}} ended"),
                ),
                12,
                8,
            ),
            Placed(
                lines(
                    "Outcomes",
                    "How runs ended, a second: completed, cancelled, or the code of their agent_error.",
                    PER_SECOND,
                    Asked(promql.rate(RUNS, _THIS, by="outcome"), "{{outcome}}"),
                    stacked=True,
                ),
                12,
                8,
            ),
            Placed(
                lines(
                    "Duration by agent: p50, p99",
                    "From a run's record to its terminal event, the time in which it waited for input included.",
                    SECONDS,
                    Asked(promql.quantile(0.5, RUN_SECONDS, _THIS, by="agent"), "{{agent}} p50"),
                    Asked(promql.quantile(0.99, RUN_SECONDS, _THIS, by="agent"), "{{agent}} p99"),
                ),
                12,
                8,
            ),
            Placed(
                lines(
                    "Refused, by code",
                    "Frames and requests refused a second. `rate_limited` and `too_many_runs` are a user's limits, "
                    "`not_ready`, `draining` and `log_unavailable` the server's state.",
                    PER_SECOND,
                    Asked(promql.rate(REJECTED, by="code"), "{{code}}"),
                    stacked=True,
                ),
                12,
                8,
            ),
        ],
    )


def _tools() -> Row:
    failed = promql.rate(TOOL_CALLS, f'status!="{ToolStatus.OK}"', by="tool, status")
    return Row(
        "Tools, of all agents",
        [
            Placed(
                lines(
                    "Calls by tool",
                    "Tool calls that ended, a second. Tools that no agent declared are `other`.",
                    PER_SECOND,
                    Asked(promql.rate(TOOL_CALLS, by="tool"), "{{tool}}"),
                    stacked=True,
                ),
                8,
                8,
            ),
            Placed(
                lines(
                    "Failed calls by tool and status",
                    "Tool calls a second that ended in an error, past their deadline or with their run.",
                    PER_SECOND,
                    Asked(failed, "{{tool}}: {{status}}"),
                    stacked=True,
                ),
                8,
                8,
            ),
            Placed(
                lines(
                    "Duration by tool: p99",
                    "One call in a hundred takes longer than this.",
                    SECONDS,
                    Asked(promql.quantile(0.99, TOOL_SECONDS, by="tool"), "{{tool}}"),
                ),
                8,
                8,
            ),
        ],
    )


def _traces() -> Row:
    run = (Column(Attribute.AGENT_NAME, "Agent"), Column(Attribute.RUN_OUTCOME, "Outcome"))
    return Row(
        "Traces of ${agent}",
        [
            Placed(
                traces(
                    "Runs that ended in an error",
                    "The latest runs that ended in agent_error, and by which code. A click on the span opens the "
                    "trace, on the run its ledger.",
                    traceql.FAILED_RUNS,
                    columns=found_columns(*run),
                ),
                12,
                8,
            ),
            Placed(
                traces(
                    "Runs with a late delivery",
                    "The latest runs of which an event took 2 s or more from the engine to its acknowledgement.",
                    traceql.SLOW_RUNS,
                    columns=found_columns(*run, Column(Attribute.DELIVERY_MAX_MS, "Slowest", unit="ms")),
                ),
                12,
                8,
            ),
        ],
    )
