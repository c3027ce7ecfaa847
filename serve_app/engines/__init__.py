"""The models behind the interface: exports loaded on demand, and single questions gathered into passes."""
