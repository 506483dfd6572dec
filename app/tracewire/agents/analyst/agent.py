"""The analyst itself: it reads the question, calls its tools one after the other, and streams its answer.

The one module here that awaits. Whatever reads a disk or takes CPU runs in threads of the analyst's own, so that
neither the event loop nor the default executor waits for a large recording.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from tracewire.agents.analyst import answers, tool_results
from tracewire.agents.analyst.attribution import attributed
from tracewire.agents.analyst.conduct import Conduct
from tracewire.agents.analyst.frames import Frame, Reading, UnreadableError
from tracewire.agents.analyst.investigation import Findings, conduct_of, joined, pace_of, sequences_of
from tracewire.agents.analyst.own_runs import OwnRuns, list_runs, read_runs, reading_of
from tracewire.agents.analyst.questions import SAMPLE, Question, read_question
from tracewire.agents.analyst.reading import read_recording
from tracewire.agents.analyst.runs import Found, Run, find_runs
from tracewire.agents.analyst.sample import load_sample
from tracewire.agents.analyst.sequences import Sequences
from tracewire.agents.analyst.silence import Pace
from tracewire.agents.analyst.strangers import Stranger, find_strangers
from tracewire.eventlog import EventLog
from tracewire.runs.recordings import RecordingStore, UnknownRecordingError

THREADS: Final = 2
"""Recordings that are worked on at a time; further ones wait for a thread."""

TOOL_NAMES: Final = (
    "open_recording",
    "list_runs",
    "read_runs",
    "find_foreign",
    "find_runs",
    "check_sequences",
    "check_contract",
    "measure_silence",
)

P = ParamSpec("P")
T = TypeVar("T")


class ToolCall(Protocol):
    """An open tool call: what is put into `result` leaves with its `tool_completed`."""

    result: Any


class Context(Protocol):
    """What the analyst asks of the context that the engine gives an agent."""

    @property
    def user_id(self) -> str:
        """Whose run it is."""

    @property
    def run_id(self) -> str:
        """Which run it is."""

    @property
    def input(self) -> Any:
        """What the user asked."""

    def thinking(self, text: str, /) -> Awaitable[object]:
        """Show a thought."""

    def delta(self, text: str, /) -> Awaitable[object]:
        """Stream a piece of the answer."""

    def tool(self, name: str, arguments: dict[str, Any], /) -> AbstractAsyncContextManager[ToolCall]:
        """Show a tool call, from entering to leaving it."""


def build_analyst(log: EventLog, recordings: RecordingStore) -> Callable[[Context], Awaitable[str]]:
    """The built-in agent, over this log and these recordings.

    Every run that completes has shown all five critical events. Its input is what `questions.ACCEPTED_INPUT` says;
    with any other the run fails with an `InvalidInputError` that says so. A recording that is not there or cannot be
    read is an answer, not an error.
    """
    executor = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="analyst")

    async def analyst(ctx: Context) -> str:
        question = read_question(ctx.input)
        inquiry = _Inquiry(ctx, executor)
        try:
            if question.recording_id is None:
                text = await _ask_own_runs(inquiry, log, question)
            else:
                text = await _ask_recording(inquiry, recordings, question, question.recording_id)
        except (UnreadableError, UnknownRecordingError) as error:
            text = answers.unreadable(question, _sentence(error))
        for chunk in answers.chunks(text):
            await ctx.delta(chunk)
        return text

    return analyst


async def _ask_recording(inquiry: "_Inquiry", recordings: RecordingStore, question: Question, recording_id: str) -> str:
    ctx = inquiry.ctx
    await ctx.thinking("I open the recording and look what kind of file it is.")
    async with ctx.tool("open_recording", {"recording_id": recording_id}) as call:
        reading, call.result = await inquiry.run(_open, recordings, ctx.user_id, recording_id)
    findings = await inquiry.investigate(reading)
    return await inquiry.run(answers.answer, question, findings)


def _open(recordings: RecordingStore, user_id: str, recording_id: str) -> tuple[Reading, dict[str, Any]]:
    recording = load_sample() if recording_id == SAMPLE else recordings.load(user_id, recording_id)
    reading = read_recording(recording.name, recording.body)
    return reading, tool_results.of_reading(reading, len(recording.body))


async def _ask_own_runs(inquiry: "_Inquiry", log: EventLog, question: Question) -> str:
    ctx = inquiry.ctx
    await ctx.thinking("No recording is named, so I look at your own runs in the log.")
    async with ctx.tool("list_runs", {"run_ids": list(question.run_ids)}) as call:
        summaries = await list_runs(log, ctx.user_id, without=ctx.run_id, named=question.run_ids)
        call.result = tool_results.of_summaries(summaries)
    if not summaries:
        return answers.no_runs(question)
    await ctx.thinking(f"I read what the log holds of {len(summaries)} of them.")
    async with ctx.tool("read_runs", {"runs": len(summaries)}) as call:
        own = await read_runs(log, summaries)
        reading = await inquiry.run(reading_of, own)
        call.result = {"runs": len(own.events), "events": len(reading.frames), "left_out": len(own.left_out)}
    findings = await inquiry.investigate(reading, own)
    return await inquiry.run(answers.answer, question, findings, own)


class _Inquiry:
    """The checks of one run of the analyst, each a tool call."""

    def __init__(self, ctx: Context, executor: Executor) -> None:
        self.ctx = ctx
        self._executor = executor

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in one of the analyst's threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: work(*args, **kwargs))

    async def investigate(self, reading: Reading, own: OwnRuns | None = None) -> Findings:
        """Every check, whatever was asked: an answer also says what was noticed besides."""
        last_seqs, still_open = _known(own)
        await self.ctx.thinking("I look whose frames these are, and which run each belongs to.")
        frames, strangers = await self._find_foreign(reading)
        found = await self._find_runs(frames, strangers, last_seqs)
        await self.ctx.thinking("I follow each run's sequence numbers: gaps, repeats, order.")
        sequences, streams = await self._check_sequences(found)
        await self.ctx.thinking("I hold each run against the contract: start, tools in pairs, one end, its receipt.")
        conduct = await self._check_contract(found)
        pace = await self._measure_silence(found, reading)
        return joined(reading, found, sequences, streams, conduct, pace, strangers, still_open)

    async def _find_foreign(self, reading: Reading) -> tuple[tuple[Frame, ...], tuple[Stranger, ...]]:
        async with self.ctx.tool("find_foreign", {}) as call:
            frames = await self.run(attributed, reading.frames)
            strangers = await self.run(find_strangers, frames)
            call.result = tool_results.of_strangers(reading, strangers)
        return frames, strangers

    async def _find_runs(
        self, frames: tuple[Frame, ...], strangers: tuple[Stranger, ...], last_seqs: Mapping[str, int]
    ) -> Found:
        async with self.ctx.tool("find_runs", {}) as call:
            found = await self.run(find_runs, frames, strangers, last_seqs)
            call.result = tool_results.of_runs(found)
        return found

    async def _check_sequences(self, found: Found) -> tuple[tuple[Sequences, ...], tuple[tuple[Run, Sequences], ...]]:
        async with self.ctx.tool("check_sequences", {}) as call:
            sequences, streams = await self.run(sequences_of, found)
            call.result = await self.run(tool_results.of_sequences, found, sequences, streams)
        return sequences, streams

    async def _check_contract(self, found: Found) -> tuple[Conduct, ...]:
        async with self.ctx.tool("check_contract", {}) as call:
            conduct = await self.run(conduct_of, found)
            call.result = await self.run(tool_results.of_conduct, conduct)
        return conduct

    async def _measure_silence(self, found: Found, reading: Reading) -> tuple[Pace, ...]:
        async with self.ctx.tool("measure_silence", {}) as call:
            pace = await self.run(pace_of, found, reading)
            call.result = await self.run(tool_results.of_pace, pace)
        return pace


def _known(own: OwnRuns | None) -> tuple[dict[str, int], frozenset[str]]:
    """What the log knows of the runs that were read: their last seqs, and which are going on."""
    if own is None:
        return {}, frozenset()
    read = [summary for summary in own.summaries if summary.run_id in own.events]
    last_seqs = {summary.run_id: summary.last_seq for summary in read}
    return last_seqs, frozenset(summary.run_id for summary in read if summary.open)


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
