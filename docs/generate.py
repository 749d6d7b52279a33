"""Write the pages that follow from the code: ``docs/tables.md`` and ``docs/cli.md``. Run it after changing either.

python docs/generate.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.tables import TABLES
from schemas.views import DESCRIPTIONS


def tables() -> str:
    """Every table with its fields, and the SQL views."""
    parts = [
        "# Tables",
        "What lies in the Parquet files of a workspace, and of a published dataset. Rows are joined on their keys, "
        "never by position. Every file carries `raffinate.schema_version` in its metadata.",
    ]
    for table in TABLES.values():
        key = ", ".join(f"`{name}`" for name in table.key)
        parts += [f"## {table.name}", f"{table.doc} Key: {key}.", table.markdown()]
    views = [f"| `{name}` | {about} |" for name, about in DESCRIPTIONS.items()]
    lines = "\n".join(["| view | rows |", "|---|---|", *views])
    parts += [
        "## SQL views",
        "What `raffinate sql` and `raffinate.duckdb` show; queries to start from: [sql.md](sql.md).",
        lines,
    ]
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Every command with its arguments and options."""
    import typer

    from raffinate.cli import app

    group: Any = typer.main.get_command(app)
    parts = [
        "# The `raffinate` command",
        group.help,
        "Exit codes: 0 done, 1 a mistake or an outage told in one sentence, 2 a wrong command line, 130 interrupted.",
    ]
    for name, command in group.commands.items():
        about, _, example = (command.help or "").partition("Example:")
        parts += [f"## {name}", about.strip(), *_example(example), _parameters(command)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _example(text: str) -> list[str]:
    """The examples of a help text as a block, what follows them as prose."""
    blocks = [b.strip() for b in f"Example:{text}".split("\n\n") if b.strip()]
    shown = [b.removeprefix("Example:").strip() for b in blocks if b.startswith("Example:")]
    prose = [" ".join(b.split()) for b in blocks if not b.startswith("Example:")]
    return ["```sh\n" + "\n".join(shown) + "\n```", *prose]


def _parameters(command: Any) -> str:
    rows = []
    for param in command.params:
        if param.name == "help":
            continue
        is_option = param.param_type_name == "option"
        names = ", ".join(f"`{o}`" for o in _spelled(param)) if is_option else f"`{param.name.upper()}`"
        shown = ",".join(param.default) if isinstance(param.default, list) else param.default
        default = f" Default: `{shown}`." if _has_default(param) else ""
        needed = " Required." if param.required and is_option else ""
        about = param.help if param.help.endswith(".") else f"{param.help}."
        rows.append(f"| {names} | {about}{default}{needed} |")
    return "\n".join(["| argument or option | |", "|---|---|", *rows]) if rows else ""


def _spelled(option: Any) -> list[str]:
    """How an option is written: with the word for its value, where it has one, and its opposite."""
    value = f" {option.metavar}" if option.metavar else ""
    return [f"{name}{value}" for name in (*option.opts, *option.secondary_opts)]


def _has_default(param: Any) -> bool:
    return isinstance(param.default, str | int | float | Path | list) and not isinstance(param.default, bool)


PAGES: dict[str, Callable[[], str]] = {"tables.md": tables, "cli.md": commands}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (Path(__file__).parent / page).write_text(make(), encoding="utf-8")
