"""Keras layers over the packets of a flow in units, such as bytes and microseconds.

They are few, and apart from `trainers/layers`, because all of them read a mask of packets beside the values.
"""
