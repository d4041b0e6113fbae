"""Models of files that describe trained models: profile, scores, retraining state; no Keras model.

Three files, because runs keep their own models beside the trainers and only these are read by both halves.
"""
