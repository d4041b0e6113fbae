"""The names in an exported model's folder, for those who write it and those who read it without TensorFlow."""

CONTRACT = "features.json"
SAVED_MODEL = "saved_model"
LITERT = "model.tflite"
WEIGHTS = "weights.npz"
FORMAT_VERSION = 1
