"""The public keys of who signs the tokens: a JWKS (RFC 7517) from a file or a URL, kept and read anew.

The keys at hand answer at once, and go on answering when they cannot be read anew; that the source fails is never
taken for a bad token, nor the other way round.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec
import structlog

from tracewire.errors import TracewireError
from tracewire.settings import Settings
from tracewire_telemetry.vocabulary import RejectCode

ALGORITHMS: Final = {"RSA": "RS256", "EC": "ES256"}
"""The one algorithm of each kind of key: a key is never used with another than its own."""
CURVE: Final = "P-256"
RSA_BITS_MIN: Final = 2048
DOCUMENT_BYTES_MAX: Final = 1024 * 1024
FETCH_SECONDS: Final = 5.0
FILE_LOOK_SECONDS: Final = 1.0
"""How often a file is looked at: a key that was taken out of it holds no longer than this."""
_log = structlog.get_logger("tracewire.gateway")


class KeysUnavailableError(TracewireError):
    """Whether the token holds cannot be told: its key is not at hand, and the keys cannot be read anew now."""

    code = RejectCode.NOT_READY.value
    retryable = True

    def __init__(self, why: str, *, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(why)


class PublicKeys:
    """The usable keys of one document. `left_out` says of each other key why it is none."""

    def __init__(self, keys: Mapping[tuple[str | None, str], jwt.PyJWK], left_out: tuple[str, ...]) -> None:
        self._keys = keys
        self.left_out = left_out

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of this id; for a token that names none, the only key of its algorithm."""
        if key_id is not None:
            return self._keys.get((key_id, algorithm))
        fitting = [key for (_, known), key in self._keys.items() if known == algorithm]
        return fitting[0] if len(fitting) == 1 else None


def read_jwks(document: bytes) -> PublicKeys:
    """The keys of a JWKS document.

    Raises:
        ValueError: it is no JWKS, or holds no usable key; it says why.
    """
    try:
        read = msgspec.json.decode(document)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from None
    entries = read.get("keys") if isinstance(read, dict) else None
    if not isinstance(entries, list):
        raise ValueError('it is no JWKS: an object with a list of "keys" is expected')
    keys: dict[tuple[str | None, str], jwt.PyJWK] = {}
    left_out: list[str] = []
    for number, entry in enumerate(entries, 1):
        try:
            key = _read_key(entry)
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            left_out.append(f"key {number}: {error}")
            continue
        keys.setdefault((key.key_id, key.algorithm_name), key)
    if not keys:
        raise ValueError(f"it holds no usable key ({'; '.join(left_out) or 'it is empty'})")
    return PublicKeys(keys, tuple(left_out))


def _read_key(entry: Any) -> jwt.PyJWK:
    if not isinstance(entry, dict):
        raise ValueError("it is no object")
    kind, key_id, operations = entry.get("kty"), entry.get("kid"), entry.get("key_ops", ["verify"])
    algorithm = ALGORITHMS.get(kind) if isinstance(kind, str) else None
    if algorithm is None:
        raise ValueError("it is neither RSA nor EC")
    if kind == "EC" and entry.get("crv") != CURVE:
        raise ValueError(f"its curve is not {CURVE}")
    if entry.get("alg", algorithm) != algorithm:
        raise ValueError(f"its alg is not {algorithm}")
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("it is not for verifying signatures")
    if "d" in entry:
        raise ValueError("it is a private key; publish its public half alone")
    if key_id is not None and not isinstance(key_id, str):
        raise ValueError("its kid is no text")
    try:
        key = jwt.PyJWK(entry, algorithm)
    except (ValueError, TypeError, KeyError, jwt.PyJWTError):
        raise ValueError("its numbers are no key") from None  # the library's message repeats them
    if kind == "RSA" and key.key.key_size < RSA_BITS_MIN:
        raise ValueError(f"it has {key.key.key_size} bits, fewer than {RSA_BITS_MIN}")
    return key


class KeySource(Protocol):
    """Where a JWKS document comes from. `name` is fit for a log."""

    name: str

    async def read(self) -> bytes:
        """The document as it is now.

        Raises:
            OSError: it cannot be read.
            httpx.HTTPError: it cannot be fetched.
        """

    async def close(self) -> None:
        """Let go of what reading needs."""


class JwksFile:
    """A JWKS in a file."""

    def __init__(self, path: str) -> None:
        self.name = f"TRACEWIRE_JWKS_FILE={path}"
        self._path = Path(path)

    async def read(self) -> bytes:
        """The file, read in a thread: it may be mounted from afar."""
        return await asyncio.to_thread(self._path.read_bytes)

    async def close(self) -> None:
        """Nothing is held."""


