"""Networks of the field that the own models are compared with, and the layers that only they have."""
