"""`flowloom reproduce`: code for the three papers alone; code for other users belongs elsewhere.

One file beside the folders of the papers: the command that selects a paper.
"""
