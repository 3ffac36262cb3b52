"""Run one stream of events through several lanes in lockstep."""
