"""File names in an exported model's folder, for its writer and for readers without TensorFlow."""

CONTRACT = "features.json"
SAVED_MODEL = "saved_model"
LITERT = "model.tflite"
WEIGHTS = "weights.npz"
FORMAT_VERSION = 1
