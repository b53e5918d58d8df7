"""What a service allows, before it refuses."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of requests.

    Attributes:
        upload_mib: of one file.
        kept_mib: of all uploads that are kept; the oldest are forgotten first.
        candidates: of a request.
        search_s: seconds that one search may take.
        waiting: programs that may wait to be written; who comes then is asked to come again.
        searches: that may wait for their turn.
        extrudes, curves: of a program that is sent.
        kernel_waiting: pieces of work that may wait for the CAD kernel.
        connections: at one time, whatever they are at; who comes then is told to come again.
        silence_s: seconds in which something of a request must come, headers as a whole.
        timeout_s, memory_mib: of one piece of work in the CAD kernel.
    """

    upload_mib: int = 64
    kept_mib: int = 512
    candidates: int = 64
    search_s: float = 120.0
    waiting: int = 1024
    searches: int = 16
    extrudes: int = 500
    curves: int = 10_000
    kernel_waiting: int = 256
    connections: int = 1024
    silence_s: float = 30.0
    timeout_s: float = 30.0
    memory_mib: int = 4096
