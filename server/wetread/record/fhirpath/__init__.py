"""FHIRPath 2.0.0 over parsed JSON, compiled to closures: what R4's invariants and profiles' invariants are written in.

    path = compiled("code.exists() or value.empty()")
    path(node, root_node)         the collection it gives
    holds(path, node, root_node)  whether an invariant holds

Not here: `memberOf`, `conformsTo` and `subsumes`, which need a terminology or a validator; `resolve()` finds contained
resources only. An expression that uses one of them raises NotFhirPath when it is compiled, so that a caller knows.
"""

from wetread.record.fhirpath.evaluate import Path, compiled, holds
from wetread.record.fhirpath.navigation import root
from wetread.record.fhirpath.scope import Undecided
from wetread.record.fhirpath.syntax import NotFhirPath
from wetread.record.fhirpath.values import Node, Quantity, Temporal, plain

__all__ = ["Node", "NotFhirPath", "Path", "Quantity", "Temporal", "Undecided", "compiled", "holds", "plain", "root"]
