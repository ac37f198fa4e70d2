from __future__ import annotations

import math
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import sample_log
from trainer import events

HEAD = b'{"v":1,"run":"r","attempt":1,"seq":0,"time":0,"elapsed":0,"event":'


def line(event: bytes, extra: bytes = b"") -> bytes:
    return HEAD + event + extra + b"}\n"


def test_the_sample_has_every_kind() -> None:
    kinds = {type(e.event) for e in sample_log.whole()}
    assert kinds == set(typing.get_args(events.AnyEvent))


def test_the_kind_is_the_name_of_the_class() -> None:
    for kind in typing.get_args(events.AnyEvent):
        assert kind.__struct_config__.tag == kind.__name__


def test_round_trip_is_exact_and_one_line() -> None:
    for envelope in sample_log.whole():
        data = events.encode(envelope)
        assert data.count(b"\n") == 1
        assert data.endswith(b"\n")
        assert events.decode(data) == envelope


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_number_stays_on_one_line(text: str, number: float) -> None:
    text = text.encode("utf-8", "ignore").decode()
    event = events.Notice(level="info", code="x", message=text)
    data = events.encode(sample_log.envelope(0, event, elapsed=abs(number) % 1e9))
    assert data.count(b"\n") == 1
    assert events.decode(data).event == event


@given(st.floats())
def test_what_is_not_finite_is_stored_as_null(value: float) -> None:
    stored = events.finite(value)
    assert (stored is None) == (not math.isfinite(value) or abs(value) > events.LARGEST)
    event = sample_log.progress(1, 1, loss=stored)
    data = events.encode(sample_log.envelope(0, event))
    for word in (b"NaN", b"Infinity", b"nan", b"inf"):
        assert word not in data
    assert events.decode(data).event == event


def test_the_largest_losses_of_a_real_run_are_kept() -> None:
    event = sample_log.progress(1, 1, loss=3.4e38)
    assert events.decode(events.encode(sample_log.envelope(0, event))).event == event


def test_new_fields_of_a_later_version_are_ignored() -> None:
    data = line(b'{"kind":"Paused","step":3,"reason":"lunch"}', b',"host":{"a":[1]}')
    assert events.decode(data).event == events.Paused(step=3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"null\n",
        b"[]\n",
        b"{}\n",
        b"\x00" * 40,
        b"\xff\xfe\n",
        b'{"v":1,"run":"\xff","attempt":0}\n',
        line(b'{"kind":"Unheard","step":3}'),
        line(b'{"kind":"Paused"}'),
        line(b'{"kind":"Paused","step":NaN}'),
        line(b'{"kind":"Paused","step":1e400}'),
        line(b'{"kind":"Paused","step":"3"}'),
        line(b'{"kind":"Paused","step":-1}'),
        line(b'{"kind":"Paused","step":' + b"9" * 30 + b"}"),
        line(b'{"kind":"Paused","step":3}', b',"x":' + b"[" * 100_000),
        line(
            b'{"kind":"Progress","phase":"train","epoch":1,"step":1,"done":1,"total":1,"loss":1e61}'
        ),
        line(
            b'{"kind":"Progress","phase":"train","epoch":1,"step":1,"done":1,"total":1,"lr":-1e61}'
        ),
        line(
            b'{"kind":"Progress","phase":"train","epoch":1,"step":1,"done":1,"total":1,"accuracy":2}'
        ),
        line(b'{"kind":"RunEnded","state":"failed","best_accuracy":-1e308}'),
        line(b'{"kind":"Ranks","step":1,"images_per_second":[1e308],"memory":[1]}'),
        line(b'{"kind":"LayerStats","epoch":1,"step":1,"layers":["a"],"weight_norm":[1e308]}'),
        line(b'{"kind":"Notice","level":"loud","code":"","message":""}'),
        line(b'{"kind":"Notice","level":"info","code":"\\ud800","message":""}'),
        HEAD.replace(b'"seq":0', b'"seq":-1') + b'{"kind":"Paused","step":3}}\n',
        HEAD.replace(b'"time":0', b'"time":1e300') + b'{"kind":"Paused","step":3}}\n',
    ],
)
def test_a_line_that_is_no_event_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        events.decode(data)


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_raise_a_decode_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        events.decode(data)


@given(st.data())
def test_a_changed_byte_decodes_or_raises_a_decode_error(data: st.DataObject) -> None:
    good = bytearray(events.encode(data.draw(st.sampled_from(sample_log.whole()))))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    try:
        envelope = events.decode(bytes(good))
    except msgspec.DecodeError:
        return
    assert isinstance(envelope, events.Envelope)
