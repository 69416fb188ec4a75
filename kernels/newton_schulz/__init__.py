"""Newton-Schulz orthogonalisation: the core of Muon."""

from kernels.newton_schulz.op import newton_schulz, orthogonalize
from kernels.newton_schulz.reference import newton_schulz_reference

__all__ = ["newton_schulz", "newton_schulz_reference", "orthogonalize"]
