"""Automatic tasks name their ranges; the stored form of other tasks does not change."""

import pydantic
import pytest

from flowloom.schemas.corpus.tasks import Task


def automatic(dividers: dict, **fields) -> Task:
    return Task.model_validate(
        {"name": "pace", "kind": "auto", "quantity": "bandwidth", "dividers": dividers, **fields},
    )


def test_label_values_name_the_ranges_of_given_dividers():
    task = automatic({"method": "given", "at": [6.3, 20.955, 1_234_567]}, quantity="duration")
    assert task.vocabulary == ("below 6.3 s", "6.3 to 20.96 s", "20.96 to 1.235e+06 s", "from 1.235e+06 s")
    assert Task.model_validate(task.model_dump()) == task == Task.model_validate_json(task.model_dump_json())


def test_names_of_ranges_have_more_digits_where_dividers_are_near():
    task = automatic({"method": "given", "at": [1.00001, 1.00002]}, quantity="bursts")
    assert task.vocabulary == ("below 1.00001", "1.00001 to 1.00002", "from 1.00002")


def test_dividers_are_found_later():
    task = automatic({"method": "class-means", "reference": "app"})
    assert task.vocabulary == ()
    found = task.with_bins([3.0, 7.0])
    assert found.vocabulary == ("below 3 bit/s", "3 to 7 bit/s", "from 7 bit/s")
    assert found.dividers is not None
    assert (found.dividers.at, found.dividers.reference, found.dividers.method) == ((3.0, 7.0), "app", "class-means")
    named = automatic({"method": "class-means", "reference": "app"}, vocabulary=("slow", "fast"))
    assert named.with_bins([3.0]).vocabulary == ("slow", "fast")
    with pytest.raises(ValueError, match="must have 3 label values, one per class, got 2"):
        named.with_bins([3.0, 7.0])


def test_other_tasks_are_stored_without_fields_of_automatic_tasks():
    # content hashes of datasets depend on this form
    task = Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
    assert task.model_dump(mode="json") == {"name": "app", "kind": "multiclass", "vocabulary": ["web", "ssh"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dividers": {"method": "class-means"}}, "method: class-means need reference"),
        ({"dividers": {"method": "quantiles"}}, "method: quantiles need classes"),
        ({"dividers": {"method": "given"}}, "method: given need at"),
        ({"dividers": {"method": "given", "at": [1], "classes": 2}}, "take at, got classes; remove classes"),
        ({"dividers": {"method": "quantiles", "classes": 1}}, "greater than or equal to 2"),
        ({"dividers": {"method": "given", "at": [2, 1]}}, r"must be finite and ascending, got \[2.0, 1.0\]"),
        ({"dividers": {"method": "given", "at": [1, 1]}}, "ascend"),
        ({"dividers": {"method": "given", "at": [float("inf")]}}, "finite"),
        ({"dividers": {"method": "class-means", "reference": "pace"}}, "must be another task, got 'pace'"),
        ({"dividers": {"method": "quantiles", "classes": 3}, "vocabulary": ("a", "b")}, "must have 3 label values"),
        ({"dividers": {"method": "given", "at": ["a"]}}, "valid number"),
        ({"dividers": None}, "needs quantity and dividers"),
        ({"dividers": {"method": "quantiles", "classes": 3}, "quantity": None}, "needs quantity and dividers"),
        ({"dividers": {"method": "quantiles", "classes": 3}, "quantity": "speed"}, "'bandwidth', 'duration'"),
        ({"dividers": {"method": "quantiles", "classes": 3}, "kind": "binary"}, "need kind: auto, got kind: binary"),
    ],
)  # fmt: skip
def test_messages_name_the_invalid_field(fields, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        automatic(**fields)


def test_only_automatic_tasks_have_dividers_and_only_others_take_labels():
    with pytest.raises(ValueError, match="must be of kind auto to have label bins, got binary"):
        Task(name="attack", kind="binary").with_bins([1.0])
    with pytest.raises(ValueError, match="is measured and takes no labels, got 'slow'"):
        automatic({"method": "quantiles", "classes": 2}).index("slow")
