"""RealCompo (NeurIPS 2024): settings, the balancer, background matching, and the trace of a run."""
