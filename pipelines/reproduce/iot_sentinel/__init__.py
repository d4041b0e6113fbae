"""The table of IoT Sentinel: devices, vendors and categories of set-ups, by every model, on the same capture splits."""
