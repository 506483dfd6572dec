from tracewire_telemetry.testing import assert_no_secret, assert_witnesses_agree


def test_client_traces_and_metrics_tell_of_the_same_events(tracewire_agent):
    with tracewire_agent("kettle_agent:kettles") as served:
        before = served.scrape()
        runs = [served.run(f"user-{number}", "red") for number in range(3)]
        after = served.scrape()
    assert_witnesses_agree(
        [run.client for run in runs], [run.trace for run in runs], metrics_before=before, metrics_after=after
    )
    assert_no_secret(served.receiver, served.log_text, after, values=[served.token("user-0")])
