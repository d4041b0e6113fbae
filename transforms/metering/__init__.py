"""The metering job: scheduling, group readers, meter cache, joins of fragments; no rules that define a flow."""
