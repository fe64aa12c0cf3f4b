"""The certificate of a graph's gradients: what was verified, how, and the result, with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nl_nodes.errors import UserError
from nl_nodes.files import atomic_write
from nl_nodes.runtime.cut import ProductCut
from nl_nodes.typing import Shape

VERSION = 5
NOT_RUN = "not run"
"""The result on a GPU where there is none, or its checks are not all made."""
HOLDS = ("verified", "zero", "cancelled")


@dataclass(frozen=True)
class Verdict:
    """Result of the check of one leaf's gradient.

    Attributes:
        name: name of the leaf.
        shape: shape of the leaf.
        residual: the largest difference between analytic and numerical value over all directions, in units of the
            gradient's size `|g|_1 / sqrt(n)`.
        size: the gradient's largest absolute value.
        directions: number of random directions tried.
        analytic: the gradient's inner product with the direction of the largest residual.
        numeric: the numerical value of that product.
        verdict: "verified"; "zero": both values are exactly 0; "cancelled": larger terms cancel in the gradient, and
            the difference is within their rounding error; "failed".
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
        """Whether the gradient passed the check."""
        return self.verdict in HOLDS


@dataclass(frozen=True)
class Link:
    """Result of one link: one comparison in the chain from numerical gradients to training steps.

    Attributes:
        kind: which comparison, such as "plan" (see docs/verification.md).
        images: number of images in the batch.
        point: which images and settings were used.
        where: the array, node or call with the largest difference.
        distance: that difference, relative to the array's size.
        limit: the largest distance that passes.
    """

    kind: str
    images: int
    point: str
    where: str
    distance: float
    limit: float

    @property
    def name(self) -> str:
        """The link's identifier in a certificate."""
        return f"{self.kind}, {self.images} images, {self.point}"

    @property
    def holds(self) -> bool:
        """Whether the distance is within the limit."""
        return self.distance <= self.limit


@dataclass(frozen=True)
class Certificate:
    """Results of the verification of a graph's gradients.

    The checksum covers all other fields, and the file must equal, byte for byte, what `text` writes. It detects
    corruption and accidental edits, not tampering.

    Attributes:
        fingerprint: fingerprint of the graph, code included (see `fingerprint`).
        code: hash of the code alone.
        nodes: number of nodes in the graph.
        edges: number of edges.
        dtype: training dtype.
        device: training device.
        product_cut: how the training's plans cut large matrix products, if at all.
        oracle: the numerical method.
        tolerance: the largest residual that passes.
        draws: directions per tensor: all but the last of +1 and -1, the last Gaussian.
        seed: seed of the directions.
        tensors: the verdict on each trainable leaf that was checked.
        missing_tensors: names of the leaves that were not checked for lack of time.
        structural_zeros: names of the leaves whose gradient is exactly 0; the check proves nothing about these.
        links: results of the links that were checked.
        missing_links: names of the links that were not checked.
        mutation: the mutation scores of the tests, for "nodes" and for the compiler's "fused" nodes: mutants, killed,
            equivalent, the hash of the mutated code, and "stale", whether the code has changed since; None where
            unknown.
        gpu: `NOT_RUN`, or "verified: " or "failed: " and the name of the GPU.
        seconds: duration of the verification.
        version: version of this format.
    """

    fingerprint: str
    code: str
    nodes: int
    edges: int
    dtype: str
    device: str
    product_cut: ProductCut | None
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
        """Names of the tensors and links that failed."""
        return (*(v.name for v in self.tensors if not v.holds), *(link.name for link in self.links if not link.holds))

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the tensors and links that were not checked."""
        return self.missing_tensors + self.missing_links

    @property
    def status(self) -> str:
        """`verified`, `partial` or `failed`."""
        return "failed" if self.failed else "partial" if self.missing else "verified"

    @property
    def worst(self) -> float:
        """The largest residual, without "cancelled" tensors, whose relative residual means nothing."""
        return max((v.residual for v in self.tensors if v.verdict != "cancelled"), default=0.0)

    def text(self) -> str:
        """The certificate as JSON, with its checksum."""
        fields = asdict(self)
        return _dump({**fields, "checksum": _seal(fields)})

    def save(self, path: Path) -> None:
        """Write to a temporary file, flush it to disk and rename it, so that no reader sees a partial file."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, durable=True) as file:
                file.write(self.text().encode())
        except OSError as error:
            raise UserError(f"cannot write the certificate {path}: {error.strerror}") from None


def load_certificate(path: Path, fingerprint: str, code: str) -> Certificate:
    """Read a certificate that `save` wrote for the graph with this fingerprint and code hash.

    Raises:
        UserError: if the file is missing, truncated, modified, of another version, or of another graph or code.
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
        raise UserError(f"the certificate {path} is truncated or not a certificate") from None
    checksum = fields.pop("checksum", None) if isinstance(fields, dict) else None
    if checksum is None or checksum != _seal(fields) or text != _dump({**fields, "checksum": checksum}):
        raise UserError(f"the certificate {path} was changed: its checksum does not match")
    return dict(fields)


def _certificate(fields: dict[str, Any], path: Path) -> Certificate:
    try:
        verdicts = tuple(Verdict(**{**v, "shape": tuple(v["shape"])}) for v in fields["tensors"])
        lists = {name: tuple(fields[name]) for name in ("missing_tensors", "missing_links", "structural_zeros")}
        links = tuple(Link(**link) for link in fields["links"])
        cut = None if fields["product_cut"] is None else ProductCut(*fields["product_cut"])
        return Certificate(**{**fields, **lists, "tensors": verdicts, "links": links, "product_cut": cut})
    except (TypeError, KeyError):
        raise UserError(f"the certificate {path} lacks fields of version {VERSION}") from None


def _dump(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"


def _seal(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(fields).encode()).hexdigest()
