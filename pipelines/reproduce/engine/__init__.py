"""What the papers share: experiments, repeated splits, trials in memory, the result page; no paper of its own."""
