"""Tables, statistics and the HTML page of a dataset; nothing that changes its rows."""
