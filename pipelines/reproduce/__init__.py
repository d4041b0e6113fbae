"""`flowloom reproduce`: everything that only the three papers need; what users run belongs elsewhere.

One file beside the folders of the papers: the command that chooses among them.
"""
