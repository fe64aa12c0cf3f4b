"""Errors that a user can act on: one line that names the thing and the fix."""

from __future__ import annotations


class UserError(Exception):
    """What the user gave cannot be used; the message is one line that says what and how to mend it."""


class ShapeError(UserError, ValueError):
    """Shapes that don't fit together; the message holds every shape involved."""


class DeviceError(UserError):
    """A device that is not there or cannot do what is asked."""
