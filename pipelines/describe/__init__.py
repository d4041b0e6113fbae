"""Tables, statistics and HTML pages of datasets and scores; nothing that changes their rows."""
