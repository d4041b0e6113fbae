"""Keras networks that read packets in units and pool over the packets of a flow.

They are few, and apart from `trainers/models`, whose networks read scaled features or bytes.
"""
