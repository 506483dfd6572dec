"""What every socket of the server shares."""

from tracewire.delivery.connections import Connections
from tracewire.eventlog import EventLog
from tracewire.gateway import tickets
from tracewire.gateway.auth import Authenticator
from tracewire.gateway.rates import frame_allowances
from tracewire.gateway.session import Session
from tracewire.readiness import Readiness
from tracewire.runs.service import RunService
from tracewire.settings import Settings
from tracewire_telemetry.sdk import Telemetry


class SocketGateway:
    """What every socket of the server shares. `sessions` are the sockets that are accepted and not yet gone."""

    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator,
        runs: RunService,
        log: EventLog,
        connections: Connections,
        agents: tuple[str, ...],
        readiness: Readiness,
        telemetry: Telemetry,
    ) -> None:
        self.settings = settings
        self.authenticator = authenticator
        self.runs = runs
        self.log = log
        self.connections = connections
        self.agents = agents
        self.readiness = readiness
        self.telemetry = telemetry
        self.metrics = telemetry.metrics
        self.sessions: set[Session] = set()
        self.tickets = tickets.Tickets(seconds=settings.ticket_seconds, per_user_max=settings.tickets_per_user_max)
        self.frame_allowances = frame_allowances(settings.frames_per_second_max)
        self.awaiting_token = 0
