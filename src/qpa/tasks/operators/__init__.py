"""Task `operators`: a network learns to map a function to the solution of a differential equation that it stands in."""
