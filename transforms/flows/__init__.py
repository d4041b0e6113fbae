"""Packets to flows: meter, flow state, fragments, packet windows, identities; no scheduling and no labels."""
