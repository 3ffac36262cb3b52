"""Record a run on this machine: choose a source, start it, start the command, write blocks as the trace comes, clean up."""
