"""One run, seen from both ends."""

from support.servers import FIVE, ServerUnderTest


async def test_a_run_arrives_whole_and_its_trace_shows_every_link(chain: ServerUnderTest) -> None:
    """A user's run gives the five events on the socket and four spans for each in its trace."""
    async with chain.client("alice") as client:
        run = await client.start_run("hello", agent="five")
        received = [envelope async for envelope in run]
    assert [envelope.type.value for envelope in received] == list(FIVE)
    assert run.receipt_agrees
    trace = await chain.trace(run.run_id)
    assert trace.problems() == []
    for event_type in FIVE:
        for operation in ("create", "process", "send", "settle"):
            assert len(trace.named(f"{operation} {event_type}")) == 1
