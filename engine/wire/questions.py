"""How a gallery is searched as a protobuf message and back: `pack_` makes a message, `unpack_` a value.

Knows nothing of probes and answers.
"""

from __future__ import annotations

from engine.errors import InvalidInputError
from engine.pb.identiface.v1 import identification_pb2 as pb
from engine.types import Consistency, Fusion, SearchOptions

_FUSIONS = {Fusion.MAX: pb.FUSION_MAX, Fusion.MEAN: pb.FUSION_MEAN}
_FUSIONS_BACK = {int(number): fusion for fusion, number in _FUSIONS.items()}
_FUSIONS_BACK[pb.FUSION_UNSPECIFIED] = Fusion.MAX
_CONSISTENCIES = {
    Consistency.STRONG: pb.CONSISTENCY_STRONG,
    Consistency.EVENTUAL: pb.CONSISTENCY_EVENTUAL,
}
_CONSISTENCIES_BACK = {int(number): consistency for consistency, number in _CONSISTENCIES.items()}
_CONSISTENCIES_BACK[pb.CONSISTENCY_UNSPECIFIED] = Consistency.STRONG


def pack_search_options(
    options: SearchOptions, k: int, threshold: float | None, contract_digest: str
) -> pb.SearchOptions:
    """Turn options, and what is asked beside them, into their message."""
    return pb.SearchOptions(
        k=k,
        threshold=threshold,
        contract_digest=contract_digest,
        exact=options.exact,
        filter=dict(options.filter),
        fusion=_FUSIONS[options.fusion],
        consistency=_CONSISTENCIES[options.consistency],
    )


def unpack_search_options(message: pb.SearchOptions) -> SearchOptions:
    """Turn a message into options; k, threshold and digest are left in it.

    Raises InvalidInputError for a fusion or consistency that this version does not know.
    """
    if message.fusion not in _FUSIONS_BACK:
        raise InvalidInputError(f"fusion {message.fusion} is not known: use MAX or MEAN")
    if message.consistency not in _CONSISTENCIES_BACK:
        raise InvalidInputError(f"consistency {message.consistency} is not known: use STRONG or EVENTUAL")
    return SearchOptions(
        message.exact,
        _FUSIONS_BACK[message.fusion],
        dict(message.filter),
        _CONSISTENCIES_BACK[message.consistency],
    )
