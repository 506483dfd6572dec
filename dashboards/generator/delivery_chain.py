"""The rows of the board "Delivery" on the chain: each link in its order, and what did not come through."""

from typing import Final

from dashboards.generator import links, promql
from dashboards.generator.frame import Placed, Row
from dashboards.generator.house import COUNT, PER_SECOND, SECONDS, Asked, Column, lines, rows, transformation
from tracewire_telemetry.catalog import (
    DELIVERIES,
    DELIVERY_SECONDS,
    EVENTS,
    EVENTS_HEALED,
    EVENTS_MISSING,
    LEDGER_EVENTS_OPEN,
    LINK_SECONDS,
)
from tracewire_telemetry.vocabulary import LINKS, Link, Origin, Verdict

_TAKEN: Final = {
    Link.ENGINE: "emitted by the agent",
    Link.BRIDGE: "given a seq and checked against the contract",
    Link.EMITTER: "durable in the event log",
    Link.SOCKET: "written to a socket of the user",
    Link.CLIENT: "acknowledged by the user's client as processed",
}
_TIME: Final = {link: f"Time from the link before to {link}." for link in LINKS} | {
    Link.ENGINE: "Time from the run's record to its first event."
}


def to_users() -> links.Link:
    """A link to the board that names users."""
    return links.link("Which users", links.to_board(links.USERS))


def chain() -> Row:
    """Three panels for each link, then the whole way."""
    panels = [panel for number_, link in enumerate(LINKS, start=1) for panel in _link(number_, link)]
    whole = lines(
        "From engine to acknowledgement: p50, p99",
        "How long an event takes the whole way. Within 2 s it is in time. Each point is a delivery whose trace was "
        "kept: a click leads to it.",
        SECONDS,
        Asked(promql.quantile(0.5, DELIVERY_SECONDS), "p50"),
        Asked(promql.quantile(0.99, DELIVERY_SECONDS), "p99", exemplars=True),
        steps=((None, "green"), (2, "red")),
    )
    return Row("The chain, in its order", [*panels, Placed(whole, 24, 7)])


def _link(position: int, link: Link) -> list[Placed]:
    at = f'link="{link}"'
    return [
        Placed(
            lines(
                f"{position} {link}: rate",
                f"Events a second that the link {link} took: {_TAKEN[link]}. The next link's should be the same, but "
                "for what waits for users who are away, and for readers that cannot acknowledge.",
                PER_SECOND,
                Asked(promql.rate(EVENTS, at, by="event_type"), "{{event_type}}"),
                stacked=True,
            ),
            8,
            6,
        ),
        Placed(
            lines(
                f"{position} {link}: missing, and healed",
                f"Events that the link {link} had not taken by its deadline, by type, and those that came after all. "
                "Each point is a missing event: a click leads to its trace.",
                COUNT,
                Asked(
                    promql.increase(EVENTS_MISSING, at, by="event_type", over=promql.RATE),
                    "{{event_type}}",
                    exemplars=True,
                ),
                Asked(promql.increase(EVENTS_HEALED, at, over=promql.RATE), "healed"),
                bars=True,
                links=[to_users()],
            ),
            8,
            6,
        ),
        Placed(
            lines(
                f"{position} {link}: p50, p99",
                f"{_TIME[link]} Each point belongs to the slowest delivery of a run whose trace was kept: a click "
                "leads to it.",
                SECONDS,
                Asked(promql.quantile(0.5, LINK_SECONDS, at), "p50"),
                Asked(promql.quantile(0.99, LINK_SECONDS, at), "p99", exemplars=True),
            ),
            8,
            6,
        ),
    ]


def missing() -> Row:
    """What became of the events that did not simply arrive."""
    matrix = [transformation("groupingToMatrix", columnField="link", rowField="event_type", valueField="Value")]
    reds = ((None, "transparent"), (1, "orange"), (10, "red"))
    return Row(
        "What is missing, what waits, what became of the rest",
        [
            Placed(
                rows(
                    "Missing, by type and link",
                    "Events that became missing in the time shown, by the first link that had not taken them. The type "
                    "next stands for an agent that fell silent.",
                    Asked(f"{promql.increase(EVENTS_MISSING, by='event_type, link')} > 0"),
                    columns=(
                        Column("event_type\\link", "Event"),
                        *(Column(str(link), str(link), steps=reds) for link in LINKS),
                    ),
                    transformations=matrix,
                    none="Nothing became missing",
                ),
                8,
                8,
            ),
            Placed(
                lines(
                    "Pending, and open",
                    "Events a second that were durable while none of the user's sockets followed the run: they wait in "
                    "the log, and are no loss. And events of runs that are not settled.",
                    COUNT,
                    Asked(promql.rate(DELIVERIES, f'verdict="{Verdict.NO_SOCKET}"'), "pending a second"),
                    Asked(promql.summed(promql.series(LEDGER_EVENTS_OPEN)), "open"),
                ),
                8,
                8,
            ),
            Placed(
                lines(
                    "Verdicts a second",
                    "What became of the deliveries to users, counted when a run is settled: acknowledged within 2 s, "
                    "later, never, or nobody was connected.",
                    PER_SECOND,
                    Asked(promql.rate(DELIVERIES, f'origin="{Origin.USER}"', by="verdict"), "{{verdict}}"),
                    stacked=True,
                ),
                8,
                8,
            ),
        ],
    )
