"""How a dataset becomes a model: the tf.data feed, the models, the training paradigms, evaluation and baselines."""

import os

# Read when TensorFlow and Keras are first imported, which any module of this room may do: so it is settled before them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
