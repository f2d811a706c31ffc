"""From a config to a run, and many runs: plan, build, train, measure, record, sweep."""
