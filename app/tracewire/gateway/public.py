"""The public port: the socket, the routes over HTTP, the page."""

from concurrent.futures import Executor
from typing import Any

from litestar import Litestar, WebSocket, websocket
from litestar.datastructures import State

from tracewire.gateway.console import console_routes
from tracewire.gateway.incidents import own_incidents
from tracewire.gateway.ops import live, ready
from tracewire.gateway.problems import EXCEPTION_HANDLERS
from tracewire.gateway.recordings import upload
from tracewire.gateway.runs import HttpRuns, RunsController, agents
from tracewire.gateway.schema_routes import schema_routes
from tracewire.gateway.socket_gateway import SocketGateway
from tracewire.gateway.sockets import serve_socket
from tracewire.gateway.tickets import issue_ticket
from tracewire.runs.recordings import RecordingStore


def public_app(
    gateway: SocketGateway, http_runs: HttpRuns, recordings: RecordingStore, file_threads: Executor, *, version: str
) -> Litestar:
    """The application of the public port."""

    @websocket("/ws")
    async def ws(socket: WebSocket[Any, Any, Any]) -> None:
        await serve_socket(gateway, socket)

    settings = gateway.settings
    return Litestar(
        [
            ws,
            RunsController,
            agents,
            own_incidents,
            upload,
            issue_ticket,
            live,
            ready,
            *console_routes(settings),
            *schema_routes(version),
        ],
        state=State(
            {
                "http_runs": http_runs,
                "authenticator": gateway.authenticator,
                "tickets": gateway.tickets,
                "gateway": gateway,
                "metrics": gateway.metrics,
                "recordings": recordings,
                "settings": settings,
                "file_threads": file_threads,
                "readiness": gateway.readiness,
            }
        ),
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=None,
        logging_config=None,
        request_max_body_size=settings.frame_bytes_max,
    )
