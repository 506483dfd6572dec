"""The server's own canaries: clients in its process that go the whole way over its real socket, again and again.

Enters: a started server's URL. Leaves: two stamps in the metrics, there from the first success on, and a log line
where one fails, which names the link. One canary probes (`probing.py`); the other withholds an ack and must find its
own incident (`withholding.py`), which shows that a user's missing event would be noticed. What they do and suffer
counts as origin `canary`, and pages nobody but by their stamps.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import jwt
import structlog
from msgspec import Struct

from tracewire.errors import TracewireError
from tracewire.gateway.auth import Authenticator, sign_token
from tracewire.probing import WITHIN_SECONDS, Broken, probe
from tracewire.settings import PREFIX, Settings
from tracewire.withholding import DetectionError, WithholdingClient
from tracewire_telemetry import catalog
from tracewire_telemetry.catalog import MetricSpec
from tracewire_telemetry.origins import CANARY_USER, DETECTION_USER, Origins
from tracewire_telemetry.sdk import Telemetry
from tracewire_telemetry.vocabulary import Link

TOKEN_SECONDS: Final = 3_600.0
SECONDS_MAX: Final = 60.0
DETECTION_SECONDS_MAX: Final = 780.0
"""Past these the alerts on the canaries' stamps (90 s with 30 s to wait, and 15 min) fire between two rounds."""
DETECTION_MARGIN_SECONDS: Final = 15.0
"""How long, past the deadlines of the server, an incident may take to open and to heal."""
STOP_SECONDS: Final = 1.0
"""How long stopping waits for the canaries' goodbyes; the drain closes their sockets anyway."""
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 # where to reach who listens everywhere
_log = structlog.get_logger("tracewire.canary")


class CanaryTokenError(TracewireError):
    """There is no token for the canary to sign in with."""

    code = "no_canary_token"


class OwnTokens:
    """The tokens of the canaries: signed here, or, where an issuer signs, read from `TRACEWIRE_CANARY_TOKEN_FILE`."""

    def __init__(self, settings: Settings, authenticator: Authenticator, origins: Origins) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._origins = origins
        self._signed: dict[str, tuple[str, float]] = {}
        if settings.canary_seconds and settings.canary_token_file:
            # Before anything of an earlier process is taken over: the user's incidents must not count then either.
            with contextlib.suppress(CanaryTokenError):  # said by each round that needs it
                self.of(CANARY_USER)

    def of(self, user_id: str) -> str:
        """A token that this server takes; that of the file is for whichever user its issuer says.

        Raises:
            CanaryTokenError: it says what is wrong with the file, and what to do.
        """
        path = self._settings.canary_token_file
        if path:
            return self._read(Path(path))
        token, until = self._signed.get(user_id, ("", 0.0))
        if time.monotonic() >= until:
            token = sign_token(self._settings, user_id, ttl_seconds=TOKEN_SECONDS)
            self._signed[user_id] = (token, time.monotonic() + TOKEN_SECONDS / 2)
            self._authenticator.admit(token)
        return token

    def _read(self, path: Path) -> str:
        what = f"{PREFIX}CANARY_TOKEN_FILE={path}"
        try:
            token = path.read_text().strip()
            # Whose it is, not whether it holds: that, the handshake says.
            claims = jwt.decode(token, options={"verify_signature": False})
            self._origins.add(str(claims["sub"]))
        except OSError as error:
            raise CanaryTokenError(f"{what}: {error.strerror}; put a token of the canary's own user there") from None
        except (jwt.PyJWTError, ValueError, KeyError):
            raise CanaryTokenError(f"{what}: holds no JWT with a subject; put the bare token there") from None
        self._authenticator.admit(token)
        return token


class _State(Struct):
    """What became of a canary's last round."""

    name: str
    stamp: MetricSpec
    last_success_unix_seconds: float = 0.0
    holds: bool | None = None


