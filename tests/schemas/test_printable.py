"""Text for terminals has no character without a visible form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.schemas.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, 漢字 é", "plain text, 漢字 é"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u202etxt.exe\u2028", r"\u202etxt.exe\u2028"),
        ("name\udcff.pcap", r"name\xff.pcap"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_hidden_characters_are_escapes(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_the_text_is_visible_and_escaping_it_again_changes_nothing(text):
    shown = printable(text)
    assert printable(shown) == shown
    shown.encode()
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in shown)
