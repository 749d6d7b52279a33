"""The sandbox: simulated teachers behind a real OpenAI-compatible server, to try a pipeline without spending.

problem     what a question is: a domain that writes it, reads it back and solves it
numbers     domains whose answer is a number
relations   domains whose answer is an option or a word
world       questions in any number, and reading one out of a prompt
teachers    who is right about what, how they err and write
judges      what teachers say when asked to merge, score, compare or debate
faults      rules that make requests go wrong
wire        OpenAI's format
server      the HTTP interface
batches     its Batch API: files and batches
serving     running it, as a command or in a thread
"""

from builders.sandbox.faults import Fault
from builders.sandbox.server import SandboxConfig
from builders.sandbox.serving import SandboxServer, load_list, serve
from builders.sandbox.teachers import TEACHERS, SandboxTeacher
from builders.sandbox.world import DOMAINS, questions, write_questions

__all__ = [
    "DOMAINS",
    "TEACHERS",
    "Fault",
    "SandboxConfig",
    "SandboxServer",
    "SandboxTeacher",
    "load_list",
    "questions",
    "serve",
    "write_questions",
]
