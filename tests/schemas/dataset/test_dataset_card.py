"""A card is read whole or not at all, and the message says how to get one."""

import json

import pytest

from flowloom.schemas.dataset.dataset_card import CARD, read_card, shard_path
from flowloom.schemas.errors import FlowloomError


def test_paths_name_stripe_split_and_shard():
    assert shard_path("flows", "app", "train", 3, 16) == "flows/task=app/split=train/part-00003-of-00016.parquet"
    assert shard_path("flows", None, "test", 0, 1) == "flows/split=test/part-00000-of-00001.parquet"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the directory exists but was not finished"),
        ("{", "is not JSON"),
        ("[]", "format_version must be 1, got none"),
        (json.dumps({"format_version": 2}), "format_version must be 1, got 2"),
        (json.dumps({"format_version": 1, "name": 3}), "is damaged at"),
    ],
)
def test_unreadable_cards_are_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / CARD).write_text(text)
    with pytest.raises(FlowloomError, match=message):
        read_card(tmp_path)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(FlowloomError, match=r"there is no such directory.*make one with `flowloom build`"):
        read_card(tmp_path / "none")
