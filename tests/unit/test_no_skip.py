"""The plugin that enforces `no_skip`: what fails a run, and what may be left out of it."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

MARKED = """
    import pytest
    pytestmark = pytest.mark.no_skip
    def test_kept():
        pass
    @pytest.mark.parametrize("n", [1, 2])
    def test_counted(n):
        pass
"""
OTHER = """
    import pytest
    def test_other():
        pass
    @pytest.mark.slow
    class TestSome:
        @pytest.mark.no_skip
        def test_inside(self):
            pass
        def test_beside(self):
            pass
"""


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading every installed plugin anew would take each of the runs below a second."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project of two files with four tests that must not be left out."""
    pytester.makeini("[pytest]\nmarkers = slow: slow\n")
    pytester.makepyfile(test_marked=MARKED, test_other=OTHER)
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> tuple[int, list[str]]:
    """The exit code, and what the plugin said."""
    result = project.runpytest_inprocess("-p", "no_skip", "-p", "no:cacheprovider", *arguments)
    lines = result.outlines
    starts = [number for number, line in enumerate(lines) if "tests that must not be left out" in line]
    said = lines[starts[0] + 1 :] if starts else []
    end = next((number for number, line in enumerate(said) if line.startswith("=") or not line), len(said))
    return int(result.ret), said[:end]


def test_a_run_of_everything_passes(project: pytest.Pytester) -> None:
    """Nothing is left out, nothing is said."""
    assert run(project) == (0, [])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("pytest.skip('not today')", "was skipped (not today)"),
        ("pytest.xfail('known')", "is expected to fail"),
        ("pytest.importorskip('no_such_module')", "was skipped (could not import 'no_such_module'"),
    ],
)
def test_a_test_that_leaves_itself_out_fails_the_run(project: pytest.Pytester, body: str, why: str) -> None:
    """A skip, or an expected failure, from inside the test."""
    project.makepyfile(test_third=f"import pytest\n@pytest.mark.no_skip\ndef test_it():\n    {body}\n")
    code, said = run(project)
    assert (code, len(said)) == (1, 1), said
    assert said[0].startswith(f"test_third.py::test_it {why}")


@pytest.mark.parametrize(
    ("mark", "why"),
    [
        ("skip(reason='later')", "was skipped (later)"),
        ("skipif(True, reason='no part')", "was skipped (no part)"),
        ("xfail(reason='known')", "is expected to fail"),
    ],
)
def test_a_mark_that_leaves_the_test_out_fails_the_run(project: pytest.Pytester, mark: str, why: str) -> None:
    """A skip, or an expected failure, by a mark; also where the test passes all the same."""
    project.makepyfile(
        test_third=f"import pytest\n@pytest.mark.{mark}\n@pytest.mark.no_skip\ndef test_it():\n    assert True\n"
    )
    assert run(project) == (1, [f"test_third.py::test_it {why}"])


def test_an_xfail_that_fails_is_left_out_too(project: pytest.Pytester) -> None:
    """The outcome that xfail is made for."""
    project.makepyfile(
        test_third="import pytest\n@pytest.mark.xfail\n@pytest.mark.no_skip\ndef test_it():\n    assert 0\n"
    )
    assert run(project) == (1, ["test_third.py::test_it is expected to fail"])


def test_deselecting_by_marker_fails_the_run_and_names_each(project: pytest.Pytester) -> None:
    """`-m` is no asking by name: whoever wrote it may not know what goes with it."""
    assert run(project, "-m", "slow") == (
        1,
        [
            "test_marked.py::test_counted[1] was deselected",
            "test_marked.py::test_counted[2] was deselected",
            "test_marked.py::test_kept was deselected",
        ],
    )
    assert run(project, "-m", "not slow") == (1, ["test_other.py::TestSome::test_inside was deselected"])


def test_deselecting_by_node_id_fails_the_run(project: pytest.Pytester) -> None:
    """`--deselect` leaves out; it does not ask for."""
    assert run(project, "--deselect", "test_marked.py::test_counted[2]") == (
        1,
        ["test_marked.py::test_counted[2] was deselected"],
    )