class JwksUrl:
    """A JWKS behind a URL. Redirects are not followed: the setting says whom to trust."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.name = f"TRACEWIRE_JWKS_URL={parts.scheme}://{parts.netloc}{parts.path}"
        self._url = url
        self._http = httpx.AsyncClient(timeout=FETCH_SECONDS, headers={"Accept": "application/json"})

    async def read(self) -> bytes:
        """The document, if it comes whole within `FETCH_SECONDS`."""
        document = bytearray()
        async with asyncio.timeout(FETCH_SECONDS), self._http.stream("GET", self._url) as response:
            if response.status_code != httpx.codes.OK:
                raise OSError(f"it answers HTTP {response.status_code}")
            async for part in response.aiter_bytes():
                document += part
                if len(document) > DOCUMENT_BYTES_MAX:
                    raise OSError(f"it has more than {DOCUMENT_BYTES_MAX} bytes")
        return bytes(document)

    async def close(self) -> None:
        """Close the connection to the issuer."""
        await self._http.aclose()


class KeyRing:
    """The keys at hand, and a task that reads them anew every `cache_seconds`.

    Args:
        source: where they come from.
        cache_seconds: the age at which the keys are read anew.
        refetch_seconds: between two readings that unknown key ids ask for.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        source: KeySource,
        *,
        cache_seconds: float,
        refetch_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._cache_seconds = cache_seconds
        self._refetch_seconds = refetch_seconds
        self._clock = clock
        self._keys = PublicKeys({}, ())
        self._tried_at = -float("inf")
        self._why: str | None = None
        self._reading: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Read the keys for the first time, and go on reading them anew.

        Raises:
            KeysUnavailableError: there are none; it names the setting and the reason.
        """
        await self._read()
        if self._why is not None:
            await self._source.close()
            raise self._unavailable()
        self._looking = asyncio.create_task(self._look_forever())

    async def close(self) -> None:
        """Read no more."""
        tasks = [task for task in (self._looking, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._source.close()

    def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key at hand for a token of this key id and algorithm."""
        return self._keys.find(key_id, algorithm)

    async def renew(self) -> None:
        """Read the keys anew, for a token whose key is not at hand; not if that was done within `refetch_seconds`.

        However many ask at once, the source is read once.

        Raises:
            KeysUnavailableError: the keys cannot be read now.
        """
        if self._reading is not None or self._clock() - self._tried_at >= self._refetch_seconds:
            # Shielded: a socket whose time to sign in is over must not take the reading from the others.
            await asyncio.shield(self._read_once())
        if self._why is not None:
            raise self._unavailable()

    def _unavailable(self) -> KeysUnavailableError:
        return KeysUnavailableError(
            f"the keys that tokens are signed with cannot be read: {self._source.name}: {self._why}",
            retry_after_seconds=max(1.0, self._refetch_seconds),
        )

    def _read_once(self) -> "asyncio.Task[None]":
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._read_ended)
        return self._reading

    def _read_ended(self, _: "asyncio.Task[None]") -> None:
        self._reading = None

    async def _read(self) -> None:
        self._tried_at = self._clock()
        try:
            keys = read_jwks(await self._source.read())
        except TimeoutError:
            self._failed("it does not answer in time")
        except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
            self._failed(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        else:
            self._took(keys)

    def _failed(self, why: str) -> None:
        if why != self._why:
            _log.warning("signing_keys_unavailable", source=self._source.name, why=why, keys_kept=len(self._keys))
        self._why = why

    def _took(self, keys: PublicKeys) -> None:
        if self._why is not None or keys.left_out != self._keys.left_out or len(keys) != len(self._keys):
            _log.info("signing_keys_read", source=self._source.name, keys=len(keys), left_out=keys.left_out)
        self._why = None
        self._keys = keys

    async def _look_forever(self) -> None:
        while True:
            failing_seconds = min(self._cache_seconds, max(self._refetch_seconds, FILE_LOOK_SECONDS))
            await asyncio.sleep(self._cache_seconds if self._why is None else failing_seconds)
            with contextlib.suppress(KeysUnavailableError):
                await asyncio.shield(self._read_once())


def key_ring(settings: Settings) -> KeyRing | None:
    """The key ring that the settings name; `None` where tokens are signed by a secret."""
    if settings.jwks_file:
        return KeyRing(JwksFile(settings.jwks_file), cache_seconds=FILE_LOOK_SECONDS, refetch_seconds=0)
    if settings.jwks_url:
        return KeyRing(
            JwksUrl(settings.jwks_url),
            cache_seconds=settings.jwks_cache_seconds,
            refetch_seconds=settings.jwks_refetch_seconds,
        )
    return None
