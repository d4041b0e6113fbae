"""Python surface of datasets and models, `fl.open_dataset`, `fl.train` and others, without Beam.

Each function calls the one that its command calls. Libraries of extras are imported when a method needs them.
"""
