"""Golden traces: what is kept, what counts as a difference, and a golden test from an exported trace."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from support.made_spans import basket, made
from tracewire_telemetry.testing import GoldenTraces, assert_golden, golden_text
from tracewire_telemetry.testing.golden_format import GoldenFormatError, parsed, text_of
from tracewire_telemetry.testing.importing import ImportRefusedError, Program, import_golden
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace, SpanEvent

BASKET = """\
# A golden trace, format 1: reviewed like code; `pytest --update-traces` writes it anew.

GET /basket [server]
    · service.name = "shop"
    · scope = "shop"
    · http.status_code = 200
    · user.id = <user.id>
  query [client]
      · db.rows = 3
  in any order:
    price [internal]
        · for = <user.id>
      tax [internal]
          · rate = <number>
    stock [internal]
  answer [internal] ok
"""


def bent(name: str, **changes: Any) -> RecordedTrace:
    """The basket with one span changed."""
    return RecordedTrace(replace(s, **changes) if s.name == name else s for s in basket())


def moved(*times: tuple[str, float, float]) -> RecordedTrace:
    """The basket with some spans at other times, in milliseconds."""
    trace = list(basket())
    for name, start, end in times:
        other = made(name, at=(start, end))
        trace = [replace(s, start_ns=other.start_ns, end_ns=other.end_ns) if s.name == name else s for s in trace]
    return RecordedTrace(trace)


def test_a_trace_is_kept_as_a_text_without_ids_and_times() -> None:
    """A line a span, attributes under it, parallel parts marked; an id of the root by its name wherever it occurs."""
    assert golden_text(basket()) == BASKET
    assert text_of(parsed(BASKET)) == BASKET


def renumbered(trace: RecordedTrace) -> RecordedTrace:
    """The same at another time, with other ids, on another machine, for another user."""
    ids = {s.span_id: f"{n:016x}" for n, s in enumerate(trace, 0xABC)} | {"": ""}
    return RecordedTrace(
        replace(
            s,
            trace_id="c" * 32,
            span_id=ids[s.span_id],
            parent_id=ids[s.parent_id],
            start_ns=s.start_ns * 2,
            end_ns=s.end_ns * 2,
            resource={**s.resource, "service.instance.id": "other"},
            attributes={key: "bob-1791" if value == "ada-1815" else value for key, value in s.attributes.items()},
        )
        for s in trace
    )


@pytest.mark.parametrize(
    "trace",
    [
        renumbered(basket()),
        moved(("stock", 61, 65)),
        moved(("stock", 22, 28)),
        moved(("query", 5, 35)),
        moved(("answer", 55, 58)),
    ],
    ids=["ids", "parallel parts one after the other", "the other way round", "overlapping", "overlapping later"],
)
def test_what_may_differ_is_no_difference(trace: RecordedTrace) -> None:
    """Ids, times, and the order of what is parallel in the golden trace or overlaps in this one."""
    assert_golden(trace, BASKET)


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (RecordedTrace(s for s in basket() if s.name != "tax"), ["missing under price [internal]: tax [internal]"]),
        (
            RecordedTrace([*(b := basket()), made("duty", b.named("price")[0], at=(41, 42))]),
            ["not in the golden trace, under price [internal]: duty [internal]", "+    duty [internal]"],
        ),
        (bent("tax", kind="client"), ["-    tax [internal]", "+    tax [client]"]),
        (bent("answer", status="error"), ["-  answer [internal] ok", "+  answer [internal] error"]),
        (
            bent("query", attributes={"db.rows": 4}),
            ["query [client]: lacks db.rows = 3", "query [client]: has db.rows = 4", "-      · db.rows = 3"],
        ),
        (bent("price", attributes={"for": "eve-0001"}), ['has for = "eve-0001"', "lacks for = <user.id>"]),
        (bent("query", scope="sql"), ['query [client]: has scope = "sql"']),
        (bent("stock", resource={"service.name": "till"}), ['stock [internal]: has service.name = "till"']),
        (bent("stock", links=(("a" * 32, "b" * 16),)), ["stock [internal]: has links = 1"]),
        (bent("stock", events=(SpanEvent("sold out", 1, {}),)), ["stock [internal]: has event sold out"]),
        (bent("stock", status_message="no"), ['stock [internal]: has status says "no"']),
        (
            moved(("query", 91, 95)),
            ["under GET /basket [server] query [client] ran after answer [internal] ok, must run before it"],
        ),
    ],
)
def test_each_difference_is_named_and_shown_as_a_diff(trace: RecordedTrace, said: list[str]) -> None:
    """A span missing, too many or changed, an attribute, the order of what is not parallel."""
    with pytest.raises(AssertionError) as raised:
        assert_golden(trace, BASKET, where="basket.txt")
    for part in ("the trace is not as in basket.txt", *said):
        assert part in str(raised.value)


def test_a_diff_shows_nothing_but_the_difference() -> None:
    """Parallel parts that came in another order are not in it."""
    trace = RecordedTrace(s for s in moved(("stock", 22, 28)) if s.name != "tax")
    with pytest.raises(AssertionError) as raised:
        assert_golden(trace, BASKET)
    changed = [line for line in str(raised.value).splitlines() if re.match(r"[+-] ", line)]
    assert changed == ["-    tax [internal]", "-        · rate = <number>"]


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ({"note": "for ada@example.org at 2026-01-02T03:04:05Z"}, 'note = "for <email> at <time>"'),
        ({"url": "https://shop.example:8443/a?b"}, 'url = "https://<host>/a?b"'),
        ({"at": "10.1.2.3:80"}, 'at = "<host>"'),
        ({"session.id": "1"}, "session.id = <session.id>"),
        ({"order_id": 77}, "order_id = <id>"),
        ({"key": "01a207d7-86b8-724d-a539-5f5f2f003a3e"}, 'key = "<uuid>"'),
        ({"commit": "8f4e2a91c0de77"}, 'commit = "<hex>"'),
        ({"number": "no 1234567890"}, 'number = "no <digits>"'),
        ({"took_ms": 17}, "took_ms = <varies>"),
        ({"thread.name": "MainThread"}, "thread.name = <varies>"),
        ({"said": "Bearer abcdefghijklmnop"}, 'said = "<secret>"'),
        ({"http.request.header.authorization": "letmein"}, "http.request.header.authorization = <secret>"),
        ({"text": "two\nlines"}, 'text = "two\\nlines"'),
        ({"parts": ("a", 1, 0.5, True, None)}, 'parts = ["a", 1, <number>, true, null]'),
        ({"map": {"b": 1, "a": "x"}}, 'map = {a: "x", b: 1}'),
    ],
)
def test_values_are_kept_without_what_varies(attributes: dict[str, Any], kept: str) -> None:
    """Ids, addresses, times, people, secrets: a golden file of a trace from production holds none of them."""
    assert f"· {kept}\n" in golden_text([made("child", made("root"), attributes=attributes)], remote_parent=True)


def test_more_can_be_left_out_or_replaced() -> None:
    """For what a program varies by itself."""
    trace = [made("build 17", attributes={"build": 17, "host": "a", "note": "build 17"})]
    text = golden_text(trace, varies=["build"], leave_out=["ho*"], replace={r"build \d+": "build <n>"})
    assert text.splitlines()[2:] == [
        "build <n> [internal]",
        '    · service.name = "shop"',
        '    · scope = "shop"',
        "    · build = <varies>",
        '    · note = "build <n>"',
    ]


def test_an_id_of_the_root_is_called_by_its_name_inside_other_texts_too() -> None:
    """In names, in values; short ones only where they are the whole value."""
    root = made("basket of ada-1815", attributes={"user.id": "ada-1815", "lane.id": "7"})
    child = made("child", root, attributes={"key": "basket:ada-1815:17", "lane": "7", "note": "7 kettles"})
    text = golden_text([root, child])
    for part in ("basket of <user.id> [", 'key = "basket:<user.id>:17"', "lane = <lane.id>", 'note = "7 kettles"'):
        assert part in text


def test_an_attribute_like_that_of_the_span_above_is_only_named() -> None:
    """One that is not there is missed all the same."""
    root = made("root", attributes={"tenant": "blue", "lot": 1})
    child = made("child", root, attributes={"tenant": "blue", "lot": 1})
    golden = golden_text([root, child])
    assert "      · as above: lot, tenant\n" in golden
    with pytest.raises(AssertionError, match=r"child \[internal\]: has as above: tenant"):
        assert_golden([root, replace(child, attributes={"tenant": "blue"})], golden)


def test_names_that_look_like_the_formats_own_marks_are_names() -> None:
    """A span may be called anything."""
    root = made("# root")
    trace = [root, *(made(name, root, at=(n, n + 0.5)) for n, name in enumerate(("in any order:", "· a", " b"), 1))]
    golden = golden_text(trace)
    assert_golden(trace, golden)
    lines = [node.line for node in parsed(golden)[0].children]
    assert lines == ["in any order: [internal]", r"\· a [internal]", r"\ b [internal]"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no span"),
        ("# only a remark\n", "holds no span"),
        ("    · a = 1\nroot\n", "line 1: an attribute before any span"),
        ("root\n      far\n", "line 2: is indented by 6: far"),
        ("root\n odd\n", "line 2: is indented by 1: odd"),
    ],
)
def test_a_golden_file_that_cannot_be_read_is_said_with_the_line(text: str, said: str) -> None:
    """It is a file that people edit."""
    with pytest.raises(GoldenFormatError, match=re.escape(said)):
        assert_golden(basket(), text)


@pytest.mark.parametrize("look", [golden_text, lambda t: assert_golden(t, BASKET), lambda t: kept(Path("x"))(t)])
def test_an_empty_recording_always_fails(look: Callable[[list[RecordedSpan]], None]) -> None:
    """Nothing is never right."""
    with pytest.raises(AssertionError, match="the recording is empty"):
        look([])


def test_a_trace_that_was_cut_is_not_kept() -> None:
    """What was cut off would be kept as right."""
    with pytest.raises(AssertionError, match="tax is an orphan"):
        golden_text(s for s in basket() if s.name != "price")


def kept(folder: Path, *, update: bool = False, with_budgets: bool = False) -> GoldenTraces:
    """Golden traces as the fixture makes them."""
    return GoldenTraces(folder, "test_basket[1]", update=update, with_budgets=with_budgets)


def test_a_golden_trace_is_written_when_that_is_asked_for_and_where_it_differs(tmp_path: Path) -> None:
    """Not before, and not again while nothing differs: a file changes only where the trace did."""
    with pytest.raises(AssertionError, match=r"there is no golden trace .*: `pytest --update-traces` writes it"):
        kept(tmp_path)(basket())
    kept(tmp_path, update=True)(basket())
    path = tmp_path / "test_basket-1.txt"
    assert path.read_text() == BASKET
    kept(tmp_path)(basket())
    kept(tmp_path, update=True)(moved(("stock", 61, 65)))
    assert path.read_text() == BASKET
    with pytest.raises(AssertionError, match=r"the trace is not as in test_basket-1\.txt"):
        kept(tmp_path)(bent("tax", kind="client"))
    kept(tmp_path, update=True)(bent("tax", kind="client"))
    assert "tax [client]" in path.read_text()
    kept(tmp_path, update=True)(basket(), "another")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["another.txt", "test_basket-1.txt"]


def test_budgets_are_held_only_where_that_is_asked_for(tmp_path: Path) -> None:
    """Time is another machine's business by default."""
    kept(tmp_path, update=True)(basket(), budgets={"query": 0.01})
    with pytest.raises(AssertionError, match="query took 15% of GET /basket, may take 1%"):
        kept(tmp_path, with_budgets=True)(basket(), budgets={"query": 0.01})
    kept(tmp_path, with_budgets=True)(basket(), budgets={"query": 0.2})


