"""What the numbers say: the comparison table, its text, its plots and the self-contained HTML page."""
