"""raffinate: many teacher LLMs in, one purified rationale per question out, and a student that shows it was worth it.

    import raffinate as rf

    workspace = rf.Workspace.open("my-dataset")
    corpus = rf.Corpus.of(workspace)
    rf.publish(workspace, rf.method("majority")())
    for row in rf.evaluate(corpus, [rf.method("plackett-luce")(gamma=100)]):
        print(row.method, row.accuracy, row.gap_closed)

Everything here is loaded when it is first used, so importing raffinate is quick and needs no optional package.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "schemas.corpus": ("Corpus",),
    "schemas.database": ("connect", "query"),
    "schemas.errors": ("InputError", "MissingExtraError", "RaffinateError", "TeacherError", "WorkspaceError"),
    "schemas.tables": ("CALLS", "PURIFIED", "QUESTIONS", "REJECTED", "RESPONSES", "STUDENTS"),
    "schemas.workspace": ("Workspace",),
    "builders.asker": ("Asker",),
    "builders.build": ("build", "estimate", "retry", "status"),
    "builders.importer": ("Selection", "read_corpus"),
    "builders.prompt": ("Prompt",),
    "builders.read_answer": ("read_answer",),
    "builders.sandbox": ("Fault", "SandboxServer", "SandboxTeacher", "questions as sandbox_questions"),
    "builders.sources": ("QuestionSource", "load_questions"),
    "builders.teacher": ("Params", "Price", "Teacher"),
    "purifiers.base": ("Purified", "Purifier", "Signal", "Synthesis"),
    "purifiers.equipment": ("Equipment", "Student"),
    "purifiers.evaluate": ("Evaluation", "evaluate"),
    "purifiers.registry": ("method",),
    "purifiers.run": ("purify",),
    "purifiers.store": ("load", "save"),
    "distill.data": ("Examples", "Questions", "read_examples", "read_questions"),
    "distill.evaluate": ("evaluate as evaluate_student",),
    "distill.model": ("StudentModel", "load_student", "make_student", "student_of"),
    "distill.one": ("distil",),
    "distill.protocol": ("student_for",),
    "distill.source": ("Published",),
    "distill.spec": ("StudentSpec", "Training"),
    "distill.train": ("train as train_student",),
    "cards.card": ("write_card",),
    "cards.pull": ("pull",),
    "cards.push": ("push",),
    "cards.report": ("write_report",),
    "cards.spec": ("CardSpec",),
    "cards.verify": ("verify",),
    "raffinate.compare_command": ("compare_students",),
    "raffinate.publishing": ("publish",),
    "raffinate.recipe": ("Recipe", "load_recipe"),
    "raffinate.run": ("run",),
}
_HOME = {
    name.split(" as ")[-1]: (module, name.split(" as ")[0]) for module, names in _EXPORTS.items() for name in names
}
__all__ = sorted([*_HOME, "__version__"])  # noqa: PLE0605  a list of strings, computed

_PACKAGES = ("schemas", "builders", "purifiers", "distill", "cards")


def _refuse_intruders() -> None:
    """Fail at once if another package takes the name of one of ours, naming where it lies."""
    ours = Path(__file__).resolve().parent.parent
    for name in _PACKAGES:
        spec = find_spec(name)
        found = [Path(p).resolve() for p in (spec.submodule_search_locations or [])] if spec else []
        if ours / name not in found:
            where = found[0] if found else (spec.origin if spec else "nowhere")
            raise ImportError(
                f"raffinate's package '{name}' is shadowed by {where}: rename that, or install raffinate as an "
                "application in an environment of its own (uv tool install raffinate)"
            )


_refuse_intruders()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'raffinate' has no attribute '{name}'")
    module, attribute = _HOME[name]
    value = getattr(import_module(module), attribute)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return __all__
