"""Models of files that users write: manifest, tasks, flow definition, label sources; no files that Flowloom writes."""
