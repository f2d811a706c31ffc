"""Parametrised quantum circuits: angles in, measurement probabilities out.

A simulator is a function from angles `[K, A, Q]` in radians to probabilities `[K, 2**Q]`, differentiable by autograd; what the
angles turn is an ansatz (`qpa.core.circuits.ansatz`; the default is the paper's, section 3.1). Qubit 0 is the most significant bit of
a basis state's number.
"""