EXPORT = """{"batches": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
 "scopeSpans": [{"spans": [
  {"traceId": "%(trace)s", "spanId": "00000000000000a1", "name": "GET /a", "startTimeUnixNano": "1",
   "endTimeUnixNano": "9", "attributes": [{"key": "user.id", "value": {"stringValue": "ada-1815"}}]},
  {"traceId": "%(trace)s", "spanId": "00000000000000a2", "parentSpanId": "%(parent)s", "name": "query",
   "startTimeUnixNano": "2", "endTimeUnixNano": "3"}]}]}]}"""


def exported(folder: Path, *, parent: str = "00000000000000a1", traces: int = 1) -> Path:
    """A file with so many traces of two spans."""
    path = folder / "trace.json"
    documents = (EXPORT % {"trace": f"{number:032x}", "parent": parent} for number in range(10, 10 + traces))
    path.write_text("\n".join(document.replace("\n", "") for document in documents))
    return path


@pytest.mark.parametrize(
    ("program", "part"),
    [
        (Program(command="python -m shop 'a b'"), 'COMMAND = ["python", "-m", "shop", "a b"]'),
        (Program(call="shop.main:run"), "from shop.main import run\n"),
        (Program(agent="shop:agent", input_value='a "b"'), 'run = served.run("user-1", "a \\"b\\"")'),
        (Program(), 'raise NotImplementedError("say here how your program is run")'),
    ],
)
def test_an_exported_trace_becomes_a_golden_file_and_a_test_that_can_be_run(
    program: Program, part: str, tmp_path: Path
) -> None:
    """Whichever way the program is run; nobody's id is in what is written."""
    written = import_golden(exported(tmp_path), tmp_path / "tests", program)
    assert (written.test.name, written.spans) == ("test_get_a.py", 2)
    assert written.golden == tmp_path / "tests" / "test_get_a.traces" / "test_get_a.txt"
    assert "ada" not in written.golden.read_text()
    text = written.test.read_text()
    assert part in text
    compile(text, "test_get_a.py", "exec")
    assert "golden_trace(" in text


