"""The attributes of spans and of the resource, declared once: key, type, meaning, where the name is from.

Names of the OpenTelemetry conventions are those of semantic conventions 1.37: generative AI and messaging, both in
development. A member of `Attribute` without an entry in `ATTRIBUTES` does not import.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from tracewire_telemetry.catalog_specs import AttributeSpec
from tracewire_telemetry.vocabulary import LINKS, MISSING_TYPES, KeepReason, Outcome, RunErrorCode, ToolStatus

SCOPE: Final = "tracewire"
AGENT_SCOPE: Final = f"{SCOPE}.agent"
"""The instrumentation scope of the spans that an agent makes by `ctx.tracer`."""
EVENT_MISSING: Final = "event_missing"
"""`error.type` of the span of the link that did not take an event."""
SPANS_PER_RUN_MAX: Final = 2_000


class Attribute(StrEnum):
    """The attributes of our spans. Those of the conventions first, ours after them."""

    OPERATION_NAME = "gen_ai.operation.name"
    AGENT_NAME = "gen_ai.agent.name"
    CONVERSATION_ID = "gen_ai.conversation.id"
    PROVIDER_NAME = "gen_ai.provider.name"
    TOOL_NAME = "gen_ai.tool.name"
    TOOL_CALL_ID = "gen_ai.tool.call.id"
    MESSAGING_SYSTEM = "messaging.system"
    MESSAGING_OPERATION_NAME = "messaging.operation.name"
    MESSAGING_MESSAGE_ID = "messaging.message.id"
    MESSAGING_BATCH_COUNT = "messaging.batch.message_count"
    USER_ID = "user.id"
    ERROR_TYPE = "error.type"
    RUN_ID = "tracewire.run.id"
    RUN_OUTCOME = "tracewire.run.outcome"
    EVENT_TYPE = "tracewire.event.type"
    EVENT_SEQ = "tracewire.event.seq"
    EVENT_FIRST_SEQ = "tracewire.event.first_seq"
    EVENT_LAST_SEQ = "tracewire.event.last_seq"
    LINK = "tracewire.link"
    SOCKET = "tracewire.socket"
    TOOL_STATUS = "tracewire.tool.status"
    SPAN_COUNT = "tracewire.trace.span_count"
    CHAIN_COMPLETE = "tracewire.chain.complete"
    EVENTS_PENDING = "tracewire.events.pending"
    DELIVERY_MAX_MS = "tracewire.delivery.max_ms"
    KEEP_REASON = "tracewire.keep.reason"
    RECOVERED = "tracewire.recovered"
    SPANS_DROPPED = "tracewire.spans.dropped"
    STAMPS_LOST = "tracewire.stamps.lost"
    CONNECTION_ID = "tracewire.connection.id"


_GEN_AI: Final = "GenAI 1.37"
_MESSAGING: Final = "messaging 1.37"
_GENERAL: Final = "general"
_OURS: Final = "Tracewire"
_A_RUN: Final = "grows with runs"
_A_USER: Final = "grows with users"


def _spec(
    key: Attribute, kind: str, source: str, values: str | Iterable[str], meaning: str, *, unit: str = ""
) -> tuple[Attribute, AttributeSpec]:
    """`values` is a closed set, or what an open one grows with."""
    if isinstance(values, str):
        return key, AttributeSpec(key.value, kind, meaning, values, source, unit)
    return key, AttributeSpec(key.value, kind, meaning, "a closed set", source, unit, tuple(map(str, values)))


ATTRIBUTES: Final = dict((
    _spec(Attribute.OPERATION_NAME, "string", _GEN_AI, ("invoke_agent", "execute_tool"), "What the span is of."),
    _spec(Attribute.AGENT_NAME, "string", _GEN_AI, "agents served", "The agent that the run is of."),
    _spec(Attribute.CONVERSATION_ID, "string", _GEN_AI, _A_RUN, "The thread that the run belongs to (`thread_id`)."),
    _spec(Attribute.PROVIDER_NAME, "string", _GEN_AI, (SCOPE,), "Who runs the agent; a model is the agent's own."),
    _spec(Attribute.TOOL_NAME, "string", _GEN_AI, "tools of agents", "The tool that is called."),
    _spec(Attribute.TOOL_CALL_ID, "string", _GEN_AI, _A_RUN, "The call, as the tool's two events name it."),
    _spec(Attribute.MESSAGING_SYSTEM, "string", _MESSAGING, (SCOPE,), "Who delivers the event."),
    _spec(Attribute.MESSAGING_OPERATION_NAME, "string", _MESSAGING, ("create", "process", "send", "settle"),
          "What was done with the event; the first word of the span's name."),
    _spec(Attribute.MESSAGING_MESSAGE_ID, "string", _MESSAGING, _A_RUN, "The event: run id, a colon, its seq."),
    _spec(Attribute.MESSAGING_BATCH_COUNT, "int", _MESSAGING, "unbounded",
          "How many events the span is of: a burst of deltas, or a replay.", unit="events"),
    _spec(Attribute.USER_ID, "string", _GENERAL, _A_USER, "Whose run it is."),
    _spec(Attribute.ERROR_TYPE, "string", _GENERAL,
          dict.fromkeys((EVENT_MISSING, *RunErrorCode, *(status for status in ToolStatus if status != ToolStatus.OK))),
          "What went wrong: a link that did not take an event, or how the run or the tool failed."),
    _spec(Attribute.RUN_ID, "string", _OURS, _A_RUN, "The run, as clients, logs, ledger and incidents name it."),
    _spec(Attribute.RUN_OUTCOME, "string", _OURS, Outcome, "How the run ended."),
    _spec(Attribute.EVENT_TYPE, "string", _OURS, MISSING_TYPES,
          "The event's type; `next` where the agent fell silent, and nobody knows what would have come."),
    _spec(Attribute.EVENT_SEQ, "int", _OURS, "unbounded", "The event's seq; of a burst of deltas, the first."),
    _spec(Attribute.EVENT_FIRST_SEQ, "int", _OURS, "unbounded", "The first seq of a burst or a replay."),
    _spec(Attribute.EVENT_LAST_SEQ, "int", _OURS, "unbounded", "The last seq of a burst or a replay."),
    _spec(Attribute.LINK, "string", _OURS, LINKS, "The link whose stamp ends the span."),
    _spec(Attribute.SOCKET, "int", _OURS, "sockets of a run",
          "Which of the sockets that followed the run, counted from 1 within it."),
    _spec(Attribute.TOOL_STATUS, "string", _OURS, ToolStatus, "How the tool call ended."),
    _spec(Attribute.SPAN_COUNT, "int", _OURS, f"at most {SPANS_PER_RUN_MAX:,}",
          "How many spans the trace has, the root counted: a trace with fewer was cut on its way.", unit="spans"),
    _spec(Attribute.CHAIN_COMPLETE, "bool", _OURS, ("True", "False"),
          "Whether every event crossed every link in time; `false` after an incident."),
    _spec(Attribute.EVENTS_PENDING, "int", _OURS, "unbounded",
          "Durable events that had no socket to go to when the run was settled.", unit="events"),
    _spec(Attribute.DELIVERY_MAX_MS, "double", _OURS, "unbounded", "The slowest delivery, engine to ack.", unit="ms"),
    _spec(Attribute.KEEP_REASON, "string", _OURS, KeepReason,
          "Why the trace is kept whatever the share of good runs."),
    _spec(Attribute.RECOVERED, "bool", _OURS, ("True",),
          "Made after a crash from what was durable: moments are those of the envelopes, not stamps."),
    _spec(Attribute.SPANS_DROPPED, "int", _OURS, "unbounded",
          f"Spans past the first {SPANS_PER_RUN_MAX:,} of the run, which were left out.", unit="spans"),
    _spec(Attribute.STAMPS_LOST, "int", _OURS, "unbounded",
          "Links that an event crossed without a stamp, as a later link shows: telemetry lost, no event.",
          unit="stamps"),
    _spec(Attribute.CONNECTION_ID, "string", _OURS, "grows with sockets", "The socket, as `ready` and logs name it."),
))  # fmt: skip
"""Every attribute of our spans."""

if set(ATTRIBUTES) != set(Attribute):
    raise ValueError(f"attributes without an entry: {sorted(set(Attribute) - set(ATTRIBUTES))}")


class ResourceAttribute(StrEnum):
    """The attributes of the resource that every span is of. The last three are the SDK's."""

    SERVICE_NAME = "service.name"
    SERVICE_NAMESPACE = "service.namespace"
    SERVICE_VERSION = "service.version"
    SERVICE_INSTANCE_ID = "service.instance.id"
    DEPLOYMENT_ENVIRONMENT_NAME = "deployment.environment.name"
    SDK_LANGUAGE = "telemetry.sdk.language"
    SDK_NAME = "telemetry.sdk.name"
    SDK_VERSION = "telemetry.sdk.version"


