"""The task `language`: a causal language model learns a text; measured is perplexity."""
