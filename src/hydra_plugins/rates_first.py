"""A sweeper that spends less on rates: all of them on the first seed, then the other seeds at the one that validation prefers.

Hydra takes sweepers only from a package of this name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from qpa.errors import JobFailedError
from qpa.runs.sweep import RATE, SEED, is_of, jobs_of, preferred, without


class RatesFirst(BasicSweeper):
    """Takes what Hydra's own takes. A sweep over no rates, or of one seed, is as with that one."""

    def sweep(self, arguments: list[str]) -> Any:
        """Every rate on the first seed, the preferred ones on the others; a job that fails keeps no other from running."""
        seeds = self._values(SEED, arguments)
        if len(seeds) < 2 or len(self._values(RATE, arguments)) < 2:
            return super().sweep(arguments)
        self.params = {key: value for key, value in self.params.items() if key != "seed"}
        self.max_batch_size = None  # the first batch with a job that failed would be the last
        failed: list[JobFailedError] = []
        first = [*(argument for argument in arguments if not is_of(SEED, argument)), seeds[0]]
        try:
            super().sweep(first)
        except JobFailedError as error:
            failed.append(error)
        assert self.config is not None
        assert self.launcher is not None
        assert self.overrides is not None
        jobs = jobs_of(Path(self.config.hydra.sweep.dir))[: len(self.overrides[0])]  # no others, that an earlier sweep has left there
        later = [[*without(job, SEED), seed] for seed in seeds[1:] for job in preferred(jobs)]
        for done in self.launcher.launch(later, initial_job_idx=len(jobs)) if later else ():
            try:
                _ = done.return_value  # raises what the job raised
            except JobFailedError as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return None

    def _values(self, key: str, arguments: Sequence[str]) -> list[str]:
        """Each value of a key, as an override."""
        given = [*(f"{name}={value}" for name, value in self.params.items()), *arguments]
        (found,) = self.split_arguments(OverridesParser.create().parse_overrides([a for a in given if is_of(key, a)]), None)
        return [override for overrides in found for override in overrides]
