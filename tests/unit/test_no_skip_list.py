"""The committed list of the tests that must not be left out: pytest really runs, as a process of its own."""

import re
from pathlib import Path
from typing import Final

import pytest

from no_skip import marked_tests

pytest_plugins = ["pytester"]

TESTS: Final = Path(__file__).resolve().parents[1]
CRITICAL: Final = """
    import pytest
    pytestmark = pytest.mark.no_skip
    def test_kept():
        pass
    @pytest.mark.parametrize("n", [1, 2])
    def test_counted(n):
        pass
"""
LIST: Final = """\
# A comment.

critical/test_chain.py::test_kept
critical/test_chain.py::test_counted[1]
critical/test_chain.py::test_counted[2]
"""
XDIST: Final = ("-p", "xdist", "-n", "2")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a list of three tests, in a folder of their own, beside another test."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    pytester.makeini(
        "[pytest]\ntestpaths = critical other\naddopts = -p no_skip -p no:cacheprovider --import-mode=importlib\n"
        "no_skip_list = no_skip.txt\n"
    )
    (pytester.path / "no_skip.txt").write_text(LIST)
    for folder, name, source in (("critical", "chain", CRITICAL), ("other", "some", "def test_it():\n    pass\n")):
        pytester.mkdir(folder)
        written = pytester.makepyfile(**{f"test_{name}": source})
        written.rename(pytester.path / folder / written.name)
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> tuple[int, list[str]]:
    """The exit code of a pytest process, and what the plugin said."""
    result = project.runpytest_subprocess(*arguments, timeout=60)
    said = "\n".join(result.outlines).partition("tests that must not be left out")[2].splitlines()[1:]
    end = next((number for number, line in enumerate(said) if line.startswith("=") or not line), len(said))
    return int(result.ret), said[:end]


def change(project: pytest.Pytester, before: str, after: str) -> None:
    """Change the source of the critical tests."""
    path = project.path / "critical" / "test_chain.py"
    source = path.read_text()
    assert before in source
    path.write_text(source.replace(before, after))


@pytest.mark.parametrize("workers", [(), XDIST], ids=["one process", "two workers"])
def test_a_run_of_all_that_is_listed_passes(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """Nothing is said of it."""
    assert run(project, *workers) == (0, [])


@pytest.mark.parametrize("workers", [(), XDIST], ids=["one process", "two workers"])
def test_a_renamed_test_fails_the_run(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """By its old name it is missed, by its new one it is to be listed."""
    change(project, "test_kept", "test_new_name")
    assert run(project, *workers) == (
        1,
        [
            "critical/test_chain.py::test_kept was not collected, and is in no_skip.txt",
            "critical/test_chain.py::test_new_name is marked no_skip, and not in no_skip.txt",
        ],
    )


@pytest.mark.parametrize("workers", [(), XDIST], ids=["one process", "two workers"])
def test_a_test_that_lost_its_marker_fails_the_run(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """It still runs; the next change could leave it out, and nobody would say so."""
    change(project, "pytestmark = pytest.mark.no_skip", "")
    listed = ("test_counted[1]", "test_counted[2]", "test_kept")
    assert run(project, *workers) == (
        1,
        [f"critical/test_chain.py::{name} is not marked no_skip any more" for name in listed],
    )


def test_a_deleted_test_fails_the_run(project: pytest.Pytester) -> None:
    """One of the file, one of its sets of parameters, and all sets."""
    missing = "was not collected, and is in no_skip.txt"
    change(project, "def test_kept():\n    pass", "")
    assert run(project) == (1, [f"critical/test_chain.py::test_kept {missing}"])
    change(project, "[1, 2]", "[1]")
    listed = ("test_counted[2]", "test_kept")
    assert run(project) == (1, [f"critical/test_chain.py::{name} {missing}" for name in listed])
    change(project, "[1]", "[]")
    code, said = run(project)
    assert code == 1
    assert {"test_counted[1]", "test_counted[2]", "test_kept"} <= {line.split(" ")[0].split("::")[1] for line in said}


def test_a_deleted_file_fails_the_run_and_so_does_its_folder(project: pytest.Pytester) -> None:
    """No source knows of its tests any more. Its folder is a path that pytest itself does not find."""
    (project.path / "critical" / "test_chain.py").unlink()
    listed = ("test_counted[1]", "test_counted[2]", "test_kept")
    expected = (1, [f"critical/test_chain.py::{name} was not collected, and is in no_skip.txt" for name in listed])
    assert run(project) == expected
    (project.path / "critical").rmdir()
    assert run(project) == expected


def test_a_subset_by_name_owes_what_is_listed_inside(project: pytest.Pytester) -> None:
    """Another file owes nothing; a test or one set of its parameters owes itself; `-k` owes what it selects."""
    assert run(project, "other") == (0, [])
    assert run(project, "critical/test_chain.py::test_counted[2]") == (0, [])
    assert run(project, "-k", "test_kept") == (0, [])
    change(project, "[1, 2]", "[1]")
    assert run(project, "critical/test_chain.py::test_kept") == (0, [])
    missing = "critical/test_chain.py::test_counted[2] was not collected, and is in no_skip.txt"
    assert run(project, "critical/test_chain.py::test_counted") == (1, [missing])


def test_a_list_that_is_not_there_fails_the_run(project: pytest.Pytester) -> None:
    """A list that was deleted, or is named otherwise than it is."""
    (project.path / "no_skip.txt").unlink()
    result = project.runpytest_subprocess(timeout=60)
    assert result.ret != 0
    assert "no_skip.txt" in result.stdout.str() + result.stderr.str()


def test_without_the_plugin_the_marker_does_not_exist(project: pytest.Pytester) -> None:
    """So that nothing runs where it is not enforced: pytest is strict about markers here."""
    result = project.runpytest_subprocess(
        "-o", "addopts=--strict-markers", "-o", "no_skip_list=", "-p", "no:cacheprovider", timeout=60
    )
    assert result.ret != 0
    assert re.search("'no_skip' not found in `markers`", result.stdout.str())


def test_the_list_of_this_project_is_what_its_sources_mark(pytestconfig: pytest.Config) -> None:
    """And a run of this project's tests reads it."""
    assert pytestconfig.getini("no_skip_list") == "tests/no_skip.txt"
    listed = {
        line.partition("[")[0]
        for line in (TESTS / "no_skip.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    marked = {
        f"{file.relative_to(TESTS.parent).as_posix()}::{name}"
        for file in TESTS.rglob("test_*.py")
        if "node_modules" not in file.parts
        for name in marked_tests(file)
    }
    assert marked == listed
