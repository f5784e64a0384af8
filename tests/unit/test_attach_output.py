"""What becomes of a container's output on its way to a terminal."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from zos_core.attach import LastLines, Output
from zos_core.containers.logstream import NOTE, STDERR, STDOUT, StreamFrame

pieces = st.lists(
    st.builds(
        StreamFrame, st.sampled_from([STDOUT, STDERR]), st.just(0), st.lists(st.sampled_from(b"ab\n\n")).map(bytes)
    )
)


@given(pieces, st.integers(0, 6))
def test_the_last_lines_are_those_of_the_whole(frames: list[StreamFrame], lines: int) -> None:
    last = LastLines(lines)
    for frame in frames:
        last.add(frame)
    whole = b"".join(frame.data for frame in frames)
    wanted = whole.splitlines(keepends=True)[-lines:] if lines else []
    assert b"".join(frame.data for frame in last.frames()) == b"".join(wanted)
    for stream in (STDOUT, STDERR):  # nothing changes its stream
        ours = b"".join(frame.data for frame in last.frames() if frame.stream == stream)
        assert b"".join(frame.data for frame in frames if frame.stream == stream).endswith(ours)


def test_no_more_is_kept_than_the_last_lines_need() -> None:
    last = LastLines(2)
    for number in range(1000):
        last.add(StreamFrame(STDOUT, 0, b"%d\n" % number))
        assert len(last._frames) <= 3
    assert [frame.data for frame in last.frames() if frame.data] == [b"998\n", b"999\n"]


def test_streams_and_notes_go_where_they_belong() -> None:
    out, err, notes = io.BytesIO(), io.BytesIO(), io.BytesIO()
    frames = [
        StreamFrame(STDOUT, 0, b"o"),
        StreamFrame(STDERR, 0, b"e"),
        StreamFrame(NOTE, 0, b"zos: 4 bytes are lost"),
    ]
    for output in (Output(out, err, notes), Output(out, err)):
        for frame in frames:
            output.add(frame)
        output.flush()
    assert (out.getvalue(), err.getvalue(), notes.getvalue()) == (b"oo", b"ee", b"zos: 4 bytes are lost\n")
