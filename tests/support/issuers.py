"""Who signs tokens elsewhere: key pairs, tokens signed with them, and a JWKS document behind a real port."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
ISSUER = "https://issuer.test"
AUDIENCE = "tracewire-test"


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """An RSA key, the same for the same name."""
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(name: str, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    """An EC key, the same for the same name."""
    return ec.generate_private_key(curve())


def public_pem(key: PrivateKey) -> bytes:
    """The public half as PEM, as it is often mistaken for a secret."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk_of(key: PrivateKey, key_id: str | None, **changes: Any) -> dict[str, Any]:
    """The public half as a member of a JWKS; a change to `None` leaves a member out."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        entry = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
    else:
        entry = jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True)
    entry.pop("key_ops", None)
    merged = dict(entry) | {"kid": key_id, "use": "sig"} | changes
    return {name: value for name, value in merged.items() if value is not None}


def jwks_of(*entries: Any) -> bytes:
    """A JWKS document."""
    return json.dumps({"keys": entries}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that hold; a change to `None` leaves one out."""
    now = int(time.time())
    own = {"sub": "alice", "iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "nbf": now, "iat": now} | changes
    return {name: value for name, value in own.items() if value is not None}


def signed(key: PrivateKey, key_id: str | None, **changes: Any) -> str:
    """A token, signed with the algorithm that fits the key."""
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    headers = {"kid": key_id} if key_id is not None else None
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


class JwksEndpoint:
    """An issuer's port. `status` and `document` are what it answers; while `held` is set it answers nothing."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.status = 200
        self.requests = 0
        self.held = asyncio.Event()
        self.asked = asyncio.Event()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close."""
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            self.asked.set()
            if self.held.is_set():
                await reader.read()
                return
            writer.write(
                b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (self.status, len(self.document))
            )
            writer.write(self.document)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def jwks_endpoint(document: bytes) -> AsyncIterator[JwksEndpoint]:
    """An issuer's port, open."""
    endpoint = JwksEndpoint(document)
    server = await asyncio.start_server(endpoint.answer, "127.0.0.1", 0)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    async with server:
        yield endpoint
