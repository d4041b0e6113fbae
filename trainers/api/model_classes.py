"""Model classes of three papers and FlowNet, as Keras models that need no dataset.

All are `keras.Model` with inputs by name and one output of probabilities for each task; the docstring of each class has
the shapes, the source and an example.

Example:

>>> import flowloom as fl
>>> import numpy as np
>>> model = fl.models.LMMoE(k=20, channels=3, tasks={"app": 5, "attack": 2}, experts=2, units=8)
>>> outputs = model({"sequence": np.zeros((4, 20, 3), "float32"), "length": np.array([1, 2, 3, 20])})
>>> {task: tuple(probabilities.shape) for task, probabilities in outputs.items()}
{'app': (4, 5), 'attack': (4, 1)}
"""

from flowloom.trainers.models.byte_cnn import ByteCNN
from flowloom.trainers.models.byte_transformer import ByteTransformer
from flowloom.trainers.models.cnn_rnn2 import CNNRNN2
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.models.mtc import MTC
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.models.packets.flow_net import FlowNet
from flowloom.trainers.models.ple import PLE

__all__ = ["CNNRNN2", "MTC", "PLE", "ByteCNN", "ByteTransformer", "FlowNet", "LMMoE", "MultitaskCNN"]
