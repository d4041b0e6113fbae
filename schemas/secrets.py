"""Secrets in URLs: refused where a URL comes in, and masked in all text that goes out.

A URL of a manifest or a command is written into cards, tables and logs. One with a secret is therefore refused before
it is opened, whatever the secret is called: a query, a fragment or a parameter may have only names of `HARMLESS`.
Masking such a URL instead would give a dataset whose sources nobody can open again. Text of other libraries, which may
quote addresses of their own, is masked where it is printed or stored.
"""

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

HARMLESS = frozenset(
    ("alt", "dl", "download", "file", "filename", "format", "generation", "id", "name", "path", "raw", "ref", "version",
     "versionid")
)  # fmt: skip
"""Names of parameters that a URL may have, in lower case."""

MASK = "***"

_PARAMETER = re.compile(r"([?&;#])([^?&;#=/\s'\"]+)=([^&;#\s'\"<>]*)")
_USER = re.compile(r"(\w+)://([^/\s@'\"]*)@")
_NAMED = re.compile(
    r"""(?ix)
    (\b[\w.-]*(?:password|passwd|pwd|secret|token|credentials?|signature|api[_-]?key|access[_-]?key|\bauth|authorization)
    \b["']?\s*[=:]\s*["']?)
    (?!\*\*\*)[^\s&;,'"<>]+"""
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")


def url_fault(url: str) -> str | None:
    """Returns a sentence, without the secret, if a URL may have one; None for harmless URLs and for paths.

    A URL may have a secret if it has a user's name or a parameter that is not harmless.

    Args:
      url: a URL, a chain of URLs such as `simplecache::https://...`, or a path.
    """
    for part in url.split("::") if "://" in url else ():
        scheme, mark, rest = part.partition("://")
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        user = authority.rpartition("@")[0]
        names = [urllib.parse.unquote(found[2]) for found in _PARAMETER.finditer(rest)]
        if scheme in ("http", "https"):  # whose paths are no globs, so that ? begins a query
            names += [piece for piece in rest.partition("?")[2].split("&") if piece and "=" not in piece]
        unknown = any(name.lower() not in HARMLESS for name in names)
        named = bool(user and not _is_container(scheme, user)) or "@" in urllib.parse.unquote(authority) != authority
        if mark and (unknown or named):
            shown = re.split(r"[?#;]", without_secrets(part), maxsplit=1)[0]
            shown = f"{scheme}://{MASK}" if "%" in authority else shown
            return (
                f"{shown}: a URL of {scheme}:// must not carry credentials, as it is written into cards and logs, got "
                f"{'parameters' if unknown else 'a user name before @'}; take them out and put them into the "
                "environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...)"
            )
    return None


def without_secrets(text: str) -> str:
    """Returns text with `***` in place of users of URLs, values of parameters that are not harmless, and passwords."""
    if "=" not in text and ":" not in text and " " not in text:
        return text
    text = _USER.sub(_masked_user, text)
    text = _PARAMETER.sub(_masked, text) if "://" in text or "?" in text else text
    return _NAMED.sub(rf"\1{MASK}", _BEARER.sub(rf"\1 {MASK}", text))


def values_without_secrets(document: Any) -> Any:
    """Returns a document of JSON with all its texts as `without_secrets` returns them."""
    if isinstance(document, str):
        return without_secrets(document)
    if isinstance(document, Mapping):
        return {name: values_without_secrets(value) for name, value in document.items()}
    if isinstance(document, list | tuple):
        return [values_without_secrets(value) for value in document]
    return document


def _is_container(scheme: str, user: str) -> bool:
    """Returns whether the part before @ names a container, as in abfs://container@account."""
    return scheme in ("abfs", "abfss") and ":" not in user


def _masked_user(found: re.Match[str]) -> str:
    return found[0] if _is_container(found[1], found[2]) else f"{found[1]}://{MASK}@"


def _masked(found: re.Match[str]) -> str:
    before, name, value = found.groups()
    harmless = urllib.parse.unquote(name).lower() in HARMLESS
    return f"{before}{name}={value if harmless else MASK}"
