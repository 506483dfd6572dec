"""Sign-in: whose token it is, and how long it holds.

Entirely by PyJWT, with the one algorithm that is configured, or that the token's public key is for: `alg: none` and
algorithm confusion find no way in.
"""

import hashlib
import os
import secrets
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

import jwt
from msgspec import Struct

from tracewire.errors import TracewireError
from tracewire.gateway.keys import ALGORITHMS, KeyRing
from tracewire.gateway.revocation import Revocations
from tracewire.settings import Settings
from tracewire_telemetry.origins import OWN_USERS
from tracewire_telemetry.vocabulary import CloseCode

ALGORITHM: Final = "HS256"
DEVELOPMENT_SECRET_FILE: Final = "development-secret"  # noqa: S105 # a file's name
DEVELOPMENT_ISSUER: Final = "tracewire-development"
USER_ID_CHARACTERS_MAX: Final = 256
TOKEN_CHARACTERS_MAX: Final = 8192
"""A longer token is not looked at; a header of this length gets through no common proxy either."""


OWN_TOKENS_MAX: Final = 16
"""Tokens of the server's own that hold at once: each connection of a canary has a new one."""


class Principal(Struct, frozen=True):
    """Who signed in, and until when. `token_id` and `issued_at` are the token's own, where it has them; times are Unix
    seconds.
    """

    user_id: str
    expires_at: int
    token_id: str | None = None
    issued_at: float | None = None


class AuthenticationError(TracewireError):
    """A token is missing or does not hold. `close_code` is what a socket is closed with."""

    code = "unauthenticated"

    def __init__(self, message: str, close_code: CloseCode = CloseCode.UNAUTHENTICATED) -> None:
        self.close_code = close_code
        super().__init__(message)


class SigningError(TracewireError):
    """This server cannot sign tokens: it has public keys only."""

    code = "no_signing_key"


class UnknownKeyError(AuthenticationError):
    """The key that the token names is not at hand: it is made up, or newer than the keys."""


