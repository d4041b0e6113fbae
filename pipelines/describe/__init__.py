"""Tables, statistics and HTML pages of datasets, flows and scores; nothing that changes their rows."""
