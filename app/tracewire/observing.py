"""What the telemetry needs to know of the settings."""

from tracewire.settings import Settings
from tracewire_telemetry.limits import LinkDeadlines
from tracewire_telemetry.sdk import TelemetryOptions


def telemetry_options(settings: Settings, version: str) -> TelemetryOptions:
    """The options of a server of this version."""
    return TelemetryOptions(
        version=version,
        environment=settings.environment,
        trace_share=settings.trace_share,
        trace_queue_bytes_max=settings.trace_queue_bytes_max,
        users_named_max=settings.missing_users_named_max,
        users_named_seconds_min=settings.missing_shown_seconds,
        users_hashed=settings.metrics_user_id == "hash",
        deadlines=LinkDeadlines(
            bridge_seconds=settings.bridge_deadline_seconds,
            emitter_seconds=settings.emitter_deadline_seconds,
            socket_seconds=settings.socket_deadline_seconds,
            client_seconds=settings.client_deadline_seconds,
            silence_seconds=settings.silence_deadline_seconds,
            heal_seconds=settings.heal_deadline_seconds,
        ),
    )
