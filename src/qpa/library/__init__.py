"""The method for any training loop: `qpa.generate` takes a module's weights over, `qpa.load` reads a compact adapter back."""
