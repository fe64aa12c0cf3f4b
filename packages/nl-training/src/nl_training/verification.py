"""The verification of a network before it trains: its certificate, from the cache or made on a small batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from json import loads
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from nl_models import Network, build
from nl_nodes import Device, Graph, UserError
from nl_nodes.compiler import RULES, rewrite
from nl_nodes.verify import (
    Certificate,
    Trained,
    Verdict,
    certify,
    code_hash,
    fingerprint,
    load_certificate,
    mutated_code,
)
from nl_nodes.verify.certify import Progress
from nl_training.paths import ROOT, cache_folder
from nl_training.plans import check_plan, unseen

log = logging.getLogger(__name__)

# Batch statistics need some images to be statistics of.
IMAGES, IMAGES_NORMALISED = 2, 8
BATCHES = 4
# Not 1, so that a backward that forgets its upstream gradient is found.
UPSTREAM = np.float64(1.25)
# Where `nox -s mutants` leaves its score.
MUTATION_SCORE = ROOT / "outputs" / "mutants.json"
QUOTED = ("mutants", "killed", "equivalent", "every", "code")


@dataclass(frozen=True)
class Outcome:
    """What the verification before step 1 came to.

    Attributes:
        certificate: what it says; None where the verification is off.
        cached: whether the certificate was there already.
        seconds: how long it took.
        unseen: the sizes of batches whose plan there was no time for.
    """

    certificate: Certificate | None = None
    cached: bool = False
    seconds: float = 0.0
    unseen: tuple[int, ...] = ()

    @property
    def status(self) -> str:
        """`verified`, `partial`, `failed` or `off`."""
        if self.certificate is None:
            return "off"
        status = self.certificate.status
        return "partial" if self.unseen and status == "verified" else status

    @property
    def tags(self) -> dict[str, str]:
        """What a run bears of it."""
        c = self.certificate
        if c is None:
            return {"verify.status": self.status}
        return {
            "verify.status": self.status,
            "verify.worst_residual": f"{c.worst:.3e}",
            "verify.fingerprint": c.fingerprint,
            "verify.tensors": f"{len(c.tensors)} of {len(c.tensors) + len(c.missing)}",
            "verify.mutation_score": _score(c.mutation),
            "verify.seconds": f"{self.seconds:.3f}",
            "verify.cached": str(self.cached).lower(),
        }

    def lines(self) -> list[str]:
        """What the terminal shows of it: one line for all, and one for each wrong gradient."""
        c = self.certificate
        if c is None:
            return []
        how = f"worst residual {c.worst:.1e}, {self.seconds:.2f} s{' from the cache' if self.cached else ''}"
        if c.failed:
            return [*(f"warning: {told}" for told in _wrong(c)), _advice(c)]
        count = f"{len(c.tensors)} of {len(c.tensors) + len(c.missing)}" if c.missing else f"all {len(c.tensors)}"
        more = ", verify.max_seconds allowed no more" if c.missing else ""
        plans = f"; not yet at {_told_sizes(self.unseen)}" if self.unseen else ""
        return [f"gradients of {count} tensors verified: {how}{more}{plans}"]


def verify(
    net: Network, mode: str, max_seconds: float, progress: Progress | None = None, sizes: Iterable[int] = ()
) -> Outcome:
    """Find a network's certificate in the cache, or make it.

    Args:
        net: what is about to train; it is not changed.
        mode: "off" does nothing, "warn" makes do with what there is, "strict" refuses.
        max_seconds: when to stop making it.
        progress: called after each tensor and each plan.
        sizes: of the batches that it is to train on, whose compiled plans are checked too.

    Raises:
        UserError: in mode "strict", where the cached certificate was changed, cut short or is stale, and where the one
            just made is partial or failed.
    """
    if mode == "off":
        return Outcome()
    began = perf_counter()
    graph = training_graph(net, net.device)
    path = certificate_path(net, graph)
    certificate = _cached(path, net, graph, strict=mode == "strict")
    cached = certificate is not None
    if certificate is None:
        certificate = certify_network(net, batches(net), max_seconds, progress)
    known = certificate
    lacking = unseen(net, certificate, sizes)
    for number, images in enumerate(lacking, 1):
        if perf_counter() - began > max_seconds:
            break
        plan = check_plan(net, twin(net), certificate, images)
        certificate = replace(certificate, plans=(*certificate.plans, plan))
        if progress:
            progress(f"{images} images at once", number, len(lacking))
    if certificate is not known or not cached:
        _keep(certificate, path)
    outcome = Outcome(certificate, cached, perf_counter() - began, tuple(unseen(net, certificate, sizes)))
    if mode == "strict":
        _insist(outcome)
    return outcome


def training_graph(net: Network, device: Device, batch: int | None = None) -> Graph:
    """The graph that trains on a device: where that compiles, as the compiler's rules leave it."""
    graph = net.wire(batch or batch_of(net), train=True)
    return rewrite(graph, RULES) if device.compiles else graph


def batch_of(net: Network) -> int:
    """How many images a network is verified on."""
    return IMAGES_NORMALISED if net.wire(IMAGES, train=True).updates else IMAGES


def batches(net: Network, seed: int = 0) -> list[dict[str, Any]]:
    """Random images and labels; float64, of values that float32 has too."""
    found = []
    for number in range(BATCHES):
        rng, count = np.random.default_rng((seed, number)), batch_of(net)
        x = rng.standard_normal((count, *net.input_shape), dtype=np.float32).astype(np.float64)
        found.append({"x": x, "t": rng.integers(0, net.classes, count)})
    return found


