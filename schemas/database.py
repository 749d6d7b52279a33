"""SQL over a workspace: a locked-down connection for questions, and the DuckDB file that anyone can open.

Views are over the Parquet files, by absolute path (DuckDB resolves a relative one against the reader's working
directory); `refresh` rewrites them, so a moved workspace is put right by the next command that writes.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from schemas import views
from schemas.errors import InputError, WorkspaceError
from schemas.parquet import read_schema
from schemas.tables import CALLS, PURIFIED, QUESTIONS, REJECTED, RESPONSES, STUDENTS, Table
from schemas.workspace import told_disk_errors

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from schemas.workspace import Workspace

SOURCES: tuple[tuple[Table, str], ...] = (
    (QUESTIONS, "questions/*.parquet"),
    (RESPONSES, "responses/*/*.parquet"),
    (PURIFIED, "purified/*/*.parquet"),
    (REJECTED, "rejected/*/*.parquet"),
    (CALLS, "calls/*/*.parquet"),
    (STUDENTS, "students/*.parquet"),
)

MARK = "made by raffinate of files "


def connect(workspace: Workspace, *, memory: str | None = None) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB with the views of the workspace; for our own code, not locked down.

    Args:
        workspace: the workspace to query.
        memory: DuckDB's memory limit, such as ``"1GB"``; beyond it DuckDB spills to ``.raffinate/spill``.
    """
    import duckdb

    con = duckdb.connect()
    spill = workspace.private / "spill"
    con.execute(f"SET temp_directory = {quote(str(spill))}")
    con.execute("SET enable_external_file_cache = false")  # files are read once: do not keep them in memory
    if memory:
        con.execute(f"SET memory_limit = {quote(memory)}")
    create_views(con, workspace.path)
    return con


def connect_locked(workspace: Workspace) -> duckdb.DuckDBPyConnection:
    """Open the views for somebody else's SQL: no network, no file outside the workspace, no change of settings."""
    con = connect(workspace)
    roots = {str(workspace.path), no_glob(workspace.path)}  # it checks the pattern, then each file that it names
    folders = ", ".join(quote(f"{root}/{pattern.split('/')[0]}/") for root in sorted(roots) for _, pattern in SOURCES)
    con.execute(f"SET allowed_directories = [{folders}]")
    con.execute("SET enable_external_access = false")
    con.execute("SET python_enable_replacements = false")  # `FROM x` must not reach a Python variable x
    con.execute("SET lock_configuration = true")
    return con


def query(workspace: Workspace, sql: str) -> pa.Table:
    """Run one read-only statement over the views and return its rows.

    Raises:
        InputError: it is not one statement that reads, or DuckDB refuses it; the message carries DuckDB's.
    """
    import duckdb

    try:
        with connect_locked(workspace) as con:
            statements = con.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise InputError("one SELECT (or FROM, DESCRIBE, SUMMARIZE) statement can be run, nothing that writes")
            return con.sql(statements[0]).to_arrow_table()
    except duckdb.Error as error:
        said = re.split(r"\n\s*LINE \d+:", str(error))[0]  # without the picture of where: one sentence
        raise InputError(f"SQL: {' '.join(said.split())}") from None


def create_views(con: duckdb.DuckDBPyConnection, root: Path) -> None:
    """Create every view over the Parquet files below ``root``; a table without files is an empty view."""
    for table, pattern in SOURCES:
        con.execute(f"CREATE OR REPLACE VIEW {table.name} AS {_over_files(table, root, pattern)}")
    con.execute(f"CREATE OR REPLACE VIEW answers AS {_answers(con)}")
    for name, (_, body) in views.VIEWS.items():
        con.execute(f"CREATE OR REPLACE VIEW {name} AS {body}")


