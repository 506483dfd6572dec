"""What people do in the shop: each takes a tracer provider, for tests that hold what happened in production."""

from shop import create_app


def look_at_a_red_kettle(provider):
    create_app(provider).test_client().get("/kettles/red")