class Canaries:
    """Both canaries of one server. Where `canary_seconds` is 0 there are none, and nothing happens."""

    def __init__(self, settings: Settings, authenticator: Authenticator, telemetry: Telemetry) -> None:
        self._settings = settings
        self._metrics = telemetry.metrics
        self._tokens = OwnTokens(settings, authenticator, telemetry.watch.origins)
        self._url = ""
        # Where one token serves both, a run that begins while the other's socket is open would be acked there.
        self._turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, url: str) -> None:
        """Begin, by the socket's URL."""
        settings = self._settings
        if not settings.canary_seconds:
            return
        self._url = reachable(url)
        if settings.canary_seconds > SECONDS_MAX or settings.canary_detection_seconds > DETECTION_SECONDS_MAX:
            advice = (
                f"the alerts expect at most {SECONDS_MAX:g} s and {DETECTION_SECONDS_MAX:g} s: go lower, or adapt them"
            )
            _log.warning("canary_seldom", seconds=settings.canary_seconds, advice=advice)
        probing = _State("probe", catalog.CANARY_LAST_SUCCESS)
        detection = _State("detection", catalog.CANARY_DETECTION_LAST_SUCCESS)
        self._tasks = [
            asyncio.create_task(self._go_on(probing, self._probe, settings.canary_seconds)),
            asyncio.create_task(self._go_on(detection, self._detect, settings.canary_detection_seconds)),
        ]

    async def stop(self) -> None:
        """Stop, quietly; what they leave unfinished is nobody's failure."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        self._tasks = []

    async def _go_on(self, state: _State, check: Callable[[], Awaitable[None]], every_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await check()
                self._succeeded(state)
            except _CanaryError as error:
                self._failed(state, error.broken, error.run_id)
            except Exception as error:  # noqa: BLE001 # a canary that ends by a defect of its own would look like success
                _log.exception("canary_crashed", canary=state.name)
                self._failed(state, Broken(None, f"{type(error).__name__}: {error}"), None)
            await asyncio.sleep(max(0.0, began + every_seconds - loop.time()))

    def _succeeded(self, state: _State) -> None:
        if not state.last_success_unix_seconds:
            self._metrics.gauge(state.stamp, lambda: state.last_success_unix_seconds)
        state.last_success_unix_seconds = time.time()
        if not state.holds:
            _log.info("canary_succeeded", canary=state.name)
        state.holds = True

    def _failed(self, state: _State, broken: Broken, run_id: str | None) -> None:
        state.holds = False
        link = broken.link.value if broken.link is not None else None
        _log.error("canary_failed", canary=state.name, link=link, check=broken.check, run_id=run_id, why=broken.why)

    async def _probe(self) -> None:
        try:
            token = self._tokens.of(CANARY_USER)
        except CanaryTokenError as error:
            raise _CanaryError(Broken(None, str(error))) from error
        async with self._turn:
            report = await probe(self._url, token, within_seconds=WITHIN_SECONDS)
        if report.broken is not None:
            raise _CanaryError(report.broken, report.run_id)

    async def _detect(self) -> None:
        settings = self._settings
        try:
            client = WithholdingClient(self._url, self._tokens.of(DETECTION_USER))
        except CanaryTokenError as error:
            raise _CanaryError(Broken(None, str(error))) from error
        try:
            async with self._turn:
                await client.start(within_seconds=WITHIN_SECONDS)
            deadlines = settings.client_deadline_seconds + settings.silence_deadline_seconds
            await client.detect(within_seconds=deadlines + DETECTION_MARGIN_SECONDS)
        except DetectionError as error:
            link = Link.CLIENT if error.run_id else None
            raise _CanaryError(Broken(link, str(error)), error.run_id or None) from error
        finally:
            await client.close()


class _CanaryError(Exception):
    def __init__(self, broken: Broken, run_id: str | None = None) -> None:
        self.broken = broken
        self.run_id = run_id
        super().__init__(str(broken))


def reachable(url: str) -> str:
    """The URL with an address to connect to, where it is that of a server that listens on all of them."""
    parts = urlsplit(url)
    host = _ANYWHERE.get(parts.hostname or "", parts.hostname or "")
    shown = f"[{host}]" if ":" in host else host
    return urlunsplit(parts._replace(netloc=f"{shown}:{parts.port}"))