def _over_files(table: Table, folder: Path, pattern: str) -> str:
    """The SELECT over a table's files; without any it gives no rows."""
    if not any(folder.glob(pattern)):
        return _empty(table)
    kinds = sql_types(table)
    late = {f.name for f in table.fields if f.null} - _columns(table, folder, pattern)  # columns of a newer raffinate
    columns = ", ".join(f'NULL::{kinds[n]} AS "{n}"' if n in late else f'"{n}"' for n in table.names)
    return f"SELECT {columns} FROM read_parquet({quote(f'{no_glob(folder)}/{pattern}')}, union_by_name = true)"


def _columns(table: Table, folder: Path, pattern: str) -> set[str]:
    """The columns that some file has: an older one may lack newer columns.

    The files of a folder are written together, so the first tells; but each student's is written by itself.
    """
    files = sorted(folder.glob(pattern), reverse=True)
    first = files if table is STUDENTS else {file.parent: file for file in files}.values()
    return {name for file in first for name in read_schema(file).names}


def no_glob(folder: Path) -> str:
    """The folder for DuckDB where it takes a pattern: what looks like one in its name stands for itself."""
    return re.sub(r"[*?\[]", r"[\g<0>]", str(folder))


def _empty(table: Table) -> str:
    columns = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in sql_types(table).items())
    return f"SELECT {columns} WHERE false"


def _answers(con: duckdb.DuckDBPyConnection) -> str:
    most = con.execute("SELECT max(sample_idx) FROM responses").fetchone()
    several = most is not None and most[0] is not None and most[0] > 0
    return views.ANSWERS_OF_MANY_SAMPLES if several else views.ANSWERS_OF_ONE_SAMPLE


@cache
def sql_types(table: Table) -> dict[str, str]:
    """The DuckDB type of each field, as DuckDB itself maps the Arrow type."""
    import duckdb

    con = duckdb.connect()
    con.register("described", table.arrow.empty_table())
    return dict(con.execute("SELECT column_name, column_type FROM (DESCRIBE described)").fetchall())


def refresh(workspace: Workspace) -> None:
    """Bring ``raffinate.duckdb`` up to date: views, and one table ``purified_<method>`` per method. Needs the lock.

    Raises:
        WorkspaceError: another program has the file open, it is damaged, or the disk is full.
    """
    import duckdb

    with told_disk_errors(workspace.path):
        try:
            con = duckdb.connect(str(workspace.database))
        except duckdb.Error as error:
            says = f"(Parquet files are up to date; DuckDB says: {str(error).splitlines()[0]})"
            is_held = "lock" in str(error)
            problem = (
                "is open in another program: close it" if is_held else "cannot be opened: remove it, nothing is lost"
            )
            again = f"run  raffinate sql {workspace.path.name} --refresh"
            raise WorkspaceError(f"{workspace.database} {problem} and {again}  {says}") from None
        with con:
            create_views(con, workspace.path)
            _sync_purified_tables(con, workspace)


def _sync_purified_tables(con: duckdb.DuckDBPyConnection, workspace: Workspace) -> None:
    wanted = {table_name(method): workspace.purified_dir(method) for method in workspace.methods()}
    sql = "SELECT table_name, comment FROM duckdb_tables() WHERE starts_with(comment, $1)"
    found = dict(con.execute(sql, [MARK]).fetchall())
    for name in found.keys() - wanted.keys():
        con.execute(f'DROP TABLE "{name}"')
    for name, folder in wanted.items():
        stamp = _stamp(folder)
        if found.get(name) != stamp:
            con.execute(f'CREATE OR REPLACE TABLE "{name}" AS {_over_files(PURIFIED, folder, "*.parquet")}')
            con.execute(f"COMMENT ON TABLE \"{name}\" IS '{stamp}'")


def _stamp(folder: Path) -> str:
    """The comment of our table: tells it from a user's own, and changes whenever the files of the folder do."""
    facts = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(folder.glob("*.parquet"))]
    return MARK + hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def table_name(method: str) -> str:
    """``purified_plackett_luce`` for ``plackett-luce``: a name that needs no quotes in SQL."""
    return "purified_" + "".join(c if c.isalnum() else "_" for c in method)


def quote(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
