"""Jobs in Python make what their commands make."""

import pytest

import flowloom as fl
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.errors import FlowloomError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def built(corpus, manifest, tmp_path_factory):
    """A dataset that `fl.build` built."""
    (corpus / "api.yaml").write_text(manifest)
    seen = []
    ds = fl.build(corpus / "api.yaml", tmp_path_factory.mktemp("api") / "dataset", workers=1, progress=seen.append)
    assert seen[-1].event == "card"
    return ds


def test_a_build_is_that_of_the_command(built, corpus, tmp_path):
    from flowloom.pipelines.cli.main import main

    with pytest.raises(SystemExit) as exit_:
        main(["build", str(corpus / "api.yaml"), str(tmp_path / "of-command"), "--workers", "1"])
    assert exit_.value.code == 0
    assert isinstance(built, fl.Dataset)
    assert built.card == read_card(tmp_path / "of-command")


def test_a_converted_dataset_has_the_labels_of_the_first(built, tmp_path):
    striped = fl.weave([built], tmp_path / "striped", "rainbow", workers=1)
    assert {shard.task for shard in striped.card.shards} == {"app", "attack"}
    again = fl.weave([striped.root], tmp_path / "again", "aurora", name="again", workers=1)
    assert again.card.name == "again"
    columns = ["flow_id", "label_app", "label_attack"]
    for split in built.splits:
        rows, expected = (ds.scan(split).select(columns).collect().sort("flow_id") for ds in (again, built))
        assert rows.equals(expected)


def test_copies_are_verified_datasets(built, tmp_path):
    url = (tmp_path / "store").as_uri()
    fl.publish(built, url)
    fetched = fl.fetch(url, tmp_path / "fetched")
    assert fetched.card == built.card
    assert fl.verify(fetched).content_hash == fl.verify(built.root).content_hash == built.card.content_hash


def test_a_build_for_a_url_is_refused_with_the_way_to_do_it(corpus):
    with pytest.raises(FlowloomError, match=r"output must be a directory, got s3://x/y; .* copy it with fl\.publish"):
        fl.build(corpus / "api.yaml", "s3://x/y")
