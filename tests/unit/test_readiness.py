"""The readiness gate: open only while every step holds and nothing drains."""

from tracewire.readiness import Readiness


def test_it_is_ready_when_every_step_has_passed() -> None:
    """Until then each step that has not is a reason, by name."""
    readiness = Readiness(["log", "agents"])
    assert (readiness.ready, readiness.reasons) == (False, {"log": "not started yet", "agents": "not started yet"})
    readiness.passed("agents")
    assert (readiness.ready, list(readiness.reasons)) == (False, ["log"])
    readiness.passed("log")
    assert (readiness.ready, readiness.reasons) == (True, {})


def test_a_step_that_fails_later_closes_it_and_one_that_heals_opens_it() -> None:
    """The reason is the newest."""
    readiness = Readiness()
    readiness.failed("log", "disk full")
    readiness.failed("log", "database is locked")
    assert (readiness.ready, readiness.reasons) == (False, {"log": "database is locked"})
    readiness.passed("log")
    readiness.passed("log")
    assert readiness.ready


def test_draining_is_for_good() -> None:
    """Whatever passes afterwards; it is a reason beside the others."""
    readiness = Readiness(["log"])
    readiness.drain()
    assert {"log", "drain"} == set(readiness.reasons)
    readiness.passed("log")
    readiness.passed("drain")
    assert (readiness.ready, readiness.reasons) == (False, {"drain": "the server is stopping"})


def test_its_reasons_are_a_copy() -> None:
    """Who shows them cannot change them."""
    readiness = Readiness(["log"])
    readiness.reasons.clear()
    assert not readiness.ready
