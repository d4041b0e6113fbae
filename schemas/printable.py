"""Text for terminals: names and labels of other people cannot send control sequences or reorder a line."""

import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of controls, invisible format characters (also of direction), surrogates, line and paragraph ends."""
_FIRST_RAW, _LAST_RAW = 0xDC80, 0xDCFF  # characters that stand for single bytes of names that are not UTF-8


def printable(text: str) -> str:
    """Returns text of one line in which every character without a visible form is an escape such as `\\x1b`.

    Bytes of file names that are not UTF-8 appear as `\\xff`.
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if _FIRST_RAW <= code <= _LAST_RAW:
        return f"\\x{code - 0xDC00:02x}"
    if short := {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character):
        return short
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
