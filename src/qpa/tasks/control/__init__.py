"""Control: a policy plays episodes of a gymnasium environment and learns from their rewards."""
