"""Replay recorded KVM write-tracking events under several kernel policies and explain where they differ."""
