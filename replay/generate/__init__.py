"""Draw synthetic recordings: seeded, of any length, with rates and mixes of real captures; docs/generate.md has the table."""

from replay.generate.profiles import PROFILES, Profile, profile_named
from replay.generate.stream import GeneratedStream, Order, generated

__all__ = ["PROFILES", "GeneratedStream", "Order", "Profile", "generated", "profile_named"]
