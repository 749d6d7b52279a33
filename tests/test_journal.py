"""The journal: what was committed is there after anything that may happen to the process or the file."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.journal import Answered, Failed, Journal, Record, cache_file
from schemas.errors import WorkspaceError
from schemas.workspace import Workspace


def answered(name: str, reply: bytes = b"{}") -> Answered:
    return Answered(name, "ok", reply, 1, 1.5, 10, 20, 1_700_000_000_000)


def failed(name: str) -> Failed:
    return Failed(name, "timeout", "no whole reply", None, 3, 1.5, 1_700_000_000_000)


def test_what_is_written_is_found_by_a_later_reader(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.keep(answered("a", b"\x00\xff"))
        journal.keep(failed("b"))
        journal.override([("a", 99)])
    with Journal(tmp_path / "j.sqlite") as journal:
        assert journal.find("a") == answered("a", b"\x00\xff")
        assert journal.find("b") == failed("b")
        assert journal.find("c") is None
        assert [journal.outcome(n) for n in "abc"] == ["ok", "failed:timeout", None]
        assert journal.overrides() == {"a": 99}
        assert journal.mean_completion_tokens() == 20


def test_an_answer_outlives_later_failures(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.keep(failed("a"))
        journal.keep(answered("a", b"1"))
        journal.keep(failed("a"))
        assert journal.find("a") == answered("a", b"1")
        journal.keep(answered("a", b"2"))
        assert journal.find("a") == answered("a", b"2")


def test_what_was_paid_in_vain_is_added_up(tmp_path: Path) -> None:
    def lost(prompt: int | None, completion: int | None) -> Failed:
        return Failed("a", "empty", "no content", b"{}", 1, 1.5, 5, False, prompt, completion)

    with Journal(tmp_path / "j.sqlite") as journal:
        for tokens in ((None, None), (3, 4), (None, None), (30, 40)):
            journal.keep(lost(*tokens))
        assert journal.find("a") == lost(33, 44)
        journal.keep(answered("a"))
        found = journal.find("a")
        assert isinstance(found, Answered) and (found.prompt_tokens, found.completion_tokens) == (43, 64)
        journal.keep(Answered("a", "ok", b"{}", 1, 1.5, None, 20, 5))  # a server that does not say is not guessed at
        found = journal.find("a")
        assert isinstance(found, Answered) and (found.prompt_tokens, found.completion_tokens) == (None, 64)


def known(journal: Journal) -> dict[str, Record | None]:
    return {name: journal.find(name) for name in "abc"}


record = st.builds(
    lambda name, ok, reply: answered(name, reply) if ok else failed(name),
    st.sampled_from("abc"),
    st.booleans(),
    st.binary(max_size=9),
)


@settings(deadline=None, max_examples=30)
@given(records=st.lists(record, max_size=12), cut=st.integers(0, 9000))
def test_a_torn_tail_loses_no_more_than_the_last_commits(
    records: list[Record], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A copy of the files whose write-ahead log lost its end is a prefix of the history."""
    folder = tmp_path_factory.mktemp("torn")
    states = [dict.fromkeys("abc")]
    with Journal(folder / "j.sqlite") as journal:
        for record in records:
            journal.keep(record)
            states.append(known(journal))
        copy = folder / "copy.sqlite"
        copy.write_bytes((folder / "j.sqlite").read_bytes())
        log = (folder / "j.sqlite-wal").read_bytes()
        (folder / "copy.sqlite-wal").write_bytes(log[: max(0, len(log) - cut)] if records else log)
    with Journal(copy) as torn:
        assert known(torn) in states


def test_a_record_is_on_disk_for_others_once_it_is_kept(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal, Journal(tmp_path / "j.sqlite") as other:
        for i in range(30):
            journal.keep(answered(str(i)))
            assert other.settled(str(i))


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.keep(answered("kept"))
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(WorkspaceError, match=r"the disk is full .* no answer that was kept is lost"):
            journal.keep(answered("too much", bytes(100_000)))
    with Journal(tmp_path / "j.sqlite") as journal:
        assert journal.settled("kept") and not journal.settled("too much")


def test_a_damaged_or_foreign_or_newer_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    path.write_bytes(b"this is no database, it is a text that somebody put here" * 100)
    with pytest.raises(WorkspaceError, match="damaged or no journal"):
        Journal(path)
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(WorkspaceError, match="newer raffinate"):
        Journal(path)
    with pytest.raises(WorkspaceError, match=r"cannot (write|use)"):
        Journal(tmp_path)


def test_the_cache_can_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path / "ws")
    monkeypatch.delenv("RAFFINATE_CACHE", raising=False)
    assert cache_file(workspace) == tmp_path / "ws/.raffinate/journal.sqlite"
    monkeypatch.setenv("RAFFINATE_CACHE", str(tmp_path / "env.sqlite"))
    assert cache_file(workspace) == tmp_path / "env.sqlite"
    assert cache_file(workspace, tmp_path / "given.sqlite") == tmp_path / "given.sqlite"
