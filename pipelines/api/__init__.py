"""Python surface of jobs on datasets: `fl.build`, `fl.weave` and others, each over the function of its command.

Only jobs whose results are opened as datasets belong here, so that there are few files; the jobs are in `pipelines`.
"""
