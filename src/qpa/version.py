"""Which qpa this is, also where it is not installed but only on the path."""

VERSION = "0.1.0"
