"""Bugs to plant, one at a time, in the real parts: the simulation must go red for each, or it proves nothing.

A bug is a change of a function's source, put into its code for as long as the bug is planted.
"""

import contextlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from simulation.memory_log import MemoryLog
from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.bridge.contract import RunContract
from tracewire.client_frames import ClientFrames
from tracewire.client_run import ClientRun
from tracewire.delivery import replay
from tracewire.delivery.connection import Connection
from tracewire.delivery.outbox import Outbox
from tracewire.delivery.user_websocket_emitter import UserWebSocketEmitter
from tracewire.engine.user_execution_engine import UserExecutionEngine
from tracewire.gateway.socket_runs import SocketRuns
from tracewire.runs import recovery
from tracewire.runs.incidents import adopt_incidents
from tracewire.runs.service import RunService
from tracewire_telemetry import deadlines
from tracewire_telemetry.incidents import Incidents
from tracewire_telemetry.ledger import RunLedger
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.settling import Settling
from tracewire_telemetry.verdicts import verdicts_of
from tracewire_telemetry.watch import Watch


class Change(Struct, frozen=True):
    """In this function `old`, which stands there once, becomes `new`."""

    function: Callable[..., Any]
    old: str
    new: str


class Bug(Struct, frozen=True):
    """One mistake. Where several guards stand against it, all of them fall."""

    part: str
    says: str
    changes: tuple[Change, ...]


