"""Files that run inside a sandbox, each by itself: they import installed packages, nothing of ours.

They hold what must not run in our process: a grader may hang, or evaluate text of the reply.
"""