def _of_resource(key: ResourceAttribute, cardinality: str, meaning: str) -> AttributeSpec:
    return AttributeSpec(key.value, "string", meaning, cardinality, "resource")


RESOURCE_ATTRIBUTES: Final = (
    _of_resource(ResourceAttribute.SERVICE_NAME, "one", "`tracewire`, or what `OTEL_SERVICE_NAME` says."),
    _of_resource(ResourceAttribute.SERVICE_NAMESPACE, "one", "`tracewire`."),
    _of_resource(ResourceAttribute.SERVICE_VERSION, "one a release", "Tracewire's version."),
    _of_resource(ResourceAttribute.SERVICE_INSTANCE_ID, "one a start", "The process: a UUID made at its start."),
    _of_resource(ResourceAttribute.DEPLOYMENT_ENVIRONMENT_NAME, "environments", "`TRACEWIRE_ENVIRONMENT`."),
    _of_resource(ResourceAttribute.SDK_LANGUAGE, "one", "`python`."),
    _of_resource(ResourceAttribute.SDK_NAME, "one", "`opentelemetry`."),
    _of_resource(ResourceAttribute.SDK_VERSION, "one a release", "The SDK's version."),
)
"""What `OTEL_RESOURCE_ATTRIBUTES` says is added to them, and wins."""
