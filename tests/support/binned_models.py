"""Models of packets in units of every structure, for tests of their other forms."""

from packets_in_units import FEATURES
from written_runs import CLASSES

from flowloom.trainers.models.lmmoe import LMMoE, shared_and_own
from flowloom.trainers.models.packets.flow_net import FlowNet

K = 6
MIXTURE = {"k": K, "channels": len(FEATURES), "tasks": CLASSES, "units": 8, "features": FEATURES, "embedding": 4}
POOLED = {"layers": 1, "mixing": "convolution", "attention_heads": 2, "pooling": ("mean", "max"), "first": 2}
NET = {"k": K, "features": FEATURES, "tasks": CLASSES, "width": 8, "readout": 6, "embedding": 4, "first": 2}

LSTMS = {
    "lstms": lambda: LMMoE(**MIXTURE, experts=2, gate_input="mean", dropout=0.3),
    "one lstm, bins alone": lambda: LMMoE(**{**MIXTURE, "embedding": 0}, experts=1, tower=()),
    "lstms, flatten": lambda: LMMoE(**MIXTURE, experts=2, gate_input="flatten"),
    "lstms, first packet": lambda: LMMoE(**MIXTURE, experts=2, gate_input="first_packet"),
}
POOLS = {
    "flow net": lambda: FlowNet(**NET),
    "flow net, attention": lambda: FlowNet(
        **{**NET, "first": 0}, mixing="attention", attention_heads=2, pooling=("attention", "mean")
    ),
    "pooled experts": lambda: LMMoE(**MIXTURE, experts=2, gate_input="mean", pooled=POOLED, dropout=0.3),
    "pooled experts, flatten": lambda: LMMoE(**MIXTURE, experts=2, pooled=POOLED, tower=()),
    "pooled experts, cgc": lambda: LMMoE(
        **MIXTURE, experts=4, pooled=POOLED, sees=shared_and_own(CLASSES, 2, 1), gate_input="first_packet"
    ),
    "pooled experts, dselect_k": lambda: LMMoE(**MIXTURE, experts=3, pooled=POOLED, gating="dselect_k", selected=2),
}
BINNED = {**LSTMS, **POOLS}
