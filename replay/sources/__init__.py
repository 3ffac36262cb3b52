"""Read traces made by other tools, and recordings, as one kind of stream."""
