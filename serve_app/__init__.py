"""The HTTP service on Ray Serve: OpenAI-compatible chat, judging, evaluations, studies, and a dashboard page.

Begin with `app.py`, which starts it. `http` is the interface, `service.py` what it calls, `deployments.py` where that
runs.
"""
