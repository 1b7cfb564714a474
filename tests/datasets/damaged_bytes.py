"""Files as a test meets them: any bytes, pieces in any order, good ones gone bad."""

from collections.abc import Sequence

from hypothesis import strategies as st

#: What text is not made of, or not everywhere.
ODD = [
    b'\0',
    b'\r',
    b'\n',
    b'\r\n',
    b'\t',
    b' ',
    b'"',
    b'\\',
    b'\xff\xfe',
    b'\xef\xbb\xbf',
]


def any_bytes(
    good: Sequence[bytes], pieces: Sequence[bytes] = ()
) -> st.SearchStrategy[bytes]:
    """Bytes; `pieces` in a row, or with odd ones between them; a `good` file with some
    bytes put in, left out or written over."""
    odd = st.one_of(st.binary(max_size=3), st.sampled_from([*pieces, *ODD]))
    new = st.one_of(st.sampled_from([b'', b'a', b'1', *pieces]), odd)
    change = st.tuples(st.integers(0, 999), new, st.integers(0, 2))
    changed = st.builds(_changed, st.sampled_from(good), st.lists(change, max_size=3))
    rows = (st.lists(of, max_size=30) for of in (odd, st.sampled_from(pieces or ODD)))
    return st.one_of(
        st.binary(), *(row.map(b''.join) for row in rows), changed, changed
    )


def _changed(content: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
    changed = bytearray(content)
    for place, new, gone in changes:
        at = place % (len(changed) + 1)
        changed[at : at + gone] = new
    return bytes(changed)
