"""A Tracewire client for tests: it speaks frames over one socket, and keeps what came."""

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tracewire_telemetry.testing.runs import EVENT_NAMES, TERMINAL_NAMES, ClientRecord
from tracewire_telemetry.testing.spans import RecordedTrace

Frame = dict[str, Any]
OnEvent = Callable[[Frame], Frame | None]
"""Is shown each event as it comes; what it gives back is sent, as an answer to `input_required`."""


class TracewireRun(Struct, frozen=True):
    """One run of an agent, as its user's client and its trace have it.

    `frames` are the run's events as they came, as JSON objects; the two scrapes are of `/metrics` before the run was
    started and after it was settled.
    """

    user_id: str
    run_id: str
    agent: str
    frames: list[Frame]
    acked_seq: int
    trace: RecordedTrace
    metrics_before: str
    metrics_after: str

    def __repr__(self) -> str:
        """What came of it, on a line: a failed comparison shows it."""
        ended = f"; {error}" if (error := self.error) else ""
        return f"<run {self.run_id} of {self.agent} for {self.user_id}: {', '.join(self.event_types)}{ended}>"

    @property
    def event_types(self) -> list[str]:
        """The types of the events, in the order in which they came."""
        return [frame["type"] for frame in self.frames]

    @property
    def output(self) -> Any:
        """What the agent answered; `None` where the run did not complete."""
        return self.frames[-1]["data"].get("output")

    @property
    def error(self) -> str:
        """Code and message of its `agent_error`; empty where it did not end with one."""
        last = self.frames[-1]
        return f"{last['data']['code']}: {last['data']['message']}" if last["type"] == "agent_error" else ""

    @property
    def client(self) -> ClientRecord:
        """The client's part of the evidence."""
        return ClientRecord(self.user_id, self.run_id, self.frames, self.acked_seq)


class Conversation:
    """One socket, spoken over in frames, until a moment on the monotonic clock."""

    def __init__(self, socket: ClientConnection, until: float, on_event: OnEvent | None) -> None:
        self.events: list[Frame] = []
        self.acked_seq = 0
        self._socket = socket
        self._until = until
        self._on_event = on_event

    def send(self, frame: Frame) -> None:
        """Send one frame."""
        self._socket.send(json.dumps(frame))

    def receive(self) -> Frame:
        """The next frame; a ping is answered.

        Raises:
            TimeoutError: none came in time.
            ConnectionClosed: the socket is closed.
        """
        frame: Frame = json.loads(self._socket.recv(timeout=max(0.0, self._until - time.monotonic())))
        if frame["type"] == "ping":
            self.send({"type": "pong", "id": frame["id"]})
        return frame

    def until(self, *types: str) -> Frame:
        """The next frame of one of these types.

        Raises:
            AssertionError: none came in time, or before the socket was closed.
        """
        __tracebackhide__ = True
        try:
            while (frame := self.receive())["type"] not in types:
                pass
        except (TimeoutError, ConnectionClosed) as error:
            why = f"before the socket closed ({error})" if isinstance(error, ConnectionClosed) else "in time"
            raise AssertionError(f"the server sent no {' or '.join(types)} {why}") from None
        return frame

    def start(self, agent: str, input_value: Any) -> Frame:
        """Start a run; the frame that accepts it.

        Raises:
            AssertionError: the server refused it, or did not answer.
            TypeError: the input is no JSON.
        """
        __tracebackhide__ = True
        try:
            json.dumps(input_value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"the agent's input must be JSON: {error}") from None
        self.send({"type": "start_run", "request_id": str(uuid.uuid4()), "agent": agent, "input": input_value})
        answer = self.until("run_accepted", "rejected")
        if answer["type"] == "rejected":
            raise AssertionError(f"the server refused the run: {answer['code']}: {answer['message']}")
        return answer

    def receive_run(self, run_id: str, *, ack: bool) -> None:
        """Take the run's events up to the terminal one; with `ack`, ack each that came in order and without a gap."""
        while True:
            frame = self.receive()
            if frame["type"] in EVENT_NAMES and frame["run_id"] == run_id:
                self.events.append(frame)
                if ack and frame.get("first_seq", frame["seq"]) == self.acked_seq + 1:
                    self.acked_seq = frame["seq"]
                    self.send({"type": "ack", "run_id": run_id, "seq": self.acked_seq, "count": self.acked_seq})
                answer = self._on_event(frame) if self._on_event is not None else None
                if answer is not None:
                    self.send(answer)
                if frame["type"] in TERMINAL_NAMES:
                    return


def open_tools(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each tool call that these events open and do not close."""
    closed = {event["data"]["tool_call_id"] for event in events if event["type"] == "tool_completed"}
    return [
        f"tool {event['data']['tool_name']} ({event['data']['tool_call_id']}) was called with "
        f"{json.dumps(event['data']['arguments'], ensure_ascii=False)[:200]} and has not completed"
        for event in events
        if event["type"] == "tool_executing" and event["data"]["tool_call_id"] not in closed
    ]
