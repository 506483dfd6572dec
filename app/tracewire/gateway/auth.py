"""Sign-in: whose token it is, and how long it holds.

Entirely by PyJWT, with the one algorithm that is configured: `alg: none` and algorithm confusion find no way in.
"""

import os
import secrets
import time
from pathlib import Path
from typing import Final

import jwt
from msgspec import Struct

from tracewire.errors import TracewireError
from tracewire.settings import Settings
from tracewire_telemetry.vocabulary import CloseCode

ALGORITHM: Final = "HS256"
DEVELOPMENT_SECRET_FILE: Final = "development-secret"  # noqa: S105 # a file's name
DEVELOPMENT_ISSUER: Final = "tracewire-development"
USER_ID_CHARACTERS_MAX: Final = 256


class Principal(Struct, frozen=True):
    """Who signed in, and until when (Unix seconds)."""

    user_id: str
    expires_at: int


class AuthenticationError(TracewireError):
    """A token is missing or does not hold. `close_code` is what a socket is closed with."""

    code = "unauthenticated"

    def __init__(self, message: str, close_code: CloseCode = CloseCode.UNAUTHENTICATED) -> None:
        self.close_code = close_code
        super().__init__(message)


class Authenticator:
    """Verifies tokens by the configured secret; without one, by the development secret of the data folder."""

    def __init__(self, settings: Settings) -> None:
        self._secret = settings.jwt_secret or development_secret(settings.data_path)
        self._issuer = settings.jwt_issuer or (DEVELOPMENT_ISSUER if settings.development else None)
        self._audience = settings.jwt_audience or None
        self._leeway_seconds = settings.jwt_leeway_seconds

    def verify(self, token: str | None) -> Principal:
        """The principal of a token.

        Raises:
            AuthenticationError: it says what is wrong with the token, without repeating it.
        """
        if not token:
            raise AuthenticationError("no token: bring one as `Authorization: Bearer`, `bearer.<token>` or a frame")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_seconds,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
        except jwt.ExpiredSignatureError:
            raise AuthenticationError("the token has expired; get a new one", CloseCode.TOKEN_EXPIRED) from None
        except jwt.PyJWTError as error:
            raise AuthenticationError(f"the token does not hold: {error}") from None
        user_id = claims["sub"]
        if not isinstance(user_id, str) or not user_id.strip() or len(user_id) > USER_ID_CHARACTERS_MAX:
            raise AuthenticationError(
                f"the token's subject must be a user id of 1 to {USER_ID_CHARACTERS_MAX} characters"
            )
        return Principal(user_id, int(claims["exp"]))


def sign_token(settings: Settings, user_id: str, *, ttl_seconds: float) -> str:
    """A token for this user that this server's `Authenticator` accepts for so long."""
    now = int(time.time())
    claims: dict[str, str | int] = {"sub": user_id, "iat": now, "nbf": now, "exp": now + max(1, int(ttl_seconds))}
    if settings.jwt_issuer or settings.development:
        claims["iss"] = settings.jwt_issuer or DEVELOPMENT_ISSUER
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
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
