"""Mixtures of every structure that is computed without TensorFlow, for tests of the pieces that do so."""

from written_runs import CLASSES, K

from flowloom.trainers.conversion.growth import grown
from flowloom.trainers.models.lmmoe import LMMoE, shared_and_own

C = 3
MODELS = {
    "one expert": lambda: LMMoE(K, C, CLASSES, experts=1, units=5, tower=()),
    "flatten": lambda: LMMoE(K, C, CLASSES, experts=3, units=5, tower=(4, 3)),
    "mean": lambda: LMMoE(K, C, CLASSES, experts=2, units=5, gate_input="mean"),
    "mean, eight units": lambda: LMMoE(K, C, CLASSES, experts=2, units=8, gate_input="mean"),
    "first packet": lambda: LMMoE(K, C, CLASSES, experts=2, units=5, gate_input="first_packet"),
    "cgc": lambda: LMMoE(K, C, CLASSES, experts=4, units=5, sees=shared_and_own(CLASSES, 2, 1), gate_input="mean"),
    "dselect_k": lambda: LMMoE(K, C, CLASSES, experts=3, units=5, gating="dselect_k", selected=2),
    "grown": lambda: grown(LMMoE(K, C, CLASSES, experts=1, units=5), "late", 4),
}
