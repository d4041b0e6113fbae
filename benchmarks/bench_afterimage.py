"""AfterImage and KitNET on synthetic packets, one core: features, training and scores a processor second."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from generator import SyntheticCapture
from measure import report, workplace

from flowloom.pipelines.reproduce.kitsune.kitnet import KitNET
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.packets.afterimage import AfterImage

PACKETS, MAP_ROWS, TRAIN_ROWS, ROUNDS = 200_000, 5_000, 50_000, 5


def seconds(call: Callable[[], object]) -> float:
    """Returns the median processor seconds of a call, after one to warm up."""
    taken = []
    for _ in range(ROUNDS + 1):
        begun = time.process_time()
        call()
        taken.append(time.process_time() - begun)
    return statistics.median(taken[1:])


def features_of(packets: list[pa.RecordBatch]) -> np.ndarray:
    """Returns the features of all packets."""
    afterimage = AfterImage()
    return np.concatenate([afterimage.update(part) for part in packets])


def main() -> None:
    """Prints packets per processor second of each of the three, in batches and one at a time."""
    with workplace() as folder:
        path = folder / "c.pcap"
        SyntheticCapture(PACKETS).write(path)
        part = CaptureRange(str(path))
        packets = list(GroupReader([part], "00c0ffee00c0ffee", FlowDefinition()).packets(part))
    features = features_of(packets)
    kitnet = KitNET.fit(features[: MAP_ROWS + TRAIN_ROWS], MAP_ROWS)
    alone = features[:1]
    one_packet, one_afterimage = packets[0].slice(0, 1), AfterImage()
    report(
        "afterimage and kitnet",
        packets=PACKETS,
        features_per_s=PACKETS / seconds(lambda: features_of(packets)),
        trained_per_s=TRAIN_ROWS / seconds(lambda: kitnet.train(features[MAP_ROWS : MAP_ROWS + TRAIN_ROWS])),
        scored_per_s=PACKETS / seconds(lambda: kitnet.score(features)),
        features_us_one_by_one=seconds(lambda: [one_afterimage.update(one_packet) for _ in range(1000)]) * 1e3,
        score_us_one_by_one=seconds(lambda: [kitnet.score(alone) for _ in range(1000)]) * 1e3,
        parameters=kitnet.parameters,
    )


if __name__ == "__main__":
    main()
