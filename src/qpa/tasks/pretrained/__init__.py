"""Models of transformers that tasks learn with: where their files are, their tokenizers, how they are loaded."""
