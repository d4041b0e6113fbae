"""Pure columnar functions on record batches and thin Beam PTransforms of the same names; no commands, no training.

Only modules named `*_ptransforms.py` import Beam. The folders are layers: `tests/test_architecture.py` lists which may
import which.
"""
