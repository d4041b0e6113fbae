"""Arrow schemas of rows in pipelines and in files, and the reasons for dropped records; no pydantic models."""
