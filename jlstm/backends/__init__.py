"""What runs the loop over time: the compiler's scan ("xla"), or the fused kernel for processors ("cpu")."""
