import pytest
from shop import create_app

from tracewire_telemetry.testing import assert_no_secret, assert_order, assert_tree, span


@pytest.fixture
def web(trace_recorder):
    return create_app(trace_recorder.provider({"service.name": "shop"})).test_client()


def test_a_kettle_has_a_price(web, trace_recorder, golden_trace):
    assert web.get("/kettles/red", headers={"Authorization": "Bearer not-for-any-trace"}).json["price"] == 36
    trace = trace_recorder.wait_for_trace()
    assert_tree(
        trace,
        span(
            "GET /kettles/<colour>",
            kind="server",
            resource={"service.name": "shop"},
            children=[
                span("SELECT prices", kind="client", attributes={"db.system.name": "sqlite"}),
                span("add tax", kind="internal", scope="shop", attributes={"shop.rate": float}),
            ],
        ),
    )
    assert_order(trace, "SELECT prices", "add tax", one_after_another=True)
    assert_no_secret(trace_recorder, values=["not-for-any-trace"])
    golden_trace(trace)


def test_an_unknown_kettle_is_looked_for_and_not_taxed(web, trace_recorder):
    assert web.get("/kettles/green").status_code == 404
    assert_tree(trace_recorder.wait_for_trace(), span("GET /kettles/<colour>", children=[span("SELECT prices")]))
