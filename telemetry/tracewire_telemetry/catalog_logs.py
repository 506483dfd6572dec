"""The log records, declared once: what each event's name means, and at which level it is logged.

A record is one line of JSON with `event`, `level`, `timestamp`, `logger` and what the event is about: `run_id`,
`user_id`, `trace_id`, `connection_id` where there is one. A test holds this list against every call that logs.
"""

from typing import Final

from msgspec import Struct


class LogSpec(Struct, frozen=True):
    """One log record: its event's name, its levels, and what it means for who reads it."""

    event: str
    levels: tuple[str, ...]
    meaning: str


def _at(level: str, **meanings: str) -> tuple[LogSpec, ...]:
    return tuple(LogSpec(event, tuple(level.split()), meaning) for event, meaning in meanings.items())


LOG_GROUPS: Final = (
    ("Runs", (
        *_at("info",
             run_ended="A run has its terminal event: outcome, and the reason of a bad one.",
             run_settled="Its events are settled; its stamps are stored and its trace has left. Has the trace id.",
             agent_refused_input="The agent took the input for none of its own: the run failed, the user was told why.",
             agent_raised_while_stopping="A stopped agent raised on its way out; its run had ended before."),
        *_at("warning",
             agent_abandoned="An agent went on after its run's end and was left to itself.",
             tools_left_open="An agent returned with tool calls open; they were closed for it.",
             emitted_after_end="An agent emitted after its run's end; the event was refused."),
        *_at("error",
             agent_failed="An agent raised, or gave what cannot be delivered: the run ended in `agent_error`.",
             engine_failed="A defect in the engine: the run was closed all the same.",
             run_crashed="A defect around a run; has the exception.",
             run_not_wired="The chain behind a run was not whole: the run was refused.",
             run_not_closed="A run's terminal event could not be stored.",
             event_loop_blocked="Something held the event loop; names the line."),
    )),
    ("Missing events", (
        *_at("warning info",
             incident_opened="Events of a run are missing at a link (info: of a canary).",
             incident_ended="The incident's end: healed, user_gone or lost (info: of a canary)."),
        *_at("warning",
             stamps_lost="Events crossed links without a stamp: telemetry was lost, no event.",
             ack_count_differs="A client's `count` is not its `seq`: it processed fewer events than it acked.",
             client_unacknowledging="A client that was due an ack has never sent one; its chain ends at the socket."),
        *_at("error", incidents_not_stored="Incidents wait for the event log to take them."),
    )),
    ("Sockets and requests", (
        *_at("info",
             socket_ready="A socket is signed in and its whole chain is up.",
             socket_gone="A socket is closed.",
             socket_too_slow="A socket was cut: its outbox was full or too old.",
             socket_silent="A socket was cut: no sign of life.",
             socket_resynced="A socket was closed with 4003, to come back and resume.",
             socket_refused="A handshake was closed: its sign-in did not hold, or came too late.",
             socket_violated_protocol="A frame against RFC 6455, or over the limit.",
             sign_in_refused="A token did not hold.",
             origin_refused="A page of an origin that is not on the list.",
             too_many_sockets="A user's socket past the limit.",
             handshake_refused="A handshake while the server is not ready.",
             frame_rejected="A frame was refused; has the code.",
             connection_refused="A connection that brought no whole request in time, or a malformed one.",
             request_refused="An HTTP request was refused; has the code.",
             request_expired="An HTTP request asked for events that are kept no longer.",
             resume_expired="A resume asked for events that are kept no longer.",
             replay_expired="Events expired while they were read back; the client is told.",
             stream_opened="An SSE stream began.",
             stream_gone="An SSE stream ended."),
        *_at("error",
             replay_failed="Events could not be read back.",
             request_failed="A defect behind an HTTP request; has the exception.",
             socket_failed="A defect behind a socket; has the exception."),
    )),
    ("Event log", (
        *_at("error", event_log_failed="The log takes no writes: not ready, open runs are cancelled."),
        *_at("info",
             event_log_back="The log takes writes again.",
             retention_removed="What has expired was removed: runs by age and by size, events, recordings."),
        *_at("warning", retention_over_bound="The log is over its size, and nothing more may be removed."),
        *_at("warning error", retention_failed="A sweep failed; it is tried again."),
    )),
    ("Start, stop, recovery", (
        *_at("info",
             ready="The server takes work: its ports, version and data folder.",
             draining="The server was told to stop.",
             stopped="Everything is committed and exported.",
             traces_recovered="The traces of the runs that a crash had left open have been handed on.",
             traces_left_to_recover="The server stopped before that; the next start goes on."),
        *_at("warning",
             few_descriptors="The limit of file descriptors holds fewer sockets than the settings allow.",
             run_lost_at_start="A crash had left this run open; it was closed with worker_lost.",
             run_not_closed_yet="One could not be closed yet; it is tried again.",
             trace_not_recovered_yet="The log refused a recovered run's stamps; it is tried again."),
        *_at("error",
             run_not_settled="A defect while a run was settled; has the exception.",
             stamps_not_stored="The log did not take a settled run's stamps.",
             trace_not_recovered="The trace of a run that a crash had left open is given up."),
    )),
    ("Sign-in", (
        *_at("info",
             signing_keys_read="The public keys were read.",
             revoked="A user or a token was revoked.",
             revocation_removed="A revocation was taken back."),
        *_at("warning",
             signing_keys_unavailable="The public keys could not be read anew; those at hand go on being used.",
             audience_unchecked="Public keys and no audience to check: tokens for other services hold here too."),
    )),
    ("Canaries and drills", (
        *_at("info", canary_succeeded="A canary succeeded, for the first time or again."),
        *_at("warning",
             canary_seldom="The canaries run more seldom than the alerts on them expect.",
             drill_armed="A fire drill was ordered.",
             drill_lost_event="A fire drill lost its event.",
             drill_let_go="A fire drill let its event go on."),
        *_at("error",
             canary_failed="A canary did not get the whole way; names the link.",
             canary_crashed="A defect in a canary."),
    )),
)  # fmt: skip
"""The records by what they are about."""
LOGS: Final = tuple(spec for _, group in LOG_GROUPS for spec in group)
