"""One number per chunk for the mapper: from circuits, or from what stands in their place to show whether circuits matter.

All are modules, a file each here, whose `forward()` gives `[N]` numbers like `f = S p - 1`: zero (or nearly) at the start of training,
of the same size at any `Q`; the mapper after them is the same. What has a number for every basis state is a `Latents`
(`qpa.core.latents.base`). A control that trains something trains no more than the circuits would: its `budget`, `A Q` for each.

Symbols: `K` circuits of `Q` qubits, `A` angles for each qubit, `S = 2**Q` basis states, `N` chunks.
"""
