"""How rows change: pure columnar functions on RecordBatches and the thin Beam PTransforms of the same names."""
