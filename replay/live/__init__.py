"""Perform memslot operations on this machine's /dev/kvm and say what happened as events: a source that makes its own recording.

It knows the ioctls and keeps book of what the kernel answered; it knows nothing of the model that will be held against it.
"""
