"""Makes the definitions of this folder anew, those that are made: `python -m conformance.generate [--derived]`.

`--derived` leaves out the profiles, which need Node.js; everything else follows from Wetread's own code and data.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.r4 import terminology

from conformance import derived, shorthand

FOLDER = Path(__file__).parent


def file_of(definition: Mapping[str, Any]) -> Path:
    return FOLDER / f"{definition['resourceType'].lower()}-{definition['id'].lower()}.json"


def text_of(definition: Mapping[str, Any]) -> str:
    """The committed form: one that a difference can be read in."""
    return json.dumps(definition, indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    made = derived.every()
    if "--derived" not in arguments:
        made |= shorthand.compiled()
    for definition in made.values():
        file_of(definition).write_text(text_of(definition), encoding="utf-8")
    terminology.write_own()
    print(f"{len(made)} definitions")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
