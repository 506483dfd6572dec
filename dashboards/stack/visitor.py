"""A user of the stack, who asks the analyst something every few seconds: so that no board is empty. Take it out where
real users come.

    python -m dashboards.stack.visitor --url ws://127.0.0.1:8000/ws --every 10

It signs its tokens with the server's own secret, as the server's settings name it.
"""

import argparse
import asyncio
import os
import signal
from typing import Final

from tracewire.client import Client, ClientError
from tracewire.errors import SettingsError
from tracewire.gateway.auth import sign_token
from tracewire.settings import Settings, load_settings

USER: Final = "visitor"
EVERY_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 60.0
TOKEN_SECONDS: Final = 3_600.0
QUESTIONS: Final = (
    "what is missing in the sample recording?",
    "which tool calls failed in the sample recording?",
    "what ran lately?",
)


async def visit(url: str, settings: Settings, every_seconds: float) -> None:
    """Ask for ever, over one connection that is made anew when it is lost.

    Raises:
        ClientError: the server lets this user in no more, or cannot be reached for `CONNECT_SECONDS`.
    """

    def token() -> str:
        return sign_token(settings, USER, ttl_seconds=TOKEN_SECONDS)

    while True:
        async with Client(url, token, connect_seconds=CONNECT_SECONDS) as client:
            for question in QUESTIONS:
                async for _ in await client.start_run(question):
                    pass
                await asyncio.sleep(every_seconds)


def main() -> None:
    """Visit, until a signal ends the process."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.stack.visitor", description="Ask something, for ever.")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/ws")
    parser.add_argument("--every", type=float, default=EVERY_SECONDS, metavar="SECONDS")
    parser.add_argument("--data-dir", help="the server's data folder, where it made its own secret")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(visit(options.url, load_settings(os.environ, data_dir=options.data_dir), options.every))
    except KeyboardInterrupt:
        return
    except (ClientError, SettingsError, OSError) as error:
        raise SystemExit(f"visitor: {error}") from None


if __name__ == "__main__":
    main()
