"""A question is read by its words; any other input than the accepted one is refused with what is accepted."""

import pytest

from tracewire.agents.analyst.questions import ACCEPTED_INPUT, SAMPLE, Intent, read_question


@pytest.mark.parametrize(
    ("text", "intents"),
    [
        ("What is missing?", {Intent.LOSSES}),
        ("Was anything lost, or are there gaps?", {Intent.LOSSES, Intent.OVERVIEW}),
        ("Did every event arrive?", {Intent.LOSSES}),
        ("Any duplicates?", {Intent.ORDER}),
        ("which tools were called?", {Intent.TOOLS}),
        ("Which runs FAILED?", {Intent.ENDINGS}),
        ("why does the spinner never stop", {Intent.ENDINGS, Intent.SILENCE}),
        ("Where did it stall?", {Intent.SILENCE}),
        ("Is there something of another user?", {Intent.FOREIGN}),
        ("What ran lately?", {Intent.RECENT}),
        ("my runs", {Intent.RECENT}),
        ("How many events of which types?", {Intent.COUNTS}),
        ("Give me a summary", {Intent.OVERVIEW}),
        ("What's the weather?", set()),
        ("", set()),
    ],
)
def test_a_question_asks_for_what_its_words_say(text, intents):
    assert set(read_question(text).intents) == intents


def test_what_cannot_be_read_is_answered_with_the_overview():
    assert read_question("la la la").asked == (Intent.OVERVIEW,)


@pytest.mark.parametrize("text", ["What is in the sample?", "look at the Sample recording", "sample file, gaps?"])
def test_a_question_that_mentions_the_sample_is_about_it(text):
    assert read_question(text).recording_id == SAMPLE


def test_a_sample_of_something_else_is_not_the_sample():
    assert read_question("take a sample of my runs").recording_id is None


def test_a_named_recording_wins_over_the_mention_of_the_sample():
    question = read_question({"question": "is the sample like this one?", "recording_id": " r-1 "})
    assert question.recording_id == "r-1"


@pytest.mark.parametrize("value", [{}, {"question": ""}, {"recording_id": None}, {"recording_id": " "}])
def test_fields_may_be_left_out(value):
    assert (read_question(value).text, read_question(value).recording_id) == ("", None)


def test_runs_can_be_named_by_number_and_by_id():
    run_id = "019a4e33-ac04-79e3-8779-79b9806dc17c"
    question = read_question(f"why did run 3 and {run_id.upper()} fail?")
    assert (question.labels, question.run_ids) == (("run 3",), (run_id,))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "null"),
        (7, "a number"),
        (True, "a boolean"),
        (["q"], "an array"),
        ({"question": 7}, "a number"),
        ({"question": None}, "null"),
        ({"question": "q", "recording_id": 7}, "a number"),
        ({"question": "q", "recordingId": "r"}, "recordingId"),
    ],
)
def test_any_other_input_is_refused_with_what_is_accepted(value, told):
    with pytest.raises(ValueError, match=told) as raised:
        read_question(value)
    assert str(raised.value).startswith(ACCEPTED_INPUT)
