"""Model the kernel: memslots, page_track, shadow roots, allocations, policies. Pure: no clock, no file, no randomness."""
