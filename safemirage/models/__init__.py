"""Vision-language models: what differs between families, prompts, loading, and exports with their manifests."""
