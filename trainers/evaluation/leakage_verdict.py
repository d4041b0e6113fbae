"""Verdict on leakage: one sentence on what test rows share with training rows, for the heads of pages."""

from flowloom.schemas.dataset.card_parts import Overlap
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.trainers.evaluation.page_units import percent


def leakage_verdict(card: DatasetCard, split: str, trained_on: str | None = None) -> str:
    """Returns one plain sentence on what the rows of a split share with the training rows.

    Args:
      card: card of the dataset of the split.
      split: the evaluated split.
      trained_on: content hash of the dataset of the training; None if it is this one.
    """
    if trained_on not in (None, card.content_hash):
        return "Leakage is not known: the model was trained on another dataset than the one of this evaluation."
    if split == "train":
        return "These are the training rows themselves, so the metrics do not show how well the model generalises."
    if card.leakage is None:
        return (
            "Leakage was not measured: the dataset's card does not say how many flows the "
            f"{split} split shares with the training data."
        )
    pairs, sequences = _share(card.leakage.host_pairs, split), _share(card.leakage.sequences, split)
    alike = f"{sequences} have the packet sizes and directions of a training flow"
    if pairs is None:
        return f"Of {split} flows, {alike}; the dataset keeps no addresses, so shared hosts are not known."
    return f"{pairs} of {split} flows share a host pair with training flows, and {alike}."


def _share(overlap: Overlap | None, split: str) -> str | None:
    """Returns the share of a split's flows whose item a training flow has; None without addresses."""
    return percent(overlap.flows_in_train[split], overlap.flows[split]) if overlap else None
