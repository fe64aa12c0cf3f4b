"""The certificate of a graph's gradients: what was verified, how, and how well, under a seal."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nl_nodes.errors import UserError
from nl_nodes.typing import Shape

VERSION = 3
HOLDS = ("verified", "zero", "cancelled")


@dataclass(frozen=True)
class Verdict:
    """How one tensor's gradient fared.

    Attributes:
        name: the leaf's.
        shape: the leaf's.
        residual: the worst difference between analytic and numerical value over all directions, in units of the
            gradient's size |g|_1 / sqrt(n).
        size: the gradient's largest absolute value.
        directions: how many random directions were tried.
        analytic: the gradient's product with the worst direction.
        numeric: what the oracle says of it.
        verdict: "verified"; "zero": both are exactly 0; "cancelled": the gradient is what is left of larger terms,
            and right to their rounding; "failed".
    """

    name: str
    shape: Shape
    residual: float
    size: float
    directions: int
    analytic: float
    numeric: float
    verdict: str

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against this gradient."""
        return self.verdict in HOLDS


@dataclass(frozen=True)
class Link:
    """One link of the chain from numerical gradients to the steps that train: how two neighbours compare.

    Attributes:
        kind: which two, such as "plan" (see docs/verification.md).
        images: how many images the batch has.
        point: on which images.
        where: the array, node or call that is furthest off.
        distance: how far, relative to its size.
        limit: the most that it may be.
    """

    kind: str
    images: int
    point: str
    where: str
    distance: float
    limit: float

    @property
    def name(self) -> str:
        """What identifies it in a certificate."""
        return f"{self.kind}, {self.images} images, {self.point}"

    @property
    def holds(self) -> bool:
        """Whether the two agree."""
        return self.distance <= self.limit


@dataclass(frozen=True)
class Certificate:
    """What was found about a graph's gradients.

    The seal is a checksum over all the rest, and the file must be, to the byte, what `text` writes: a cut or an edit
    by accident or by hand is noticed. It is no signature: who knows how can seal anything.

    Attributes:
        fingerprint: of the graph, code included (see `fingerprint`).
        code: the hash of the code alone.
        nodes: how many nodes the graph has.
        edges: how many edges.
        dtype: the dtype that trains.
        device: the device that trains.
        oracle: the numerical method.
        tolerance: the largest residual that passes.
        draws: directions per tensor: all but the last of +1 and -1, the last Gaussian.
        seed: what they are drawn from.
        tensors: the verdict on each trainable leaf that was reached.
        missing_tensors: the names of those that were not, for want of time.
        structural_zeros: the names of those whose gradient is exactly 0, about which nothing is proved.
        links: the links of the chain that were made.
        missing_links: the names of those that were wanted and not made.
        mutation: the mutation score of the tests, of "nodes" and of the compiler's "fused" ones: mutants, killed,
            equivalent, the hash of the code they were made of, and whether that is "stale": no longer the code that
            runs; None where it is not known.
        gpu: "not run", or what a real GPU said.
        seconds: how long it took.
        version: of this format.
    """

    fingerprint: str
    code: str
    nodes: int
    edges: int
    dtype: str
    device: str
    oracle: str
    tolerance: float
    draws: int
    seed: int
    tensors: tuple[Verdict, ...]
    missing_tensors: tuple[str, ...]
    structural_zeros: tuple[str, ...]
    mutation: Mapping[str, Any] | None
    gpu: str
    seconds: float
    links: tuple[Link, ...] = ()
    missing_links: tuple[str, ...] = ()
    version: int = VERSION

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the tensors whose gradient is wrong, and of the links that do not hold."""
        return (*(v.name for v in self.tensors if not v.holds), *(link.name for link in self.links if not link.holds))

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of what was wanted and not reached."""
        return self.missing_tensors + self.missing_links

    @property
    def status(self) -> str:
        """`verified`, `partial` or `failed`."""
        return "failed" if self.failed else "partial" if self.missing else "verified"

    @property
    def worst(self) -> float:
        """The largest residual; what cancellation leaves over has none to speak of."""
        return max((v.residual for v in self.tensors if v.verdict != "cancelled"), default=0.0)

    def text(self) -> str:
        """The certificate as JSON, sealed."""
        fields = asdict(self)
        return _dump({**fields, "checksum": _seal(fields)})

    def save(self, path: Path) -> None:
        """Write it aside, force it to the disk and move it to its name, so that no reader finds half of one."""
        aside = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("w", newline="\n") as file:
                file.write(self.text())
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            raise UserError(f"cannot write the certificate {path}: {error.strerror}") from None
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def load_certificate(path: Path, fingerprint: str, code: str) -> Certificate:
    """Read what `save` wrote about the graph of this fingerprint and code.

    Raises:
        UserError: where the file is missing, cut short, changed, of another version, or of another graph or code.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the certificate {path} cannot be read: {getattr(error, 'strerror', 'no text')}") from None
    fields = _unsealed(text, path)
    if fields.get("version") != VERSION:
        raise UserError(f"the certificate {path} is of version {fields.get('version')}, not {VERSION}")
    certificate = _certificate(fields, path)
    if certificate.code != code:
        raise UserError(f"the certificate {path} is stale: the code has changed since")
    if certificate.fingerprint != fingerprint:
        raise UserError(f"the certificate {path} is stale: it is of another graph")
    return certificate


def _unsealed(text: str, path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"the certificate {path} is cut short or no certificate") from None
    checksum = fields.pop("checksum", None) if isinstance(fields, dict) else None
    if checksum is None or checksum != _seal(fields) or text != _dump({**fields, "checksum": checksum}):
        raise UserError(f"the certificate {path} was changed: its checksum does not fit")
    return dict(fields)


def _certificate(fields: dict[str, Any], path: Path) -> Certificate:
    try:
        verdicts = tuple(Verdict(**{**v, "shape": tuple(v["shape"])}) for v in fields["tensors"])
        lists = {name: tuple(fields[name]) for name in ("missing_tensors", "missing_links", "structural_zeros")}
        links = tuple(Link(**link) for link in fields["links"])
        return Certificate(**{**fields, **lists, "tensors": verdicts, "links": links})
    except (TypeError, KeyError):
        raise UserError(f"the certificate {path} lacks what version {VERSION} has") from None


def _dump(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"


def _seal(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(fields).encode()).hexdigest()
