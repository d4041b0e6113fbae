"""Finished datasets merged or laid out again, fused (Aurora) or striped (Rainbow); no captures."""
