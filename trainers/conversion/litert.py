"""LiteRT: conversion of models, and an interpreter of one thread that runs them."""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowloom.trainers.native_logs import native_stderr_muted


def convert(model: keras.Model, int8: bool = False) -> bytes:
    """Returns a model as the bytes of a LiteRT file whose signature scores one row.

    Args:
      model: a model with inputs and outputs by name; for flows the inputs are {"sequence": [1, k, C], "length": [1]}.
      int8: stores large weights as 8-bit integers, and quantises their inputs at inference.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        # from a bare concrete function the converter leaves variables uninitialised
        model.export(folder, verbose=False, input_signature=[input_specs(model, batch=1)])
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


def input_specs(model: keras.Model, batch: int | None) -> dict[str, tf.TensorSpec]:
    """Returns the inputs of a model by name, for an exported signature with the same names."""
    return {
        name: tf.TensorSpec((batch, *tensor.shape[1:]), tensor.dtype, name=name) for name, tensor in model.input.items()
    }


class LiteRTModel:
    """LiteRT model in an interpreter of one thread.

    Args:
      content: bytes of a LiteRT file.
    """

    def __init__(self, content: bytes) -> None:
        with _quiet():
            self._interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()  # the first call would print a line
            self._run = self._interpreter.get_signature_runner()

    def one(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs for one row, {task: [1, 1] or [1, classes]}."""
        return self._run(**inputs)

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the outputs for many rows, which are scored one by one."""
        arrays = {name: np.asarray(rows) for name, rows in inputs.items()}
        count = len(next(iter(arrays.values())))
        scored = [self.one({name: rows[n : n + 1] for name, rows in arrays.items()}) for n in range(count)]
        return {task: np.concatenate([scores[task] for scores in scored]) for task in scored[0]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Mutes the converter's and the interpreter's output, and the warning that TensorFlow will move the interpreter."""
    with warnings.catch_warnings(), native_stderr_muted():
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        yield
