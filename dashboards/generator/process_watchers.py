"""The parts of the board "Process" that tell of its telemetry, and of the programs that watch."""

from dashboards.generator import outside, promql
from dashboards.generator.frame import Placed, Row
from dashboards.generator.house import BYTES, COUNT, PER_SECOND, SECONDS, Asked, lines, number
from dashboards.generator.process_server import HEIGHT
from dashboards.generator.promql import largest, rate, series, summed
from tracewire_telemetry import catalog
from tracewire_telemetry.vocabulary import SpanDropReason


def spans() -> Row:
    """The ledger and its watch, and the spans that are made of it."""
    by_design = f'reason="{SpanDropReason.RUN_LIMIT}"'
    return Row(
        "Ledger, watch and spans",
        [
            Placed(
                lines(
                    "Events in the ledger",
                    "Events of runs that are not settled. What only grows is a ledger that does not get rid of what is "
                    "settled.",
                    COUNT,
                    Asked(summed(series(catalog.LEDGER_EVENTS_OPEN), "instance"), "{{instance}}"),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Stamps lost, by link",
                    "Events a second that crossed a link, as a later one shows, without a stamp there: telemetry that "
                    "was lost, and no event.",
                    PER_SECOND,
                    Asked(rate(catalog.STAMPS_LOST, by="link"), "{{link}}"),
                    stacked=True,
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Spans exported",
                    "Spans a second that the receiver of traces took.",
                    PER_SECOND,
                    Asked(rate(catalog.SPANS_EXPORTED, by="instance"), "{{instance}}"),
                    stacked=True,
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Spans dropped, by reason",
                    "Spans a second that were not exported. `run_limit` is no loss: a run's spans past the first "
                    "2,000, by design.",
                    PER_SECOND,
                    Asked(rate(catalog.SPANS_DROPPED, by_design.replace("=", "!="), by="reason"), "{{reason}}"),
                    Asked(rate(catalog.SPANS_DROPPED, by_design, by="reason"), "{{reason}}, by design"),
                    stacked=True,
                ),
                6,
                HEIGHT,
            ),
        ],
    )


def collector() -> Row:
    """What the Collector takes, sends on, and loses."""
    either = promql.either_rate
    return Row(
        "Collector",
        [
            Placed(
                lines(
                    "Spans in and out",
                    "Spans a second that it took and sent on. With tail sampling less leaves than enters.",
                    PER_SECOND,
                    Asked(either(outside.RECEIVED), "taken"),
                    Asked(either(outside.SENT, by="exporter"), "sent on: {{exporter}}"),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Spans lost",
                    "Spans a second that it refused, could not queue, or could not send on. Traces are lost then; "
                    "ledger, incidents and alerts do not depend on it.",
                    PER_SECOND,
                    Asked(either(outside.REFUSED), "refused"),
                    Asked(either(outside.ENQUEUE_FAILED, by="exporter"), "not queued: {{exporter}}"),
                    Asked(either(outside.SEND_FAILED, by="exporter"), "not sent: {{exporter}}"),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Traces sampled",
                    "Traces a second that were kept and left out, and those that had to go before their time was over: "
                    "its memory of traces is too small for the traffic.",
                    PER_SECOND,
                    Asked(either(outside.SAMPLED, by="decision"), "{{decision}}"),
                    Asked(either(outside.TOO_EARLY), "dropped too early"),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Queue",
                    "What waits on disk to be sent on, and how much may. A full queue loses spans.",
                    BYTES,
                    Asked(summed(series(outside.QUEUE_SIZE, scope=promql.BESIDE), "exporter"), "{{exporter}} waiting"),
                    Asked(summed(series(outside.QUEUE_CAPACITY, scope=promql.BESIDE), "exporter"), "{{exporter}} room"),
                ),
                6,
                HEIGHT,
            ),
        ],
    )


def watchers() -> Row:
    """Whether those who would tell can tell."""
    beside = promql.BESIDE
    return Row(
        "Who watches: Prometheus and Alertmanager",
        [
            Placed(
                number(
                    "Programs beside it",
                    "What else Prometheus scrapes, and whether it answers. Without these users are served, and nobody "
                    "is told.",
                    "none",
                    Asked(summed(series(outside.UP, scope=beside), "job", "min"), "{{job}}"),
                    steps=((None, "red"), (1, "green")),
                    texts={"0": "down", "1": "up"},
                    none="nothing is scraped",
                ),
                4,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Scrapes: duration",
                    "How long a scrape of each server takes. A scrape past its interval is no scrape.",
                    SECONDS,
                    Asked(largest(outside.SCRAPE_SECONDS, by="instance"), "{{instance}}"),
                ),
                5,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Series",
                    "Series of a scrape, and all that Prometheus holds. Ours are closed sets; only users in violation "
                    "come and go.",
                    COUNT,
                    Asked(largest(outside.SCRAPE_SAMPLES, by="instance"), "{{instance}}"),
                    Asked(summed(series(outside.HEAD_SERIES, scope=beside)), "in Prometheus"),
                ),
                5,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Rules that fail, or are late",
                    "Evaluations in the time of a rate that failed, by group, and those that were left out because the "
                    "one before took too long. Alerts of that group may be silent.",
                    COUNT,
                    Asked(
                        promql.increase(outside.RULE_FAILURES, by="rule_group", over=promql.RATE, scope=beside),
                        "{{rule_group}}",
                    ),
                    Asked(promql.increase(outside.RULE_MISSES, over=promql.RATE, scope=beside), "left out"),
                    bars=True,
                ),
                5,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Notifications",
                    "Notifications that Prometheus could not hand over, and those that Alertmanager sent and could not "
                    "send. What fails here reaches nobody.",
                    COUNT,
                    Asked(promql.increase(outside.NOTIFY_ERRORS, over=promql.RATE, scope=beside), "not handed over"),
                    Asked(promql.increase(outside.NOTIFY_DROPPED, over=promql.RATE, scope=beside), "dropped"),
                    Asked(promql.increase(outside.ALERTMANAGER_SENT, over=promql.RATE, scope=beside), "sent"),
                    Asked(promql.increase(outside.ALERTMANAGER_FAILED, over=promql.RATE, scope=beside), "not sent"),
                    bars=True,
                ),
                5,
                HEIGHT,
            ),
        ],
    )
