"""The spans, declared once: name, kind, parent, the link whose stamp ends each, its attributes, and when it is there.

A run's trace is a tree: the run, its tools, and for each event `create`, `process`, a `send` for each socket, `settle`
under the send that was acked first. The code that makes a span takes its name, its kind and its link from here.
"""

from collections.abc import Mapping
from typing import Final

from opentelemetry.trace import SpanKind

from tracewire_telemetry.catalog_attributes import EVENT_MISSING, SCOPE, Attribute
from tracewire_telemetry.catalog_specs import SpanSpec
from tracewire_telemetry.vocabulary import Link

ASGI_SCOPE: Final = "opentelemetry.instrumentation.asgi"

_EVENT: Final = (
    Attribute.MESSAGING_SYSTEM, Attribute.MESSAGING_OPERATION_NAME, Attribute.RUN_ID, Attribute.USER_ID, Attribute.LINK,
    Attribute.EVENT_TYPE,
)  # fmt: skip
_SEQUENCED: Final = "unless it was lost before the bridge, where it gets its seq"
_BURST: Final = "a burst of deltas: one span for all of them"
_RECOVERED: Final = "made after a crash"
_BURSTS: Final[Mapping[str, str]] = {
    Attribute.EVENT_FIRST_SEQ: _BURST,
    Attribute.EVENT_LAST_SEQ: _BURST,
    Attribute.MESSAGING_BATCH_COUNT: _BURST,
    Attribute.ERROR_TYPE: "this link did not take the event by its deadline",
}
_SEQUENCED_EVENT: Final = (*_EVENT, Attribute.MESSAGING_MESSAGE_ID, Attribute.EVENT_SEQ)
_REPLAY: Final = (
    Attribute.MESSAGING_SYSTEM, Attribute.MESSAGING_OPERATION_NAME, Attribute.MESSAGING_BATCH_COUNT, Attribute.RUN_ID,
    Attribute.USER_ID, Attribute.EVENT_FIRST_SEQ, Attribute.EVENT_LAST_SEQ, Attribute.LINK,
)  # fmt: skip
_MISSING: Final = f"the event is missing at this link: `{EVENT_MISSING}`, ending at the deadline"

