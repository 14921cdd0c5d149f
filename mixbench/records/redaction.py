"""Keep keys and passwords out of what is written."""

import re
from typing import Any

REDACTED = "***"
_SECRET = re.compile("key|token|secret|password", re.IGNORECASE)


def redact(content: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested plain content without its secrets.

    Args:
        content: Nested dicts and lists.

    Returns:
        The same with ``***`` for every text at or below a key that contains ``key``, ``token``,
        ``secret`` or ``password``. Numbers stay, as ``token_weight: 0.5`` is no secret.
    """
    return _scrubbed(content, hide=False)


def _scrubbed(value: Any, *, hide: bool) -> Any:
    if isinstance(value, dict):
        return {
            k: _scrubbed(v, hide=hide or bool(_SECRET.search(str(k)))) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [_scrubbed(item, hide=hide) for item in value]
    return REDACTED if hide and isinstance(value, str) and value else value
