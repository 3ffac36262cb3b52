"""Turn findings into text and JSON; computes nothing."""
