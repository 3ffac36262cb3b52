"""Ask questions of a stream and of the engine; no input, no output."""
