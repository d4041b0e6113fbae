"""Models of files that describe trained models: profile, scores, retraining state; no Keras model.

Three files: `trainers` and `transforms` both read these, and the other models of a run belong to `trainers`.
"""
