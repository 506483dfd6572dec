"""`/schema`: what the server speaks, for programs and for people, with a page to try it on. All of it is public."""

from functools import cache
from importlib import resources
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from tracewire.gateway.console import PAGE_HEADERS, ServedFile, answer, load_files, served
from tracewire.gateway.openapi import openapi_document
from tracewire.gateway.schema import frames_schema

OPEN_HEADERS = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
"""A page of any origin may read the documents: they hold nothing of anybody's."""


def schema_routes(version: str) -> list[HTTPRouteHandler]:
    """The routes, for a server of this version."""
    page_file = load_files(resources.files("tracewire").joinpath("console"))["schema.html"]

    @cache
    def openapi() -> ServedFile:
        return served(msgspec.json.encode(openapi_document(version)), "application/vnd.oai.openapi+json")

    @cache
    def frames() -> ServedFile:
        return served(msgspec.json.encode(frames_schema()), "application/schema+json")

    @get("/schema", include_in_schema=False, sync_to_thread=False)
    def page(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The page on which to try the operations."""
        return answer(request, page_file, PAGE_HEADERS)

    @get("/schema/openapi.json", sync_to_thread=False)
    def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The OpenAPI document."""
        return answer(request, openapi(), OPEN_HEADERS)

    @get("/schema/frames.json", sync_to_thread=False)
    def frames_json(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The JSON Schema of the frames."""
        return answer(request, frames(), OPEN_HEADERS)

    return [page, openapi_json, frames_json]
