"""Open what was published: the Parquet files of a workspace folder, or a dataset on the Hub through `datasets`.

Both hold the same tables (`schemas.tables`); a Hub dataset's configs are loaded when they are first needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from schemas.database import connect, sql_types
from schemas.errors import InputError, WorkspaceError
from schemas.parquet import completed
from schemas.tables import PURIFIED, QUESTIONS, RESPONSES, SPLITS, Table
from schemas.views import ANSWERS_OF_MANY_SAMPLES
from schemas.workspace import Workspace

if TYPE_CHECKING:
    import duckdb

RATIONALES = f"""
WITH answers AS ({ANSWERS_OF_MANY_SAMPLES})
SELECT question_id, teacher_id, r.rationale, r.predicted_answer AS answer
FROM answers JOIN responses r USING (question_id, teacher_id, sample_idx)
WHERE r.status = 'ok' AND r.rationale_chars > 0 AND list_contains($teachers, teacher_id)
ORDER BY question_id, teacher_id
"""


class Published:
    """A dataset to train on. ``name`` is its folder's or repository's."""

    def __init__(self, name: str, con: duckdb.DuckDBPyConnection, hub: _Hub | None = None) -> None:
        self.name, self._con, self._hub = name, con, hub

    @classmethod
    def open(cls, source: str | Path | Workspace, revision: str | None = None) -> Published:
        """Open a workspace, its folder, or a dataset on the Hub.

        Raises:
            InputError: it is neither, or the Hub does not show it.
            WorkspaceError: the folder is no workspace.
        """
        if isinstance(source, Workspace):
            return cls(source.path.name, connect(source))
        if Path(source).expanduser().exists():
            workspace = Workspace.open(source)
            return cls(workspace.path.name, connect(workspace))
        repo_id = str(source)
        if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
            raise WorkspaceError(
                f"there is no folder {source}: give a workspace, or the USER/NAME of a dataset on the Hub"
            )
        import duckdb

        return cls(repo_id, duckdb.connect(), _Hub(repo_id, revision))

    def questions(self, split: str) -> pa.Table:
        """The questions of a split, in their order.

        Raises:
            InputError: there are none.
        """
        self._need(QUESTIONS, "questions")
        found = self._con.sql("SELECT * FROM questions WHERE split = $1", params=[split]).to_arrow_table()
        if not len(found):
            there = {row[0] for row in self._con.execute("SELECT DISTINCT split FROM questions").fetchall()}
            has = ", ".join(s for s in SPLITS if s in there) or "none"
            raise InputError(f"{self.name} has no {split} questions (its splits: {has}): split_by_hash makes splits")
        return found.combine_chunks()

    def methods(self) -> list[str]:
        """The purifiers whose choice was published."""
        if self._hub:
            return [c.removeprefix("purified-") for c in self._hub.configs() if c.startswith("purified-")]
        return [row[0] for row in self._con.execute("SELECT DISTINCT method FROM purified ORDER BY 1").fetchall()]

    def teachers(self) -> list[str]:
        """The teachers whose responses were published."""
        self._need(RESPONSES, "responses")
        return [row[0] for row in self._con.execute("SELECT DISTINCT teacher_id FROM responses ORDER BY 1").fetchall()]

    def purified(self, method: str) -> list[dict[str, Any]]:
        """What a purifier kept: question_id, teacher_id, rationale, answer, and the weights that it stored."""
        self._need(PURIFIED, f"purified-{method}")
        columns = "question_id, teacher_id, rationale, predicted_answer AS answer, agreement_weight, teacher_importance"
        found = self._con.sql(f"SELECT {columns} FROM purified WHERE method = $1", params=[method])
        return found.to_arrow_table().to_pylist()  # type: ignore[no-any-return]

    def rationales(self, teachers: Sequence[str]) -> list[dict[str, Any]]:
        """Each teacher's one rationale per question: question_id, teacher_id, rationale, answer."""
        self._need(RESPONSES, "responses")
        found = self._con.sql(RATIONALES, params={"teachers": list(teachers)}).to_arrow_table()
        return found.to_pylist()  # type: ignore[no-any-return]

    def _need(self, table: Table, config: str) -> None:
        if self._hub:
            self._hub.need(self._con, table, config)


class _Hub:
    """The configs of a dataset on the Hub, loaded into DuckDB by need."""

    def __init__(self, repo_id: str, revision: str | None) -> None:
        self.repo_id, self.revision = repo_id, revision
        self.loaded: dict[str, str] = {}
        self._configs: list[str] | None = None

    def configs(self) -> list[str]:
        """The names of all configs."""
        import datasets

        if self._configs is None:
            try:
                self._configs = datasets.get_dataset_config_names(self.repo_id, revision=self.revision)
            except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
                raise InputError(
                    f"there is no dataset {self.repo_id} here or on the Hub, or you may not see it: check the name, "
                    f"the connection and the token  ({' '.join(str(error).split())[:160]})"
                ) from None
        return self._configs

    def need(self, con: duckdb.DuckDBPyConnection, table: Table, config: str) -> None:
        """Have the rows of a config in the view of their table."""
        if self.loaded.get(table.name) == config:
            return
        import datasets

        if config not in self.configs():
            con.register(table.name, table.arrow.empty_table())
            return
        parts = datasets.load_dataset(self.repo_id, config, revision=self.revision)
        rows = pa.concat_tables([parts[split].data.table for split in SPLITS if split in parts])
        missing = [field.name for field in table.fields if not field.null and field.name not in rows.column_names]
        if missing:
            raise InputError(
                f"{self.repo_id}, config {config}: there is no column '{missing[0]}', so raffinate did not make it"
            )
        con.register(f"{table.name}_rows", completed(rows, table).replace_schema_metadata(None))
        columns = ", ".join(f'"{name}"::{kind} AS "{name}"' for name, kind in sql_types(table).items())
        con.execute(f"CREATE OR REPLACE VIEW {table.name} AS SELECT {columns} FROM {table.name}_rows")
        self.loaded[table.name] = config
