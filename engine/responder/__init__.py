"""Answers remote control: in the agent, or in a thread of a worker of one process (interop §11.3).

`node` listens and answers, `panel` is the table of commands, the other modules are the commands.
"""
