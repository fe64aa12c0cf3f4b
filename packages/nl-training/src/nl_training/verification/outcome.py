"""The outcome of the verification before training, as tags and as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nl_nodes.verify import Certificate
from nl_nodes.verify.certificate import NOT_RUN


@dataclass(frozen=True)
class Outcome:
    """The outcome of the verification before training.

    Attributes:
        certificate: the certificate; None if the verification is off.
        cached: whether the cache had the complete certificate.
        seconds: duration of the verification.
    """

    certificate: Certificate | None = None
    cached: bool = False
    seconds: float = 0.0

    @property
    def status(self) -> str:
        """`verified`, `partial`, `failed` or `off`."""
        return "off" if self.certificate is None else self.certificate.status

    @property
    def tags(self) -> dict[str, str]:
        """The outcome as tags of a run."""
        c = self.certificate
        if c is None:
            return {"verify.status": self.status}
        return {
            "verify.status": self.status,
            "verify.worst_residual": f"{c.worst:.3e}",
            "verify.fingerprint": c.fingerprint,
            "verify.tensors": f"{len(c.tensors)} of {len(c.tensors) + len(c.missing_tensors)}",
            "verify.links": f"{len(c.links)} of {len(c.links) + len(c.missing_links)}",
            "verify.mutation_score": _score(c.mutation),
            "verify.seconds": f"{self.seconds:.3f}",
            "verify.cached": str(self.cached).lower(),
        }

    def lines(self) -> list[str]:
        """Return the lines for the terminal: a summary, or one line for each failure and an advice."""
        c = self.certificate
        if c is None:
            return []
        if c.failed:
            return [*(f"warning: {line}" for line in faults(c)), advice(c)]
        how = f"worst residual {c.worst:.1e}, {self.seconds:.2f} s{' from the cache' if self.cached else ''}"
        lines = [f"gradients of {_count(c.tensors, c.missing_tensors, 'tensors')} verified: {how}"]
        if c.links or c.missing_links:
            links = f"{len(c.links)} links" if c.missing_links else f"all {len(c.links)} links"
            lines[0] += f"; {links} to training steps hold"
            lines[0] += f", {len(c.missing_links)} not checked" if c.missing_links else ""
        if c.gpu != NOT_RUN:
            lines[0] += f"; on the GPU {c.gpu}"
        if c.missing:
            lines.append(f"not verified: {missing(c)}; if verify.max_seconds ran out, the next start continues")
        return lines


def faults(certificate: Certificate) -> Iterator[str]:
    """Yield one line for each tensor and link that failed."""
    for v in certificate.tensors:
        if not v.holds:
            how = f"residual {v.residual:.1e}, limit {certificate.tolerance:g}"
            yield f"the gradient of {v.name} is wrong: {v.verdict}, {how}"
    for link in certificate.links:
        if not link.holds:
            off = f"{link.where}, off by {link.distance:.1e}, limit {link.limit:g}" if link.limit else link.where
            yield f"the training code is wrong ({link.name}): {off}"


def missing(certificate: Certificate) -> str:
    """Return what was not checked, in a few words."""
    first, *others = certificate.missing
    return first + (f" and {len(others)} more" if others else "")


def advice(certificate: Certificate) -> str:
    """Return where to look for the cause of a failure."""
    if all(v.holds for v in certificate.tensors):
        return "docs/verification.md says what each link compares"
    return "nl gradcheck locates the wrong node"


def _count(done: tuple[Any, ...], left: tuple[str, ...], what: str) -> str:
    return f"{len(done)} of {len(done) + len(left)} {what}" if left else f"all {len(done)} {what}"


def _score(mutation: Mapping[str, Any] | None) -> str:
    if mutation is None:
        return "not run"
    return ", ".join(f"{kind} {_told_score(score)}" for kind, score in mutation.items())


def _told_score(score: Mapping[str, Any]) -> str:
    notes = [f"every {score['every']}th"] if score["every"] > 1 else []
    notes += ["stale: the code has changed since"] if score["stale"] else []
    told = f"{score['killed']} of {score['mutants'] - score['equivalent']}"
    return f"{told} ({', '.join(notes)})" if notes else told
