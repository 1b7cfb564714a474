"""Where millions of ids are among others."""

import numpy as np
import numpy.typing as npt

# A table of places is faster than a search, if ids are not much more than numbers.
_LARGEST_TABLE = 2**24


def rows_of(
    ids: npt.NDArray[np.integer], wanted: npt.NDArray[np.integer]
) -> npt.NDArray[np.int32]:
    """Where the wanted ids [P] are among ascending distinct ones [T]; -1 where not."""
    if not len(ids) or ids[0] < 0 or ids[-1] >= _LARGEST_TABLE:
        places = np.searchsorted(ids, wanted).astype(np.int32)
        known = places < len(ids)
        known[known] = ids[places[known]] == wanted[known]
        return np.where(known, places, np.int32(-1))
    # Wanted ids beyond the table are taken for one that is not there.
    table = np.full(int(ids[-1]) + 2, -1, np.int32)
    table[ids] = np.arange(len(ids), dtype=np.int32)
    beyond = (wanted < 0) | (wanted >= len(table))
    if beyond.any():
        wanted = np.where(beyond, len(table) - 1, wanted)
    return table[wanted]
