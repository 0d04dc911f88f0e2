"""The simulated machine: engine, random streams, CPUs, interrupts, TLBs, RCU, locks and memory."""
