from tracewire_telemetry.testing import FIVE, assert_chain


def test_every_event_arrives(tracewire_agent, golden_trace):
    with tracewire_agent("kettle_agent:kettles") as served:
        run = served.run("ada", "red")
    assert run.output == "3 red kettles"
    assert_chain(run, events=FIVE, user_id="ada")
    golden_trace(run.trace)
