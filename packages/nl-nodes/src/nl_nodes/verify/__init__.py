"""Verification: compare analytic gradients with numerical ones, and record the results in a certificate."""

from nl_nodes.verify.certificate import Certificate, Link, Verdict, load_certificate
from nl_nodes.verify.certify import certify
from nl_nodes.verify.check import Residual, check_gradients, check_graph, sample_check
from nl_nodes.verify.directional import DirectionalCheck
from nl_nodes.verify.fingerprint import code_hash, fingerprint, mutated_code
from nl_nodes.verify.locate import Fault, first_wrong
from nl_nodes.verify.numeric import central, complex_step
from nl_nodes.verify.sampling import directions, draw, through_all, upstream

__all__ = [
    "Certificate",
    "DirectionalCheck",
    "Fault",
    "Link",
    "Residual",
    "Verdict",
    "central",
    "certify",
    "check_gradients",
    "check_graph",
    "code_hash",
    "complex_step",
    "directions",
    "draw",
    "fingerprint",
    "first_wrong",
    "load_certificate",
    "mutated_code",
    "sample_check",
    "through_all",
    "upstream",
]