INVOKE_AGENT: Final = SpanSpec(
    operation="invoke_agent",
    of="{agent}",
    kind=SpanKind.INTERNAL,
    parent="",
    meaning="One run, from its record to its end. Live: what the agent instruments itself nests under it.",
    always=(
        Attribute.OPERATION_NAME, Attribute.PROVIDER_NAME, Attribute.AGENT_NAME, Attribute.CONVERSATION_ID,
        Attribute.RUN_ID, Attribute.USER_ID, Attribute.LINK, Attribute.RUN_OUTCOME, Attribute.SPAN_COUNT,
    ),
    sometimes={
        Attribute.CHAIN_COMPLETE: "unless events are pending and none is missing",
        Attribute.DELIVERY_MAX_MS: "unless made after a crash",
        Attribute.EVENTS_PENDING: "the user was away, or left",
        Attribute.KEEP_REASON: "a bad or slow run",
        Attribute.ERROR_TYPE: "the run failed",
        Attribute.SPANS_DROPPED: "a run of more spans than a trace holds",
        Attribute.STAMPS_LOST: "telemetry was lost",
        Attribute.RECOVERED: _RECOVERED,
    },
    scope=SCOPE,
    link=Link.ENGINE,
    links_to="the handshake's span, and the client's `traceparent` (untrusted: never the parent)",
    error="the run ended in `agent_error`",
)  # fmt: skip
EXECUTE_TOOL: Final = SpanSpec(
    operation="execute_tool",
    of="{tool}",
    kind=SpanKind.INTERNAL,
    parent="invoke_agent",
    meaning="One tool call, from `tool_executing` to `tool_completed`. Live, as the run's.",
    always=(
        Attribute.OPERATION_NAME, Attribute.TOOL_NAME, Attribute.TOOL_CALL_ID, Attribute.RUN_ID, Attribute.USER_ID,
        Attribute.TOOL_STATUS,
    ),
    sometimes={Attribute.ERROR_TYPE: "its status is not `ok`"},
    scope=SCOPE,
    error="its status is `error` or `timeout`",
)  # fmt: skip
CREATE: Final = SpanSpec(
    operation="create",
    of="{event type}",
    kind=SpanKind.PRODUCER,
    parent="invoke_agent",
    meaning="From the agent's emit to the seq. Its context is the envelope's `traceparent`.",
    always=_EVENT,
    sometimes={
        Attribute.MESSAGING_MESSAGE_ID: _SEQUENCED,
        Attribute.EVENT_SEQ: _SEQUENCED,
        **_BURSTS,
        Attribute.RECOVERED: _RECOVERED,
    },
    scope=SCOPE,
    link=Link.BRIDGE,
    error=f"{_MISSING}; what the agent never emitted has link `engine`",
)
PROCESS: Final = SpanSpec(
    operation="process",
    of="{event type}",
    kind=SpanKind.CONSUMER,
    parent="create",
    meaning="From the seq to the commit: the event is durable.",
    always=_SEQUENCED_EVENT,
    sometimes={**_BURSTS, Attribute.RECOVERED: _RECOVERED},
    scope=SCOPE,
    link=Link.EMITTER,
    error=_MISSING,
)
SEND: Final = SpanSpec(
    operation="send",
    of="{event type}",
    kind=SpanKind.CLIENT,
    parent="process",
    meaning="From the commit to the write, one for each socket.",
    always=_SEQUENCED_EVENT,
    sometimes={**_BURSTS, Attribute.SOCKET: "there was one: always, but for a missing event"},
    scope=SCOPE,
    link=Link.SOCKET,
    error=_MISSING,
)
SETTLE: Final = SpanSpec(
    operation="settle",
    of="{event type}",
    kind=SpanKind.CLIENT,
    parent="send",
    meaning="From the write to the ack, under the send that was acked first.",
    always=_SEQUENCED_EVENT,
    sometimes=_BURSTS,
    scope=SCOPE,
    link=Link.CLIENT,
    error=_MISSING,
)
SEND_REPLAY: Final = SpanSpec(
    operation="send",
    of="replay",
    kind=SpanKind.CLIENT,
    parent="invoke_agent",
    meaning="Events read back from the log after a resume, by range. After the run was settled: the root of a trace.",
    always=_REPLAY,
    sometimes={
        Attribute.SOCKET: "within the run's trace",
        Attribute.SPAN_COUNT: "the root of a trace of its own",
    },
    scope=SCOPE,
    link=Link.SOCKET,
    links_to="the run's root, where it is a trace of its own",
)
SETTLE_REPLAY: Final = SpanSpec(
    operation="settle",
    of="replay",
    kind=SpanKind.CLIENT,
    parent="send",
    meaning="From the replay's last write to the ack of its range.",
    always=_REPLAY,
    sometimes={},
    scope=SCOPE,
    link=Link.CLIENT,
)
HANDSHAKE: Final = SpanSpec(
    operation="handshake",
    of="/ws",
    kind=SpanKind.SERVER,
    parent="",
    meaning="A socket, from its handshake to `ready`; runs link to it.",
    always=(Attribute.USER_ID, Attribute.CONNECTION_ID),
    sometimes={},
    scope=SCOPE,
)
HTTP_REQUEST: Final = SpanSpec(
    operation="{method}",
    of="{path}",
    kind=SpanKind.SERVER,
    parent="",
    meaning="An HTTP request; an id in the path is `{id}`, a query is left out. Health checks and streams have none.",
    always=("http.method", "http.scheme", "http.target", "http.url", "http.flavor", "http.host", "net.host.port"),
    sometimes={
        "http.status_code": "it was answered",
        "http.server_name": "the request names a host",
        "http.user_agent": "the client names itself",
        "net.peer.ip": "as the socket says",
        "net.peer.port": "as the socket says",
    },
    scope=ASGI_SCOPE,
    error="it was answered with 5xx",
)

CHAIN: Final = (CREATE, PROCESS, SEND, SETTLE)
SPANS: Final = (INVOKE_AGENT, EXECUTE_TOOL, *CHAIN, SEND_REPLAY, SETTLE_REPLAY, HANDSHAKE, HTTP_REQUEST)
"""Every span that we make. An agent's own have the scope `tracewire.agent`, or that of the library that makes them."""
