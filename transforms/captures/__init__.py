"""Capture files: finding, opening, scanning records, byte ranges, groups; no decoding of packets."""