BUGS = {
    "resume_one_too_far": Bug(
        "resume",
        "the replay begins one event too late",
        (Change(replay.catch_up, "followed.next_seq - 1,", "followed.next_seq,"),),
    ),
    "resume_one_too_early": Bug(
        "resume",
        "the replay begins one event too early",
        (Change(replay.catch_up, "followed.next_seq - 1,", "max(followed.next_seq - 2, 0),"),),
    ),
    "resume_skips_one": Bug(
        "resume",
        "the frame's last_seq is taken for the last but one",
        (Change(SocketRuns.resume, "self._follow_from(run, last_seq + 1)", "self._follow_from(run, last_seq + 2)"),),
    ),
    "live_too_soon": Bug(
        "resume",
        "a run goes live although an event passed since the last page was read",
        (Change(replay.catch_up, "and followed.seen_seq < followed.next_seq:", ":"),),
    ),
    "live_before_replayed": Bug(
        "resume",
        "live events are written while earlier ones are still being read back",
        (
            Change(Connection.offer, "if not followed.live or seq <", "if seq <"),
            Change(Connection.offer, "if seq > followed.next_seq:", "if False:"),
        ),
    ),
    "replay_before_the_emitter": Bug(
        "resume",
        "a commit that a reader sees first is written before the emitter knows of it",
        (Change(replay._told, " if event.seq <= known_seq]", "]"),),
    ),
    "repeated_start_is_not_followed": Bug(
        "resume",
        "a client that lost its memory gets its run, but not its events",
        (Change(SocketRuns.start, "await self._follow_again(run_id)", "pass"),),
    ),
    "ack_beyond_what_was_sent": Bug(
        "acks",
        "one more is kept than the client said",
        (
            Change(
                SocketRuns.ack, "self._log.ack(frame.run_id, frame.seq)", "self._log.ack(frame.run_id, frame.seq + 1)"
            ),
        ),
    ),
    "client_acks_too_much": Bug(
        "client",
        "the client acks one more than it has",
        (Change(ClientRun._ack, '"seq": self.last_seq,', '"seq": self.last_seq + 1,'),),
    ),
    "client_takes_repeats": Bug(
        "client",
        "an event that comes twice is given to the caller twice",
        (
            Change(
                ClientRun._take,
                "if envelope.seq <= self.last_seq:\n",
                "if False:\n",
            ),
            Change(ClientRun._take, "if first != self.last_seq + 1:", "if first > self.last_seq + 1:"),
        ),
    ),
    "client_counts_wrong": Bug(
        "client",
        "it counts frames where it should count events, one too many each",
        (Change(ClientRun._take, "+= envelope.seq - self.last_seq", "+= envelope.seq - self.last_seq + 1"),),
    ),
    "watched_run_is_started_again": Bug(
        "client",
        "a start gives the caller a run that is only counted",
        (Change(ClientFrames._accepted, "or (mine and (known._watched or known.terminal is not None))", ""),),
    ),
    "client_forgets_to_resume": Bug(
        "client",
        "after a reconnect it waits for its runs instead of resuming them",
        (Change(ClientFrames._catch_up, "await self.resume(self.runs.values())", "pass"),),
    ),
    "no_wakeup_when_writable": Bug(
        "connection",
        "a replay that waits for its peer is not told that it takes more",
        (Change(Connection.on_writable, "self._progress.set()", "pass"),),
    ),
    "no_drain_when_writable": Bug(
        "connection",
        "what waits in the outbox is not written when the peer takes more",
        (Change(Connection.on_writable, "self._drain_soon()", "pass"),),
    ),
    "no_drain_when_queued": Bug(
        "connection",
        "what is queued is not written",
        (
            Change(Connection._push, "self._drain_soon()", "pass"),
            Change(Connection._push_event, "self._drain()", "pass"),
            Change(Connection._push_event, "self._drain_soon()", "pass"),
        ),
    ),
    "no_wakeup_when_drained": Bug(
        "connection",
        "a replay that waits for the outbox is not told that it is empty",
        (Change(Connection._drain, "self._progress.set()", "pass"),),
    ),
    "queued_twice": Bug(
        "connection",
        "what was queued once can be queued again",
        (Change(Connection.offer, "followed.next_seq = seq + 1", "self._push(Queued(body, 1))"),),
    ),
    "outbox_order": Bug(
        "outbox",
        "the newest frame is written first",
        (Change(Outbox.pop, "self._queue.popleft()", "self._queue.pop()"),),
    ),
    "outbox_bytes": Bug(
        "outbox",
        "what is written still counts, until the socket is cut as too slow, for ever",
        (
            Change(
                Outbox.overfull, "if self.bytes + FRAME_BYTES * len(self._queue) > self._bytes_max:", "if self._queue:"
            ),
        ),
    ),
    "delivered_before_durable": Bug(
        "emitter",
        "sockets get the event before the commit",
        (Change(UserWebSocketEmitter._emit, "on_durable=deliver)", "on_durable=deliver() or deliver)"),),
    ),
    "delivered_to_others": Bug(
        "emitter",
        "a run is followed by, and sent to, every user",
        (
            Change(UserWebSocketEmitter._deliver, "self._connections.of(self.user_id)", "list(self._connections)"),
            Change(RunService.start, "self._connections.of(user_id)", "list(self._connections)"),
        ),
    ),
    "terminal_event_twice": Bug(
        "contract",
        "a run ends, and ends again: contract, bridge and log all let it",
        (
            Change(RunContract.apply, "self.ended = True", "self.ended = False"),
            Change(
                AgentWebSocketBridge._end,
                "await self._pass_on(event, ordinal)\n",
                "await self._pass_on(event, ordinal); "
                "await self._pass_on(event, self._ledger.emitted(event.type, time.monotonic_ns()))\n",
            ),
            Change(MemoryLog.append, "or run.outcome is not None", ""),
        ),
    ),
    "tool_left_open": Bug(
        "contract",
        "a tool that is executing when the run ends is not closed",
        (
            Change(AgentWebSocketBridge._end, "in list(self.contract.open_tools.items())", "in ()"),
            Change(RunContract.check, "return Violation(TOOL_LEFT_OPEN", "Violation(TOOL_LEFT_OPEN"),
            Change(recovery._close, "in list(contract.open_tools.items())", "in ()"),
        ),
    ),
    "receipt_count_off": Bug(
        "contract",
        "the receipt counts its own event twice",
        (Change(RunContract.receipt_counts, "counts.get(terminal.value, 0) + 1", "2"),),
    ),
    "receipt_last_seq_off": Bug(
        "bridge",
        "the receipt leaves its own event out",
        (Change(AgentWebSocketBridge._end, "self._ledger.last_seq + 1", "self._ledger.last_seq"),),
    ),
    "bridge_without_its_lock": Bug(
        "bridge",
        "what one agent emits at once is passed on at once",
        (Change(AgentWebSocketBridge.emit, "async with self._lock:", "if True:"),),
    ),
    "error_of_a_stopped_agent": Bug(
        "engine",
        "an agent that fails in the moment in which its run is stopped fails in silence",
        (
            Change(
                UserExecutionEngine._finish,
                "if task is not None:  #",
                "if task is not None and not task.done():  #",
            ),
        ),
    ),
    "no_recovery": Bug(
        "recovery",
        "runs that a crash left open stay open",
        (Change(recovery.close_lost_runs, "lost = await log.open_runs()", "lost = []"),),
    ),
    "recovery_receipt": Bug(
        "recovery",
        "the receipt of a closed run leaves its own event out",
        (Change(recovery._close, "Receipt(last_seq + 1,", "Receipt(last_seq,"),),
    ),
    "settled_while_followed": Bug(
        "ledger",
        "a resume over a socket that follows lets the run go before it takes it up again",
        (
            Change(
                Connection.follow,
                "        socket = 0\n",
                "        self.unfollow(run_id)\n        socket = 0\n",
            ),
        ),
    ),
    "settle_is_not_woken": Bug(
        "ledger",
        "a run is done, and nobody settles it",
        (Change(Settling.add, "self._wake.set()", "pass"),),
    ),
    "acks_do_not_settle": Bug(
        "ledger",
        "the last ack of a run that has ended is not looked at",
        (Change(SocketRuns.ack, "if run is not None:\n            run.ack", "if False:\n            run.ack"),),
    ),
    "ledger_counts_twice": Bug(
        "ledger",
        "each scrape counts what the one before it has counted",
        (Change(Metrics.flush, "ledger.flushed[link] = index", "ledger.flushed[link] = 0"),),
    ),
    "ledger_commits_too_much": Bug(
        "ledger",
        "one more is called committed than is",
        (Change(RunLedger.committed, "self.committed_count = seq", "self.committed_count = seq + 1"),),
    ),
    "early_alarm": Bug(
        "incidents",
        "a client is due from the moment of the emit, not of the write",
        (
            Change(
                deadlines.awaited,
                "since = max(ledger.socket[index], ledger.carried_since)",
                "since = ledger.engine[index]",
            ),
        ),
    ),
    "alarm_before_liveness": Bug(
        "incidents",
        "a client is blamed that nobody knows to be alive",
        (Change(deadlines._client_overdue, "if life(socket) > due.since_ns + ledger.limits.client - ack_ns}", "}"),),
    ),
    "no_alarm_at_the_emitter": Bug(
        "incidents",
        "nobody looks at what the log is late with",
        (Change(deadlines.awaited, "if index < last:", "if False:"),),
    ),
    "no_look": Bug(
        "incidents",
        "an event that is emitted brings no look forward",
        (Change(RunLedger.emitted, "self.wake(now + self.limits.step)", "pass"),),
    ),
    "wrong_link": Bug(
        "incidents",
        "what the log has not taken is said to be missing at the socket",
        (Change(deadlines.awaited, "Link.EMITTER, index + 1", "Link.SOCKET, index + 1"),),
    ),
    "incident_never_ends": Bug(
        "incidents",
        "what has come after all does not heal",
        (Change(deadlines.came, "return ledger.client[seq - 1]\n", "return 0\n"),),
    ),
    "incident_lost_in_the_log": Bug(
        "incidents",
        "the end of an incident is not stored",
        (Change(Incidents._end, "self._keep(incident)", "pass"),),
    ),
    "adopted_never_end": Bug(
        "incidents",
        "what an earlier process left open stays open",
        (Change(adopt_incidents, "watch.adopt([await _as_durable(log, incident) for incident in page])", "pass"),),
    ),
    "resync_of_the_innocent": Bug(
        "incidents",
        "a look that blames nobody closes the sockets all the same",
        (Change(Watch._act, "for socket in found.blamed:", "for socket in list(peers):"),),
    ),
    "verdict_in_time_unacked": Bug(
        "ledger",
        "what nobody has acked is called in time",
        (Change(verdicts_of, "elif ledger.client[index]:", "elif True:"),),
    ),
}


