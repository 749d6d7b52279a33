"""Read a YAML file that a person wrote; every mistake in it is one sentence with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from schemas.errors import InputError

_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(file: Path) -> Any:
    """What a YAML file holds.

    Raises:
        InputError: it cannot be read, is no YAML, or has a key twice in one mapping.
    """
    try:
        text = file.read_text(encoding="utf-8")
        return yaml.load(text, _Once)
    except FileNotFoundError:
        raise InputError(f"{file} is not there: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text ({error})") from None
    except yaml.MarkedYAMLError as error:
        raise InputError(f"{file} is no valid YAML: {_told(error, text)}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file} is no valid YAML: {' '.join(str(error).split())}") from None


class _Once(yaml.SafeLoader):
    """Refuses a key that is there twice: of the two, a SafeLoader takes the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before ``<<`` brings in the keys of others."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            first = seen.setdefault((key.tag, key.value), key.start_mark)
            if first is not key.start_mark:
                problem = f"the key '{key.value}' is there twice, first in line {first.line + 1}: keep one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return node


def _told(error: yaml.MarkedYAMLError, text: str) -> str:
    """Line and problem, without the text around it, which may hold a key."""
    mark = error.problem_mark or error.context_mark
    problem = " ".join(str(error.problem or error.context).split())
    if mark is None:
        return problem
    line = text.splitlines()[mark.line : mark.line + 1]
    hint = ': inside { } write it in quotes, "${NAME}"' if line and "${" in line[0] and "twice" not in problem else ""
    return f"line {mark.line + 1}: {problem}{hint}"
