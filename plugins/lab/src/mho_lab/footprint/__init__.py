"""How much hardware a network needs: tiles, utilisation and matrix-vector products (R003 Table 1)."""
