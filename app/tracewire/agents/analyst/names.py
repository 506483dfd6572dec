"""What backends call the things that Tracewire calls by one name. Case and separators do not count."""

import functools
from typing import Final

from tracewire_telemetry.vocabulary import EventType

_ALIASES: Final[dict[EventType, str]] = {
    EventType.AGENT_STARTED: "agent_started agent_start started start run_started run_start run_created run_begin "
    "execution_started workflow_started response_created message_start",
    EventType.AGENT_THINKING: "agent_thinking thinking thought reasoning agent_thought reasoning_message_content "
    "thinking_text_message_content thinking_content reasoning_delta thinking_delta response_reasoning_text_delta",
    EventType.TOOL_EXECUTING: "tool_executing tool_execution tool_call tool_call_start tool_call_started tool_start "
    "tool_started tool_use on_tool_start function_call tool_input_available",
    EventType.TOOL_COMPLETED: "tool_completed tool_complete tool_result tool_call_result tool_end tool_ended tool_done "
    "tool_finished on_tool_end function_result function_call_output tool_output tool_response tool_call_completed "
    "tool_output_available",
    EventType.AGENT_DELTA: "agent_delta delta token chunk text_delta text_message_content text_message_chunk "
    "content_block_delta response_output_text_delta on_chat_model_stream agent_token message_delta partial",
    EventType.INPUT_REQUIRED: "input_required interrupt approval_required human_input_required input_request "
    "approval_request",
    EventType.AGENT_COMPLETED: "agent_completed agent_complete agent_done agent_finished agent_end completed complete "
    "final final_report final_answer final_result done finished finish end run_finished run_completed run_end "
    "execution_completed workflow_completed response_completed message_stop",
    EventType.AGENT_ERROR: "agent_error agent_failed agent_failure error failed run_error run_failed execution_error "
    "execution_failed workflow_failed response_failed",
    EventType.AGENT_CANCELLED: "agent_cancelled agent_canceled cancelled canceled run_cancelled run_canceled aborted "
    "agent_aborted execution_cancelled response_cancelled stopped agent_stopped",
}

CLIENT_FRAMES: Final = frozenset({"authenticate", "startrun", "cancelrun", "provideinput", "ack", "resume", "pong"})
"""Frames that a client sends, folded: a recording without directions is read by them."""

SERVER_FRAMES: Final = frozenset(
    {"ready", "runaccepted", "rejected", "resumed", "ping", "authenticated", "draining", "unavailable"}
)
"""Frames of a server that are no event of a run, folded."""


@functools.lru_cache(maxsize=4096)
def folded(name: str) -> str:
    """The name without case and separators: `RUN_STARTED`, `run.started` and `runStarted` are one."""
    return "".join(character for character in name.lower() if character.isalnum())


_EVENTS: Final = {folded(alias): event_type for event_type, aliases in _ALIASES.items() for alias in aliases.split()}


@functools.lru_cache(maxsize=4096)
def event_of(name: str) -> EventType | None:
    """The event that a backend's type name stands for, or `None`: control frames, structure, unknown ones."""
    return _EVENTS.get(folded(name))
