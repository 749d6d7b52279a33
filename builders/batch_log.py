"""What a server's Batch API has under way, in the journal, so that a later run collects it instead of paying again.

A batch is noted before anything is sent (`plan`), once more when the server has named it (`submitted`), and is struck
off when every line of it is in the journal (`end`). The note outlives it: which batch it was, and how it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builders.journal import now_ms

if TYPE_CHECKING:
    from builders.journal import Journal

_OPEN = "SELECT name, endpoint, model, requests, at_ms, batch_id, missed FROM batches WHERE ended IS NULL"


@dataclass(frozen=True)
class Submitted:
    """One batch that has not ended.

    Attributes:
        name: our own name for it, which the server keeps in the batch's metadata.
        requests: lines in it.
        at_ms: when it was planned (ms since 1970, UTC).
        batch_id: the server's name for it; None where a run ended before it was known.
        missed: how many runs have asked for it in vain, as the server did not know it.
    """

    name: str
    endpoint: str
    model: str
    requests: int
    at_ms: int
    batch_id: str | None
    missed: int = 0

    @property
    def age_s(self) -> float:
        """Seconds since it was planned."""
        return (now_ms() - self.at_ms) / 1000


class BatchLog:
    """The batches that a journal knows."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def plan(self, batch: Submitted, hashes: Sequence[str]) -> None:
        """Note a batch that is about to be sent, and its requests."""
        sql = "INSERT INTO batches (name, endpoint, model, requests, at_ms) VALUES (?, ?, ?, ?, ?)"
        values = (batch.name, batch.endpoint, batch.model, batch.requests, batch.at_ms)
        carried = "INSERT INTO batch_requests VALUES (?, ?)"
        self._journal.write([(sql, values), *((carried, (request, batch.name)) for request in hashes)])

    def submitted(self, name: str, batch_id: str) -> None:
        """Note what the server calls a batch."""
        self._journal.write([("UPDATE batches SET batch_id = ? WHERE name = ?", (batch_id, name))])

    def missed(self, name: str) -> None:
        """Note that the server does not know a batch, to this run's key at least."""
        self._journal.write([("UPDATE batches SET missed = missed + 1 WHERE name = ?", (name,))])

    def end(self, name: str, how: str) -> None:
        """Note that nothing more will come of a batch; requests in it without an answer may be sent anew."""
        ended = "UPDATE batches SET ended = ? WHERE name = ?"
        self._journal.write([(ended, (how, name)), ("DELETE FROM batch_requests WHERE batch = ?", (name,))])

    def open(self, endpoint: str, model: str) -> list[Submitted]:
        """The batches of a model that have not ended, oldest first."""
        sql = f"{_OPEN} AND endpoint = ? AND model = ? ORDER BY at_ms, name"
        return [Submitted(*row) for row in self._journal.rows(sql, endpoint, model)]

    def requests(self, name: str) -> set[str]:
        """The hashes of a batch's requests."""
        return {row[0] for row in self._journal.rows("SELECT request_hash FROM batch_requests WHERE batch = ?", name)}

    def under_way(self, request_hash: str) -> bool:
        """Whether a request is in a batch that has not ended."""
        return bool(self._journal.rows("SELECT 1 FROM batch_requests WHERE request_hash = ? LIMIT 1", request_hash))
