"""A dataset to a trained, evaluated and exported model, in TensorFlow and Keras; knows no captures and no Beam.

Two files beside the folders: the quiet import of TensorFlow, and streams of batches that end.
"""

import os

# Read when TensorFlow and Keras are first imported, which any module of this room may do: so it is settled before them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
