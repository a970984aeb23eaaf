"""A finished run at work: what it recommends, and its vectors and encoder for others."""
