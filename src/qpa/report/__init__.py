"""From the records of many runs to an honest comparison: `runs` reads them, `compare` judges, `verdict` says it in words."""