def test_an_import_that_cannot_be_right_is_refused(tmp_path: Path) -> None:
    """Several traces, none with that id, a trace that was cut, files that are there, a call that is none."""
    out = tmp_path / "tests"
    several = exported(tmp_path, traces=2)
    with pytest.raises(
        ImportRefusedError, match=r"it holds 2 traces; say which one by --trace-id:\n  0+a  2 spans, GET"
    ):
        import_golden(several, out, Program())
    with pytest.raises(ImportRefusedError, match="0 of its traces begin with 'ff'"):
        import_golden(several, out, Program(), trace_id="ff")
    import_golden(several, out, Program(), trace_id=f"{11:032x}")
    with pytest.raises(ImportRefusedError, match=r"test_get_a\.txt: there already; give another --name, or --force"):
        import_golden(exported(tmp_path), out, Program())
    import_golden(exported(tmp_path), out, Program(), force=True)
    assert import_golden(exported(tmp_path), out, Program(), name="Other one").test.name == "test_other_one.py"
    with pytest.raises(ImportRefusedError, match=r"query is an orphan.*\nexport it anew once it is whole"):
        import_golden(exported(tmp_path, parent="00000000000000ff"), out, Program(), name="cut")
    with pytest.raises(ImportRefusedError, match="--call shop: must be module:function"):
        import_golden(exported(tmp_path), out, Program(call="shop"), name="call")
    with pytest.raises(ImportRefusedError, match="--command python 'shop: No closing quotation; quote it as for a"):
        import_golden(exported(tmp_path), out, Program(command="python 'shop"), name="command")
    assert [path.stem for path in out.rglob("test_c*")] == []
