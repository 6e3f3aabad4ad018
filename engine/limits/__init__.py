"""Limits of task kinds: rates, shared rates, concurrency. Used by children, agent, template and tools.

`gcra` decides, `board` keeps a worker's buckets in shared memory, `lanes` names the queues in which
limited messages wait, `policy` reads the options of tasks. What obeys them is `engine.child.limiter`.
"""
