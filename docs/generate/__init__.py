"""The pages of the site that are made from the code when it is built, so that they cannot fall behind it.

`hook.py` hands them to MkDocs; each other module makes the pages of one topic.
"""
