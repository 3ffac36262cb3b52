"""Keep what a recording gave in a text file beside it, hold it against what it gives now, and write it anew."""