@pytest.mark.parametrize("arguments", [("--ignore=test_marked.py",), ("-o", "python_files=test_o*.py")])
def test_a_file_that_is_not_collected_fails_the_run(project: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    """An ignored file, and one whose name pytest is not told to look for."""
    assert run(project, *arguments) == (
        1,
        ["test_marked.py::test_counted was not collected", "test_marked.py::test_kept was not collected"],
    )


@pytest.mark.parametrize(
    "head", ["pytest.skip('whole', allow_module_level=True)", "pytest.importorskip('no_such_module')"]
)
def test_a_skip_of_the_whole_module_fails_the_run(project: pytest.Pytester, head: str) -> None:
    """None of its tests exists for pytest; the source owes them."""
    project.makepyfile(test_third=f"import pytest\n{head}\n@pytest.mark.no_skip\ndef test_it():\n    pass\n")
    assert run(project) == (1, ["test_third.py::test_it was not collected"])


def test_a_test_without_any_parameter_set_fails_the_run(project: pytest.Pytester) -> None:
    """An empty list of values makes it one skipped test."""
    project.makepyfile(
        test_third="import pytest\n@pytest.mark.no_skip\n@pytest.mark.parametrize('n', [])\ndef test_it(n):\n    pass\n"
    )
    code, said = run(project)
    assert (code, len(said)) == (1, 1)
    assert said[0].startswith("test_third.py::test_it[NOTSET] was skipped (got empty parameter set")


def test_a_run_that_collects_nothing_fails(pytester: pytest.Pytester) -> None:
    """An empty folder, and a folder whose tests are all deselected by name."""
    assert run(pytester) == (1, ["nothing was run: no test was collected"])
    pytester.makepyfile(test_some="def test_it():\n    pass\n")
    assert run(pytester) == (0, [])
    assert run(pytester, "-k", "no_such_name") == (1, ["nothing was run: no test was collected"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("-k", "test_other"),
        ("-k", "test_kept"),
        ("test_other.py",),
        ("test_marked.py",),
        ("test_marked.py::test_kept",),
        ("test_marked.py::test_counted[1]",),
        ("test_other.py::TestSome",),
        ("test_other.py::TestSome::test_beside", "test_marked.py::test_kept"),
    ],
)
def test_a_subset_by_name_is_what_was_asked_for(project: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    """`-k`, a path, a node id: what is outside is not owed."""
    assert run(project, *arguments) == (0, [])


def test_what_is_inside_the_subset_is_owed(project: pytest.Pytester) -> None:
    """A path on the command line does not excuse what `-m` or a skip then leaves out of it."""
    assert run(project, "test_other.py", "-m", "not slow") == (
        1,
        ["test_other.py::TestSome::test_inside was deselected"],
    )
    project.makepyfile(test_third="import pytest\n@pytest.mark.no_skip\ndef test_it():\n    pytest.skip('no')\n")
    assert run(project, "-k", "test_it") == (1, ["test_third.py::test_it was skipped (no)"])
    folder = project.mkdir("nested")
    Path("test_third.py").rename(folder / "test_third.py")
    assert run(project, "nested") == (1, ["nested/test_third.py::test_it was skipped (no)"])


def test_a_failing_test_is_not_left_out(project: pytest.Pytester) -> None:
    """It ran; so did one whose fixture failed, and one behind `-x` is not complained of."""
    project.makepyfile(
        test_first="""
        import pytest
        @pytest.fixture
        def broken():
            raise RuntimeError
        @pytest.mark.no_skip
        def test_fails():
            assert False
        @pytest.mark.no_skip
        def test_errs(broken):
            pass
        """
    )
    assert run(project) == (1, [])
    assert run(project, "-x") == (1, [])


def test_listing_the_tests_is_no_run_of_them(project: pytest.Pytester) -> None:
    """`--collect-only` owes nothing."""
    assert run(project, "--collect-only", "-m", "slow") == (0, [])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (0, [])),
        (("-m", "not slow"), (1, ["test_other.py::TestSome::test_inside was deselected"])),
        (("--ignore=test_other.py",), (1, ["test_other.py::TestSome::test_inside was not collected"])),
    ],
)
def test_it_holds_with_several_workers_too(
    project: pytest.Pytester, arguments: tuple[str, ...], expected: tuple[int, list[str]]
) -> None:
    """Under pytest-xdist collection and runs happen in other processes."""
    assert run(project, "-p", "xdist", "-n", "2", *arguments) == expected
