"""What a user sends and an agent does not take is told to the user, and is no defect in the log."""

from structlog.testing import capture_logs

from support.servers import ServerUnderTest


async def test_input_that_the_analyst_does_not_take_is_refused_without_a_traceback(chain: ServerUnderTest) -> None:
    """The user is told what is accepted; the log has one line about it, and no error."""
    with capture_logs() as records:
        async with chain.client("alice") as client:
            run = await client.start_run(5, agent="analyst")
            last = [envelope async for envelope in run][-1]
    assert ("agent_error", "agent_exception") == (last.type, last.data["code"])
    assert "recording_id" in last.data["message"]
    assert [] == [record for record in records if record["log_level"] == "error"]
    assert 1 == sum(record["event"] == "agent_refused_input" for record in records)
