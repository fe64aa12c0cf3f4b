"""Weight files in safetensors format, which holds named arrays and no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nl_nodes import UserError
from nl_nodes.files import atomic_write
from nl_nodes.typing import Shape


def save_state(state: Mapping[str, Any], path: str | Path) -> None:
    """Write host arrays by name to a safetensors file atomically."""
    from safetensors.numpy import save

    try:
        with atomic_write(Path(path)) as file:
            file.write(save({name: array.copy() for name, array in state.items()}))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def load_state(path: str | Path) -> dict[str, Any]:
    """Read host arrays by name from a safetensors file.

    Raises:
        UserError: when the file is missing or incomplete.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        state: dict[str, Any] = load(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read weights {path}: {error.strerror}") from None
    except KeyError as error:  # a dtype
        raise UserError(f"{path} has weights of {error.args[0]}, which NumPy lacks: save them as float32") from None
    except (SafetensorError, ValueError):
        raise UserError(f"{path} is not an intact safetensors file: save the weights again") from None
    return state


def check_state(model: str, shapes: Mapping[str, Shape], state: Mapping[str, Any]) -> None:
    """Raise `UserError` where a state's names, shapes or kinds of dtype differ from the model's."""
    if not isinstance(state, Mapping):
        raise UserError(f"{model}: weights are arrays by name, got {type(state).__name__}")
    missing, unknown = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
    if missing or unknown:
        what = f"lack {missing[0]}" if missing else f"hold {unknown[0]}, which it has not"
        raise UserError(f"{model}: these weights are of another model: they {what}")
    for name, shape in shapes.items():
        if not hasattr(state[name], "dtype"):
            raise UserError(f"{model}: {name} must be an array, got {type(state[name]).__name__}")
        if tuple(state[name].shape) != shape:
            raise UserError(
                f"{model}: these weights are of another model: {name} is {tuple(state[name].shape)}, not {shape}"
            )
        if state[name].dtype.kind != "f":
            raise UserError(f"{model}: weights must be floating-point numbers: {name} is {state[name].dtype}")
