"""Queries over the catalogue's metrics, every selector narrowed to the job and the instances that the board shows."""

from typing import Final, Protocol

from tracewire_telemetry.catalog import DELIVERIES
from tracewire_telemetry.vocabulary import Origin, Verdict

OBJECTIVE: Final = 0.999
"""The share of deliveries in time over 30 days; `dashboards/prometheus/rules/objective.yaml` has its complement."""
BUDGET: Final = "0.001"
RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"
OURS: Final = 'job=~"$job", instance=~"$instance"'
BESIDE: Final = 'job=~"$beside"'
"""Of the programs beside Tracewire: Prometheus, Alertmanager, the Collector. Their instances are few."""
NOT_OURS: Final = 'job!~"tracewire.*"'
BAD: Final = f"{Verdict.LATE}|{Verdict.MISSING}"
COUNTED: Final = f"{Verdict.IN_TIME}|{BAD}"
BURN_WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
_BAD_RECORD: Final = f"job:{DELIVERIES.full_name.removesuffix('_total')}_bad"


class Named(Protocol):
    """A metric of the catalogue, or of another program."""

    @property
    def full_name(self) -> str:
        """The name as Prometheus shows it."""


def series(metric: Named, *matchers: str, suffix: str = "", scope: str = OURS) -> str:
    """The selector of a metric, with further matchers; `suffix` is a histogram's `_bucket`, `_sum` or `_count`."""
    return f"{metric.full_name}{suffix}{{{', '.join((scope, *matchers))}}}"


def rate(metric: Named, *matchers: str, by: str = "", suffix: str = "", scope: str = OURS) -> str:
    """How much of a counter a second, summed `by` labels."""
    return summed(f"rate({series(metric, *matchers, suffix=suffix, scope=scope)}[{RATE}])", by)


def increase(metric: Named, *matchers: str, by: str = "", over: str = RANGE, scope: str = OURS) -> str:
    """How much a counter rose over a window; by default over the time that the board shows."""
    return summed(f"increase({series(metric, *matchers, scope=scope)}[{over}])", by)


def quantile(share: float, metric: Named, *matchers: str, by: str = "") -> str:
    """A quantile of a histogram, interpolated within its bucket."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {rate(metric, *matchers, by=labels, suffix='_bucket')})"


def summed(expression: str, by: str = "", how: str = "sum") -> str:
    """An aggregation, `by` labels."""
    return f"{how} by ({by}) ({expression})" if by else f"{how}({expression})"


def largest(metric: Named, *matchers: str, by: str = "") -> str:
    """The largest of a gauge, by labels."""
    return summed(series(metric, *matchers), by, "max")


def age(metric: Named, *matchers: str, by: str = "") -> str:
    """Seconds since the oldest of these timestamps."""
    return summed(f"time() - {series(metric, *matchers)}", by, "max")


def age_when_scraped(metric: Named, *matchers: str, by: str = "") -> str:
    """How old the oldest of these timestamps was at its last scrape: for limits that a scrape's own age would pass."""
    asked = series(metric, *matchers)
    return summed(f"timestamp({asked}) - {asked}", by, "max")


def either_rate(metric: Named, *matchers: str, by: str = "") -> str:
    """How much a second of a counter of a program beside us, whether its name ends in `_total` or not."""
    head = f'__name__=~"{metric.full_name}(_total)?"'
    return summed(f"rate({{{', '.join((head, BESIDE, *matchers))}}}[{RATE}])", by)


def bad_share(window: str) -> str:
    """The recorded share of late and missing deliveries over a window; of whole installations, not of instances."""
    return f'{_BAD_RECORD}:ratio_rate{window}{{job=~"$job"}}'


def bad_count(window: str) -> str:
    """The recorded number of late and missing deliveries over a window."""
    return f'{_BAD_RECORD}:increase{window}{{job=~"$job"}}'


def verdicts(values: str, *, over: str) -> str:
    """How many deliveries to users had one of these verdicts over a window, by installation."""
    return increase(DELIVERIES, f'origin="{Origin.USER}"', f'verdict=~"{values}"', by="job", over=over)


def alerts(*matchers: str, series_name: str = "ALERTS") -> str:
    """Prometheus's own series of alerts: those of the jobs shown, and those on no Tracewire server at all.

    Alerts that were summed over instances have no such label.
    """
    named = ", ".join(matchers)
    shown = f'{series_name}{{job=~"$job", instance=~"$instance|", {named}}}'
    return f"({shown} or {series_name}{{{NOT_OURS}, {named}}})"
