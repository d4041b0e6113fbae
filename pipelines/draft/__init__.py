"""Drafts of manifests from folders of captures (`flowloom init`): guesses, each with a comment; nothing that builds."""
