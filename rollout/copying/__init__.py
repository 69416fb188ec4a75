"""Text that is copied from a source: which spans of a response are, and how a policy may be held to whole ones."""
