"""Programs as Python scripts of CadQuery and build123d, which build the same solid there, and back.

Lengths are millimetres. One statement draws a step's profiles and extrudes them, one combines it with the part, so that
a number or a step is changed where one reads it.
"""

from pipeline.cad.exchange.formats import Library
from pipeline.cad.exchange.libraries import build123d, cadquery, chains, reader
from pipeline.cad.exchange.libraries.writer import in_part_coordinates
from pipeline.cad.language.program import CadProgram

WRITERS = {Library.CADQUERY: cadquery.lines, Library.BUILD123D: build123d.lines}


def script(program: CadProgram, library: Library) -> str:
    """The script of a program in metres."""
    return "\n".join(WRITERS[library](in_part_coordinates(program.scaled(1e3)))) + "\n"


def read_script(data: bytes | str) -> CadProgram:
    """The program, in metres, of a script such as ``script`` writes, changed by hand or not. Nothing is run.

    Raises:
        RejectError: ``malformed_script``, with the line, or ``no_geometry``.
    """
    return reader.read(data, (chains.DIALECT, build123d.DIALECT))
