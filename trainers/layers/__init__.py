"""Keras layers that know nothing of tasks, recipes or datasets."""