@contextlib.contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The bug is in the code inside, and out of it afterwards.

    Raises:
        LookupError: the code has changed, and the bug must be written anew.
    """
    before = [(function, function.__code__) for function in dict.fromkeys(change.function for change in bug.changes)]
    try:
        for function, _ in before:
            changes = [change for change in bug.changes if change.function is function]
            function.__code__ = _changed(function, changes)
        yield
    finally:
        for function, code in before:
            function.__code__ = code


def _changed(function: Callable[..., Any], changes: list[Change]) -> Any:
    source = inspect.getsource(function)
    for change in changes:
        if source.count(change.old) != 1:
            raise LookupError(
                f"{function.__qualname__} holds {change.old!r} {source.count(change.old)} times, not once"
            )
        source = source.replace(change.old, change.new)
    namespace: dict[str, Any] = {}
    told = f"<planted in {function.__qualname__}>"
    code = compile(textwrap.dedent(source), told, "exec", flags=_future_flags(function), dont_inherit=True)
    exec(code, dict(vars(sys.modules[function.__module__])), namespace)  # noqa: S102 # our own source, one line changed
    return namespace[function.__name__].__code__


def _future_flags(function: Callable[..., Any]) -> int:
    return function.__code__.co_flags & 0x1000000  # annotations stay text where the module asks for it