class Authenticator:
    """Verifies tokens by the public keys, or by the configured secret; without either, by the development secret of
    the data folder.
    """

    def __init__(self, settings: Settings, keys: KeyRing | None = None, revocations: Revocations | None = None) -> None:
        self._keys = keys
        self._secret = "" if keys is not None else settings.jwt_secret or development_secret(settings.data_path)
        self._issuers = settings.jwt_issuer or ((DEVELOPMENT_ISSUER,) if settings.development else None)
        self._audiences = settings.jwt_audience or None
        self._leeway_seconds = settings.jwt_leeway_seconds
        self._revocations = revocations
        self._own_tokens: deque[bytes] = deque(maxlen=OWN_TOKENS_MAX)

    def admit(self, token: str) -> None:
        """Let this token sign in by one of the server's own names, which are refused to everybody else: what such a
        user misses pages nobody.
        """
        digest = _digest(token)
        if digest not in self._own_tokens:
            self._own_tokens.append(digest)

    async def authenticate(self, token: str | None) -> Principal:
        """The principal of a token; where its key is not at hand, the keys are read anew first.

        Raises:
            AuthenticationError: it says what is wrong with the token, without repeating it.
            KeysUnavailableError: whether it holds cannot be told now.
        """
        try:
            return self.verify(token)
        except UnknownKeyError:
            if self._keys is None:
                raise
            await self._keys.renew()
        return self.verify(token)

    def verify(self, token: str | None) -> Principal:
        """The principal of a token, by the keys at hand.

        Raises:
            AuthenticationError: it says what is wrong with the token, without repeating it; `UnknownKeyError` where
                newer keys might tell otherwise.
        """
        if not token:
            raise AuthenticationError("no token: bring one as `Authorization: Bearer`, `bearer.<token>` or a frame")
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise AuthenticationError(f"the token has more than {TOKEN_CHARACTERS_MAX} characters")
        principal = _principal(self._claims(token))
        if principal.user_id in OWN_USERS and _digest(token) not in self._own_tokens:
            raise AuthenticationError(f"the name {principal.user_id!r} is the server's own; sign in by another")
        self.check(principal, time.time())
        return principal

    def check(self, principal: Principal, unix_now: float) -> None:
        """That who signed in earlier may go on, at `unix_now` (seconds).

        Raises:
            AuthenticationError: the token has expired or is revoked.
        """
        if unix_now >= principal.expires_at + self._leeway_seconds:
            raise AuthenticationError("the token has expired; get a new one", CloseCode.TOKEN_EXPIRED)
        if self._revocations is not None and self._revocations.cover(
            principal.user_id, principal.token_id, principal.issued_at
        ):
            raise AuthenticationError("the token is revoked; sign in anew")

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            key, algorithm = self._key_of(token)
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuers,
                audience=self._audiences,
                leeway=self._leeway_seconds,
                options={"require": ["exp", "sub"], "verify_aud": self._audiences is not None},
            )
        except jwt.ExpiredSignatureError:
            raise AuthenticationError("the token has expired; get a new one", CloseCode.TOKEN_EXPIRED) from None
        except jwt.PyJWTError as error:
            raise AuthenticationError(f"the token does not hold: {error}") from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            # No JSON, no text, numbers without end, nesting without end: whatever the library lets through of these.
            raise AuthenticationError("the token does not hold: it cannot be read") from None

    def _key_of(self, token: str) -> tuple[jwt.PyJWK | str, str]:
        if self._keys is None:
            return self._secret, ALGORITHM
        header = jwt.get_unverified_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS.values():
            raise AuthenticationError(f"the token must be signed with {' or '.join(ALGORITHMS.values())}")
        key = self._keys.find(key_id, str(algorithm))
        if key is None:
            raise UnknownKeyError("the token's key is none of its issuer's")
        return key, str(algorithm)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def _principal(claims: dict[str, Any]) -> Principal:
    user_id, token_id, issued_at = claims["sub"], claims.get("jti"), claims.get("iat")
    if not isinstance(user_id, str) or not user_id.strip() or len(user_id) > USER_ID_CHARACTERS_MAX:
        raise AuthenticationError(f"the token's subject must be a user id of 1 to {USER_ID_CHARACTERS_MAX} characters")
    return Principal(user_id, int(claims["exp"]), token_id, None if issued_at is None else float(issued_at))


def sign_token(settings: Settings, user_id: str, *, ttl_seconds: float) -> str:
    """A token for this user that this server's `Authenticator` accepts for so long.

    Raises:
        SigningError: the server's tokens are signed elsewhere.
    """
    if settings.jwks_file or settings.jwks_url:
        raise SigningError("tokens are signed by the issuer whose public keys TRACEWIRE_JWKS_… names: get one there")
    now = int(time.time())
    claims: dict[str, str | int] = {"sub": user_id, "iat": now, "nbf": now, "exp": now + max(1, int(ttl_seconds))}
    if settings.jwt_issuer or settings.development:
        claims["iss"] = settings.jwt_issuer[0] if settings.jwt_issuer else DEVELOPMENT_ISSUER
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience[0]
    return jwt.encode(claims, settings.jwt_secret or development_secret(settings.data_path), algorithm=ALGORITHM)


def development_secret(data_dir: Path) -> str:
    """The secret of the data folder; folder and secret are made where there are none, for their owner alone.

    Raises:
        OSError: the folder cannot be read or written.
    """
    path = data_dir / DEVELOPMENT_SECRET_FILE
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_text().strip()
        if len(secret) < 32:
            raise OSError(
                f"{path} holds no secret of 32 characters or more; remove it to have a new one made"
            ) from None
        return secret
    with os.fdopen(handle, "w") as file:
        secret = secrets.token_urlsafe(48)
        file.write(secret)
    return secret
