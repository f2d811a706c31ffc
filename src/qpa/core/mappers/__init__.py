"""Mappers: from what is known of a chunk, its place in the model and the circuit's number for it, to the chunk's weights.

A mapper is a module, a file each here: `Mapper(layout, ..., from_zero=...)`, and `forward(features, start=None)` from the
numbers of all chunks `[N]` to one flat vector of all weights `[size]`. It ends in `SharedRows` (`qpa.core.mappers.rows`), one linear
map per chunk length that all chunks of that length share, which takes `from_zero` and `start` off its hands.

A mapper that starts from zero generates a first residual of zero: the adapted model is then what the PEFT method starts as.
"""
