"""Sign-in as a client has it: tokens from an issuer of the tests' own, which the server under test is told to trust.

The issuer holds either the secret that the server is configured with, or the private half of a key pair whose public
half the server reads from a file. It signs with PyJWT by itself: no code of the product makes these tokens.
"""

import json
import secrets
import time
import uuid
from pathlib import Path
from typing import Any, Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER: Final = "https://issuer.test"
AUDIENCE: Final = "tracewire-e2e"
TTL_SECONDS: Final = 600.0
SigningKey = str | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class E2EAuthHelper:
    """Signs users' tokens. `environ` is what the server needs in its environment to accept them."""

    def __init__(self, key: SigningKey, algorithm: str, environ: dict[str, str], key_id: str | None = None) -> None:
        self.environ = {"TRACEWIRE_JWT_ISSUER": ISSUER, "TRACEWIRE_JWT_AUDIENCE": AUDIENCE} | environ
        self._key = key
        self._algorithm = algorithm
        self._headers = {"kid": key_id} if key_id is not None else None

    @classmethod
    def by_secret(cls) -> Self:
        """HS256 by a new secret, which the server shares."""
        secret = secrets.token_urlsafe(48)
        return cls(secret, "HS256", {"TRACEWIRE_JWT_SECRET": secret})

    @classmethod
    def by_key_pair(cls, folder: Path, algorithm: str = "ES256") -> Self:
        """ES256 or RS256 by a new key pair, whose public half is written to a JWKS file in this folder."""
        key_id = uuid.uuid4().hex
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
        if algorithm == "ES256":
            key = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        path = folder / f"jwks-{key_id}.json"
        path.write_text(json.dumps({"keys": [public | {"kid": key_id, "use": "sig", "alg": algorithm}]}))
        return cls(key, algorithm, {"TRACEWIRE_JWKS_FILE": str(path)}, key_id)

    def token(self, user_id: str, *, ttl_seconds: float = TTL_SECONDS, **changes: Any) -> str:
        """A token for this user, valid for so long. `changes` are laid over its claims; `None` leaves one out."""
        now = int(time.time())
        claims = {
            "sub": user_id,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + int(ttl_seconds),
            "jti": uuid.uuid4().hex,
        }
        kept = {name: value for name, value in (claims | changes).items() if value is not None}
        return jwt.encode(kept, self._key, self._algorithm, self._headers)
