"""The back end that tests of the Collector take away."""

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.collector_runs import Backend


def test_a_back_end_that_was_left_takes_nothing_over_a_connection_that_is_still_held() -> None:
    """The one who sends learns that it did not arrive."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="sent", trace_id=b"t" * 16, span_id=b"s" * 8)
    body = request.SerializeToString()
    with httpx.Client() as http:
        with Backend() as backend:
            http.post(f"{backend.endpoint}/v1/traces", content=body).raise_for_status()
        with pytest.raises(httpx.TransportError):
            http.post(f"{backend.endpoint}/v1/traces", content=body)
    assert 1 == len(backend.spans)
