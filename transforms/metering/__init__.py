"""The metering job: scheduling, group readers, meter cache, joins of fragments; no rules of what a flow is."""
