"""Arrow schemas of the rows that travel or are stored, and the reasons why records are dropped; no pydantic models."""
