"""Verification of a network before training: get its certificate from the cache or make it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from json import loads
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from nl_models import Network
from nl_nodes import Graph, UserError
from nl_nodes.platform import cache_folder
from nl_nodes.verify import Certificate, Verdict, certify, code_hash, fingerprint, load_certificate, mutated_code
from nl_nodes.verify.certificate import NOT_RUN, Link
from nl_nodes.verify.certify import Progress
from nl_training.paths import ROOT
from nl_training.verification.chain import ON_GPU, Chain
from nl_training.verification.outcome import Outcome, advice, faults, missing
from nl_training.verification.points import NotComparable
from nl_training.verification.steps import Training
from nl_training.verification.twins import batch_of, gpu_of, product_cut, twin

log = logging.getLogger(__name__)

# Not 1, so that a backward that ignores its upstream gradient is found.
UPSTREAM = np.float64(1.25)
# Written by `nox -s mutants`.
MUTATION_SCORE = ROOT / "outputs" / "mutants.json"
QUOTED = ("mutants", "killed", "equivalent", "every", "code")


def verify(
    net: Network, mode: str, max_seconds: float, progress: Progress | None = None, training: Training | None = None
) -> Outcome:
    """Get a network's certificate from the cache, and check the tensors and links that it lacks.

    Args:
        net: the network about to train; it is not changed.
        mode: "off" does nothing; "warn" accepts a partial or failed certificate; "strict" refuses it.
        max_seconds: time limit in mode "warn"; "strict" has none.
        progress: called after each tensor and each link.
        training: the training about to start; without it, gradients are verified and training steps are not.

    Raises:
        UserError: in mode "strict", if the cached certificate was modified, is truncated or stale, or if the new one
            is partial or failed.
    """
    if mode == "off":
        return Outcome()
    strict, began = mode == "strict", perf_counter()
    end = float("inf") if strict else began + max_seconds
    graph = training_graph(net)
    path = certificate_path(net, graph)
    cached = _cached(path, net, graph, strict)
    certificate = cached
    if certificate is None or certificate.missing_tensors:
        known = certificate.tensors if certificate else ()
        links = certificate.links if certificate else ()
        certificate = certify_network(net, feeds_for(net), end - perf_counter(), progress, known=known)
        certificate = replace(certificate, links=links)
    certificate = _with_links(certificate, Chain(net, batch_of(net), training), end, progress)
    if certificate != cached:
        _keep(certificate, path)
    outcome = Outcome(certificate, certificate == cached, perf_counter() - began)
    if strict:
        _insist(certificate)
    return outcome


def _with_links(certificate: Certificate, chain: Chain, end: float, progress: Progress | None) -> Certificate:
    """Return the certificate with the links that it lacks added, as far as time allows."""
    wanted, made = chain.links(), {link.name: link for link in certificate.links}
    lacking = [name for name in wanted if name not in made]
    unreached = []
    for number, name in enumerate(lacking, 1):
        try:
            if perf_counter() > end:
                raise TimeoutError
            made[name] = wanted[name]()
        except (TimeoutError, NotComparable) as why:
            unreached.append(f"{name} ({why})" if str(why) else name)
        if progress:
            progress(name, number, len(lacking))
    gpu = _on_gpu(gpu_of(chain.net), [made[name] for name in wanted if name in made and made[name].kind in ON_GPU])
    if any(name.startswith(ON_GPU) for name in unreached):
        gpu = NOT_RUN
    return replace(certificate, links=tuple(made.values()), missing_links=tuple(unreached), gpu=gpu)


def _on_gpu(name: str, links: Sequence[Link]) -> str:
    """Return the result on a GPU of this name, if there is one."""
    if not name or not links:
        return NOT_RUN
    return f"{'verified' if all(link.holds for link in links) else 'failed'}: {name}"


def training_graph(net: Network, batch: int | None = None) -> Graph:
    """Return the training graph before compilation; the links of the chain compare the compiled plan with it."""
    return net.wire(batch or batch_of(net), train=True)


def feeds_for(net: Network) -> dict[str, Any]:
    """Return random images and labels; the images are float64 with values exact in float32."""
    rng, count = np.random.default_rng(0), batch_of(net)
    x = rng.standard_normal((count, *net.input_shape), dtype=np.float32).astype(np.float64)
    return {"x": x, "t": rng.integers(0, net.classes, count)}


def certificate_path(net: Network, graph: Graph) -> Path:
    """Return the path of the certificate of a network's training graph."""
    cut = product_cut(net)
    name = [
        fingerprint(graph, modules(net)),
        net.device.name,
        net.device.dtype,
        *map(str, cut or ()),
    ]
    return cache_folder() / "certificates" / f"{'-'.join(name)}.json"


def modules(net: Network) -> set[str]:
    """Return the modules that take part in a training step, besides those of the graph's nodes."""
    return {__name__, *(type(part).__module__ for part in (net, net.loss_layer, *net.all_layers))}


def certify_network(
    net: Network,
    feeds: Mapping[str, Any],
    max_seconds: float = float("inf"),
    progress: Progress | None = None,
    seed: int = 0,
    known: Iterable[Verdict] = (),
) -> Certificate:
    """Certify the gradients of a network's training graph at its current weights.

    Args:
        net: its float64 copy is verified.
        feeds: `x` (N, C, H, W) float64 and `t` (N,).
        max_seconds: time limit.
        progress: called after each tensor.
        seed: seed of the directions.
        known: verdicts from an earlier certificate, to reuse.
    """
    with net.device.limits():
        return certify(
            training_graph(twin(net), len(feeds["x"])),
            feeds,
            UPSTREAM,
            dtype=net.device.dtype,
            device=net.device.name,
            product_cut=product_cut(net),
            known=known,
            max_seconds=max_seconds,
            seed=seed,
            mutation=mutation_score(),
            modules=modules(net),
            progress=progress,
        )


def mutation_score(path: Path = MUTATION_SCORE) -> dict[str, Any] | None:
    """Return the saved mutation scores, marked stale if the code has changed since; None without a valid file."""
    try:
        scores = loads(path.read_text())
        quoted = {kind: {name: scores[kind][name] for name in QUOTED} for kind in ("nodes", "fused")}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    code = mutated_code()
    return {kind: {**score, "stale": score["code"] != code[kind]} for kind, score in quoted.items()}


def _cached(path: Path, net: Network, graph: Graph, strict: bool) -> Certificate | None:
    """Return the cached certificate; None if there is none, or it is failed or unusable."""
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
    return None if found.failed else found


def _keep(certificate: Certificate, path: Path) -> None:
    try:
        certificate.save(path)
    except UserError as error:  # a cache that cannot be written costs only time
        log.warning("%s", error)


def _insist(certificate: Certificate) -> None:
    if certificate.failed:
        raise UserError(f"verify=strict: {next(faults(certificate))}; {advice(certificate)}")
    if certificate.missing:
        raise UserError(f"verify=strict: the certificate is partial, it lacks {missing(certificate)}")
