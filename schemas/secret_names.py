"""Where a recipe may hold a secret, and how it refers to one instead."""

from __future__ import annotations

import re

SECRET_KEYS = frozenset({"api_key"})
"""Keys of a recipe whose value is a secret."""
SECRET_MAPPINGS = frozenset({"env"})
"""Mappings of a recipe whose every value may be a secret: the environment of a vLLM server."""
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""``${NAME}``: the environment variable that stands in place of a secret."""

_PARAMETER = r"[\w.-]*(?:key|token|secret|password|signature)(?![a-z])[\w.-]*|sig|code"  # not `keyword`, `max_tokens`
SECRET_PARAMETER = re.compile(_PARAMETER, re.IGNORECASE)
"""The name of a parameter in a URL's query that carries a key, at Azure's gateways and elsewhere."""
SECRET_IN_QUERY = re.compile(rf"([?&](?:{_PARAMETER})=)([^\s&#'\"]+)", re.IGNORECASE)
"""Such a parameter in a text, and its value."""