def certificate_path(net: Network, graph: Graph) -> Path:
    """Where the certificate of a network's training graph is kept."""
    name = f"{fingerprint(graph, modules(net))}-{net.device.name}-{net.device.dtype}.json"
    return cache_folder() / "certificates" / name


def modules(net: Network) -> set[str]:
    """Modules of all packages that take part in a training step, beside those of the graph's nodes."""
    return {__name__, *(type(part).__module__ for part in (net, net.loss_layer, *net.layers))}


def certify_network(
    net: Network,
    feeds: Sequence[Mapping[str, Any]],
    max_seconds: float = float("inf"),
    progress: Progress | None = None,
    seed: int = 0,
) -> Certificate:
    """Certify the gradients of a network's training graph, with its weights as they are.

    Args:
        net: its float64 twin is verified, its own gradients are compared with the twin's.
        feeds: batches of one size, `x` (N, C, H, W) float64 and `t` (N,).
        max_seconds: when to stop.
        progress: called after each tensor.
        seed: what the directions are drawn from.
    """
    own = net.training_pass(len(feeds[0]["x"]))

    def gradients(batch: Mapping[str, Any], dy: Any) -> dict[str, Any]:
        # Of an upstream of 1, as it trains; the gradient is linear in it.
        found = own(batch["x"], batch["t"])
        return {name: dy * np.asarray(net.device.host(grad), dtype=np.float64) for name, grad in found.items()}

    with net.device.limits():
        return certify(
            training_graph(twin(net), net.device, len(feeds[0]["x"])),
            feeds,
            UPSTREAM,
            trained=Trained(net.device.dtype, net.device.name, gradients),
            max_seconds=max_seconds,
            seed=seed,
            mutation=mutation_score(),
            modules=modules(net),
            progress=progress,
        )


def twin(net: Network) -> Network:
    """The same network in float64 on the CPU, node by node, with the same weights and running statistics."""
    made = build(**net.spec, device=Device("cpu", dtype="float64", compile=False))
    made.load_state_dict(net.state_dict())
    return made


def mutation_score(path: Path = MUTATION_SCORE) -> dict[str, Any] | None:
    """The mutation scores that the tests left, stale where the code has changed since; None where there are none."""
    try:
        scores = loads(path.read_text())
        quoted = {kind: {name: scores[kind][name] for name in QUOTED} for kind in ("nodes", "fused")}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    code = mutated_code()
    return {kind: {**score, "stale": score["code"] != code[kind]} for kind, score in quoted.items()}


def _cached(path: Path, net: Network, graph: Graph, strict: bool) -> Certificate | None:
    """The whole and sound certificate that is kept there, None where one must be made."""
    if not path.exists():
        return None
    try:
        code, device = modules(net), net.device
        found = load_certificate(path, fingerprint(graph, code), code_hash(graph, code))
        if (found.device, found.dtype) != (device.name, device.dtype):
            raise UserError(f"the certificate {path} is stale: it is of {found.dtype} on {found.device}")
    except UserError as error:
        if strict:
            raise UserError(f"verify=strict: {error}; delete it and start again") from None
        return None
    return found if found.status == "verified" else None


def _keep(certificate: Certificate, path: Path) -> None:
    try:
        certificate.save(path)
    except UserError as error:  # a cache that cannot be written costs only time
        log.warning("%s", error)


def _insist(outcome: Outcome) -> None:
    certificate = outcome.certificate
    assert certificate is not None
    if certificate.failed:
        raise UserError(f"verify=strict: {next(_wrong(certificate))}; {_advice(certificate)}")
    if certificate.missing:
        raise UserError(
            f"verify=strict: the certificate is partial, {len(certificate.missing)} tensors from "
            f"{certificate.missing[0]} on were not reached: raise verify.max_seconds"
        )
    if outcome.unseen:
        told = _told_sizes(outcome.unseen)
        raise UserError(f"verify=strict: {told} at once were not reached: raise verify.max_seconds")


def _told_sizes(sizes: Iterable[int]) -> str:
    return f"batches of {' and '.join(map(str, sizes))} images"


def _wrong(certificate: Certificate) -> Iterator[str]:
    """Each wrong gradient in words."""
    yield from (_told(v, certificate) for v in certificate.tensors if not v.holds)
    for p in certificate.plans:
        if not p.holds:
            yield (
                f"the gradient of {p.tensor} is wrong in the plan for {p.images} images and {p.workers} workers: "
                f"off by {p.rounding:.1e}, rounding by {p.budget:.1e} at most"
            )


def _advice(certificate: Certificate) -> str:
    if all(v.holds for v in certificate.tensors):
        return "device.compile=false trains without plans"
    return "scripts/gradcheck.py tells where it is wrong"


def _told(v: Verdict, certificate: Certificate) -> str:
    """One wrong gradient in words."""
    if v.verdict == "imprecise":
        how = f"{certificate.dtype} is off float64 by {v.rounding:.1e}, rounding by {v.budget:.1e} at most"
    else:
        how = f"residual {v.residual:.1e}, limit {certificate.tolerance:g}"
    return f"the gradient of {v.name} is wrong: {v.verdict}, {how}"


def _score(mutation: Mapping[str, Any] | None) -> str:
    if mutation is None:
        return "not run"
    return ", ".join(f"{kind} {_told_score(score)}" for kind, score in mutation.items())


def _told_score(score: Mapping[str, Any]) -> str:
    notes = [f"every {score['every']}th"] if score["every"] > 1 else []
    notes += ["stale: the code has changed since"] if score["stale"] else []
    told = f"{score['killed']} of {score['mutants'] - score['equivalent']}"
    return f"{told} ({', '.join(notes)})" if notes else told
