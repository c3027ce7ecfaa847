"""One evaluation from its config to stored samples: preflight, batches, cache keys; several of them; judging again."""
