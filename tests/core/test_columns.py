"""Packing loses nothing, and counts, most of them small, come out small."""

import struct
import zlib
from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.core.columns import pack, pack_array, unpack_array, unpack_ints

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64))
def test_whole_numbers_come_back(values):
    assert unpack_array("q", pack_array(array("q", values))) == array("q", values)
    assert unpack_ints(pack(np.array(values, np.int64))).tolist() == values


@given(st.lists(st.floats()))
def test_floating_point_numbers_come_back_bit_by_bit(values):
    assert unpack_array("d", pack_array(array("d", values))).tobytes() == struct.pack(
        f"{len(values)}d", *values
    )


def test_counts_take_fewer_bytes_than_there_are():
    counts = np.random.default_rng(1).poisson(0.6, 17_000)
    assert len(pack(counts)) < 17_000 / 4


@pytest.mark.parametrize("order", ["<", ">"])
def test_bytes_of_equal_weight_stand_together_on_every_machine(order):
    """By hand: 1 is 01 00 and 258 is 02 01, the lowest byte first; all higher bytes are 0."""
    packed = pack(np.array([1, 258], np.dtype(np.int64).newbyteorder(order)))
    assert zlib.decompress(packed).hex() == "0102" + "0001" + 6 * "0000"
