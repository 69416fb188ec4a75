"""Programs that a model wrote, run where they can do no harm. ``open_sandbox`` is the way in."""

from rewards.code.sandbox.client import Sandbox, open_sandbox, share, shared_sandbox

__all__ = ["Sandbox", "open_sandbox", "share", "shared_sandbox"]
