"""The comparison in words, from its numbers alone."""

from qpa.report.compare import Comparison, Difference, Setting

NAMES = {"circuit": "the circuit", "frozen_circuit": "an untrained circuit", "table": "a learned table", "mlp": "a small MLP"}
NAMES |= {"mps": "a matrix-product state", "zeros": "nothing in its place", "random": "random numbers"}


def sentences(comparison: Comparison) -> list[str]:
    """The circuit's case first, then every method against plain PEFT."""
    lines = [_against_controls(comparison.against_controls)] if comparison.against_controls else []
    if comparison.baseline is None:
        return [*lines, "No plain PEFT run of this task: nothing to compare with (generator=none)."]
    plain = comparison.baseline
    lines.append(f"Plain {plain.first.method}, {plain.first.trainable:,} numbers: perplexity {_estimate(plain)}.")
    return lines + [_against_baseline(difference) for difference in comparison.against_baseline]


def _against_controls(differences: list[Difference]) -> str:
    better = [d for d in differences if d.significant and d.difference.mean < 0]
    worse = [d for d in differences if d.significant and d.difference.mean > 0]
    same = [d for d in differences if not d.significant and d.difference.seeds > 1]
    open_yet = [d for d in differences if d.difference.seeds == 1]
    parts = [
        f"{words} {', '.join(f'{_control(d)} ({_signed(d)})' for d in group)}"
        for words, group in (
            ("is not distinguishable from", same),
            ("is better than", better),
            ("is worse than", worse),
            ("cannot be told by one seed from", open_yet),
        )
        if group
    ]
    return f"The circuit {'; it '.join(parts)}."


def _against_baseline(difference: Difference) -> str:
    run = difference.setting.first
    what = f"{run.method}, {'plain' if run.generator == 'none' else 'generated with ' + NAMES[run.generator]}"
    share = run.trainable / difference.against.first.trainable
    return f"{what}, at {share:.1%} of its numbers: perplexity {_estimate(difference.setting)}, {_signed(difference)}."


def _control(difference: Difference) -> str:
    return NAMES[difference.against.first.generator]


def _signed(difference: Difference) -> str:
    found = difference.difference
    amount = f"{abs(found.mean):.3g} {'lower' if found.mean < 0 else 'higher'}"
    if found.half_width is None:
        return f"{amount}, one seed: no interval"
    low, high = found.mean - found.half_width, found.mean + found.half_width
    chance = "" if difference.p is None else f", paired t-test p={difference.p:.2g}"
    return f"{amount}, 95 % interval {low:+.3g} to {high:+.3g}, {found.seeds} seeds{chance}"


def _estimate(setting: Setting) -> str:
    found = setting.perplexity
    return f"{found.mean:.3f}" + (f" ± {found.half_width:.2g}" if found.half_width is not None else "")
