"""The Redis broker and result store."""
