"""Models of files that a user writes: manifest, tasks, flow definition, label sources; nothing that Flowloom writes."""
