"""Words become label numbers; what a vocabulary lacks is unknown and counted."""

import pyarrow as pa

from flowloom.schemas.tasks import Task
from flowloom.transforms.words import foreign_words, label_words

APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
ATTACK = Task(name="attack", kind="binary")
ROWS = pa.record_batch({"bytes": [1, 2, 3, 4, 5], "word_app": ["ssh", "web", None, "ftp", "ftp"]})


def test_words_become_positions_in_the_vocabulary():
    labelled = label_words(ROWS, [APP, ATTACK])
    assert labelled.to_pydict() == {
        "bytes": [1, 2, 3, 4, 5],
        "label_app": [1, 0, None, None, None],
        "label_attack": [None] * 5,
    }
    assert labelled.schema.field("label_app").type == labelled.schema.field("label_attack").type == pa.int32()


def test_words_that_a_vocabulary_lacks_are_counted():
    assert foreign_words(ROWS, APP) == {"ftp": 2}
    assert foreign_words(ROWS.slice(0, 3), APP) == {}
    assert foreign_words(ROWS, ATTACK) == {}
