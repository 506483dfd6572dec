"""Builds a user's engine with its bridge and its emitter, wired here and never by the caller."""

import asyncio
import time
from concurrent.futures import Executor
from typing import Any

import structlog

from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.emitter_factory import UserEmitterFactory, only
from tracewire.delivery.user_websocket_emitter import UserWebSocketEmitter
from tracewire.engine.agent import AgentRegistry
from tracewire.engine.context import UserExecutionContext
from tracewire.engine.user_execution_engine import UserExecutionEngine
from tracewire.errors import NotConfiguredError, TracewireError, WiringError
from tracewire.readiness import Readiness
from tracewire.settings import Settings
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import EventType, Outcome, RunErrorCode
from tracewire_telemetry.watch import OpenRun, Watch

_log = structlog.get_logger("tracewire.engine")


class ExecutionFactory:
    """Makes user engines from what it was configured with; several factories are independent of each other."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._emitters: UserEmitterFactory | None = None
        self._agents: AgentRegistry | None = None
        self._watch: Watch | None = None
        self._metrics: Metrics | None = None
        self._health: Readiness | None = None
        self._threads: Executor | None = None
        self.abandoned: set[asyncio.Task[Any]] = set()

    def configure(
        self,
        *,
        settings: Settings | None = None,
        emitters: UserEmitterFactory | None = None,
        agents: AgentRegistry | None = None,
        watch: Watch | None = None,
        metrics: Metrics | None = None,
        health: Readiness | None = None,
        threads: Executor | None = None,
    ) -> None:
        """Give the factory what its engines need. Idempotent; what was given before stays given.

        Raises:
            NotConfiguredError: names every dependency that is missing, those of the emitter factory included.
                The factory stays unusable; give it what is missing, and it works.
            WiringError: a dependency was given before, and another one now.
        """
        self._settings = only("settings", self._settings, settings)
        self._emitters = only("emitter factory", self._emitters, emitters)
        self._agents = only("agent registry", self._agents, agents)
        self._watch = only("watch", self._watch, watch)
        self._metrics = only("metrics", self._metrics, metrics)
        self._health = only("health", self._health, health)
        self._threads = only("threads", self._threads, threads)
        if self.missing:
            raise NotConfiguredError("ExecutionFactory", self.missing)

    @property
    def missing(self) -> tuple[str, ...]:
        """Every dependency that was not given, or that is itself not configured."""
        given = {
            "settings": self._settings,
            "emitter factory": self._emitters,
            "agent registry": self._agents or None,
            "watch": self._watch,
            "metrics": self._metrics,
            "health": self._health,
            "threads": self._threads,
        }
        missing = [name for name, dependency in given.items() if dependency is None]
        if self._emitters is not None:
            missing += [f"{name} (of the emitter factory)" for name in self._emitters.missing]
        return tuple(missing)

    @property
    def configured(self) -> bool:
        """Whether every dependency was given, down to those of the emitters."""
        return not self.missing

    @property
    def agents(self) -> AgentRegistry:
        """The agents that engines can run."""
        if self._agents is None:
            raise NotConfiguredError("ExecutionFactory", self.missing)
        return self._agents

    @property
    def settings(self) -> Settings:
        """The settings, with the default deadlines."""
        if self._settings is None:
            raise NotConfiguredError("ExecutionFactory", self.missing)
        return self._settings

    def create_user_emitter(self, context: UserExecutionContext) -> UserWebSocketEmitter:
        """The emitter of the context's run, bound to its user.

        Raises:
            NotConfiguredError: the factory is not configured.
            WiringError: the run was not accepted, or is another user's.
        """
        if self._emitters is None or self.missing:
            raise NotConfiguredError("ExecutionFactory", self.missing)
        return self._emitters.create_user_emitter(context.user_id, context.run_id)

    def create_user_engine(self, context: UserExecutionContext) -> UserExecutionEngine:
        """An engine for one accepted run, joined to its bridge, and the bridge to the user's emitter.

        Raises:
            NotConfiguredError: the factory is not configured.
            WiringError: the run was not accepted, or a station cannot be joined to the next; `check` names it.
        """
        if self._watch is None or self._metrics is None or self._threads is None or self.missing:
            raise NotConfiguredError("ExecutionFactory", self.missing)
        emitter = self.create_user_emitter(context)
        run = self._watch.runs[context.run_id]
        bridge = self._create_bridge(emitter, run, self._metrics)
        if bridge is None:
            raise WiringError("L3", f"the engine of run {context.run_id} has no bridge")
        return self._engine_class(bridge)._wired(
            context, bridge, run, self._metrics, self._threads, self.abandoned, self.settings.cancel_grace_seconds
        )

    async def close_unwired(self, context: UserExecutionContext, error: Exception) -> None:
        """End an accepted run whose chain could not be wired with `agent_error{worker_lost}`, as far as that goes.

        What cannot even be told to the log is said in ours, and closed in the log at the next start.
        """
        run = self._watch.runs.get(context.run_id) if self._watch is not None else None
        _log.error("run_not_wired", user_id=context.user_id, run_id=context.run_id, error=str(error))
        if run is None or self._metrics is None:
            return
        try:
            bridge = AgentWebSocketBridge(self.create_user_emitter(context), run, self._metrics)
            ordinal = run.ledger.emitted(EventType.AGENT_ERROR, time.monotonic_ns())
            await bridge.fail(
                RunErrorCode.WORKER_LOST, f"the run could not start: {error}", retryable=True, ordinal=ordinal
            )
        except TracewireError as second:
            _log.error("run_not_closed", user_id=context.user_id, run_id=context.run_id, error=str(second))
            run.ended(Outcome.WORKER_LOST, durable=False)
        else:
            run.ended(Outcome.WORKER_LOST)

    def _create_bridge(self, emitter: UserWebSocketEmitter, run: OpenRun, metrics: Metrics) -> AgentWebSocketBridge:
        return AgentWebSocketBridge(emitter, run, metrics)

    def _engine_class(self, _: AgentWebSocketBridge) -> type[UserExecutionEngine]:
        return UserExecutionEngine
