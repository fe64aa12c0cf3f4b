"""Errors that a user can act on, each with a message of one line that names the cause and the fix."""

from __future__ import annotations


class UserError(Exception):
    """Invalid input from the user."""


class ShapeError(UserError, ValueError):
    """Shapes that don't fit together; the message has every shape involved."""


class DeviceError(UserError):
    """A device that is missing or lacks a feature."""


class NotCompilable(UserError, TypeError):
    """A node with an operation that a plan cannot record."""
