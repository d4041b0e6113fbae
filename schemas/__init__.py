"""What a row is: Arrow schemas, tasks, flow definitions, corpus manifests and dataset cards.

Imports pyarrow, pydantic and the standard library only, so that any half of Flowloom can read a dataset's contract.
"""
