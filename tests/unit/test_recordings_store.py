"""A recording belongs to its user, is whole or not there, and makes room for newer ones."""

import os
import threading

import pytest

from tracewire.errors import TracewireError
from tracewire.runs.recordings import (
    ABANDONED_SECONDS,
    RECORDING_BYTES_MAX,
    Recording,
    RecordingStore,
    TooLargeError,
    UnknownRecordingError,
)


def files(tmp_path):
    return sorted(path for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("body", [b"", b"\n\n", b'{"name": 1}\n\x00\xff', bytes(range(256)) * 100])
def test_what_is_saved_is_loaded_byte_for_byte(tmp_path, body):
    store = RecordingStore(tmp_path)
    recording_id = store.save("ada", "trace.har", body)
    assert store.load("ada", recording_id) == Recording(name="trace.har", body=body)


def test_another_users_recording_reads_like_one_that_does_not_exist(tmp_path):
    store = RecordingStore(tmp_path)
    recording_id = store.save("ada", "n", b"x")
    absent = recording_id[:-1] + ("0" if recording_id[-1] != "0" else "1")
    told = []
    for user_id, wanted in (("bob", recording_id), ("ada", absent)):
        with pytest.raises(UnknownRecordingError) as raised:
            store.load(user_id, wanted)
        told.append(str(raised.value).replace(wanted, "ID"))
    assert told[0] == told[1]


@pytest.mark.parametrize("recording_id", ["", "sample", "../x", "/etc/passwd", "a" * 10_000, "\x00", "٠" * 36])
def test_an_id_that_is_none_is_unknown(tmp_path, recording_id):
    with pytest.raises(UnknownRecordingError):
        RecordingStore(tmp_path).load("ada", recording_id)


@pytest.mark.parametrize("user_id", ["..", "../../x", "/", "a\x00b", "", "\ud800", "ü" * 5000])
def test_no_user_id_leaves_the_folder(tmp_path, user_id):
    store = RecordingStore(tmp_path / "data")
    recording_id = store.save(user_id, "n", b"x")
    assert store.load(user_id, recording_id).body == b"x"
    [path] = files(tmp_path)
    assert path.is_relative_to(tmp_path / "data" / "recordings")
    assert len(path.parent.name) == 64


def test_ids_are_uuids_of_version_7_in_the_order_of_time(tmp_path):
    store = RecordingStore(tmp_path, per_user_max=50)
    ids = [store.save("ada", "n", b"") for _ in range(50)]
    assert ids == sorted(ids)
    assert {recording_id[14] for recording_id in ids} == {"7"}


def test_the_oldest_beyond_the_limit_are_removed_of_this_user_alone(tmp_path):
    store = RecordingStore(tmp_path, per_user_max=2)
    bobs = store.save("bob", "n", b"b")
    ids = [store.save("ada", "n", str(n).encode()) for n in range(4)]
    assert [store.load("ada", recording_id).body for recording_id in ids[2:]] == [b"2", b"3"]
    for recording_id in ids[:2]:
        with pytest.raises(UnknownRecordingError):
            store.load("ada", recording_id)
    assert store.load("bob", bobs).body == b"b"


def test_a_recording_that_is_too_large_is_refused_and_not_kept(tmp_path):
    store = RecordingStore(tmp_path, bytes_max=10)
    assert store.load("ada", store.save("ada", "n", b"x" * 10)).body == b"x" * 10
    with pytest.raises(TooLargeError, match=r"11 bytes; at most 10"):
        store.save("ada", "n", b"x" * 11)
    assert len(files(tmp_path)) == 1
    assert RecordingStore(tmp_path).bytes_max == RECORDING_BYTES_MAX == 16 * 1024 * 1024


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    store = RecordingStore(tmp_path)
    kept = store.save("ada", "n", b"x")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        store.save("ada", "n", b"y")
    [path] = files(tmp_path)
    assert path.name.startswith(kept)


def test_what_a_crash_left_half_written_is_removed_later_and_never_loaded(tmp_path):
    store = RecordingStore(tmp_path)
    recording_id = store.save("ada", "n", b"x")
    [path] = files(tmp_path)
    abandoned = path.with_name("019a4e33-ac04-79e3-8779-79b9806dc17c.unfinished")
    abandoned.write_bytes(b"half")
    with pytest.raises(UnknownRecordingError):
        store.load("ada", abandoned.stem)
    store.save("ada", "n", b"y")
    assert abandoned.exists()
    past = abandoned.stat().st_mtime - ABANDONED_SECONDS - 1
    os.utime(abandoned, (past, past))
    store.save("ada", "n", b"z")
    assert not abandoned.exists()
    assert store.load("ada", recording_id).body == b"x"


@pytest.mark.parametrize(("name", "kept"), [("a\nb\tc", "a b c"), ("", "recording"), ("n" * 999, "n" * 200)])
def test_a_name_is_made_fit_for_a_line(tmp_path, name, kept):
    store = RecordingStore(tmp_path)
    assert store.load("ada", store.save("ada", name, b"")).name == kept


def test_saves_of_one_user_from_several_threads_keep_to_the_limit(tmp_path):
    store = RecordingStore(tmp_path, per_user_max=3)
    threads = [threading.Thread(target=store.save, args=("ada", "n", b"x" * 1000)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(files(tmp_path)) <= 3


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_only_the_servers_user_can_read_recordings(tmp_path):
    RecordingStore(tmp_path).save("ada", "n", b"x")
    [path] = files(tmp_path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("limits", [{"bytes_max": 0}, {"per_user_max": 0}])
def test_limits_that_keep_nothing_are_refused(tmp_path, limits):
    with pytest.raises(ValueError, match="at least 1"):
        RecordingStore(tmp_path, **limits)


@pytest.mark.parametrize(
    ("error", "code"), [(TooLargeError, "recording_too_large"), (UnknownRecordingError, "unknown_recording")]
)
def test_errors_have_stable_codes(error, code):
    assert issubclass(error, TracewireError)
    assert error.code == code
