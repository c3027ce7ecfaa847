"""The HTTP service on Ray Serve: OpenAI-compatible chat, judging, evaluations, studies, and a dashboard page."""
