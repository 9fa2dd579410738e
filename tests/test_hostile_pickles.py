"""Pickles that attack: refused, within bounds, and with no effect."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import pytest
from hostile import Build, assert_refused, built, file, nothing_happens_outside
from pickle_builder import F4, array, call, entry, latin1, number, shape_opcodes, text, under_many_names

from bertc.weights_io.budget import MAX_ENTRIES, MAX_OPCODES
from bertc.weights_io.plain_pickle import read_plain_pickle
from bertc.weights_io.state_dict import MAX_DEPTH, MAX_NAME


def test_the_builders_build() -> None:
    assert pickle.loads(array())["a"].tolist() == [0, 0, 0]
    assert pickle.loads(array(values=latin1("\x00" * 12)))["a"].tolist() == [0, 0, 0]


SYSTEM = call("os system", text("touch executed"))

CALLS = {
    name.replace(" ", "."): b"\x80\x04}" + text("model") + call(name, text("touch executed")) + b"s."
    for name in (
        *("os system", "posix system", "nt system", "subprocess Popen", "builtins eval", "builtins exec"),
        *("builtins __import__", "__builtin__ eval", "pickle loads", "_pickle loads", "torch load", "runpy run_path"),
        *("importlib import_module", "builtins getattr", "operator attrgetter", "webbrowser open", "pty spawn"),
        *("socket create_connection", "shutil rmtree", "codecs open", "torch.hub load", "ctypes CDLL", "site main"),
        *("torch.storage _load_from_bytes", "numpy load", "builtins open", "linecache getlines", "timeit timeit"),
    )
}
OTHER_CALLS = {
    "global_only": b"\x80\x04cos\nsystem\n.",
    "stack_global": b"\x80\x04" + text("os") + text("system") + b"\x93" + text("touch executed") + b"\x85R.",
    "new_object": b"\x80\x04cos\nsystem\n(" + text("touch executed") + b"t\x81.",
    "new_object_with_keywords": b"\x80\x04cos\nsystem\n)}\x92.",
    "old_instance": b"\x80\x02(" + text("touch executed") + b"ios\nsystem\n.",
    "old_object": b"\x80\x02(cos\nsystem\n" + text("touch executed") + b"o.",
    "state": b"\x80\x04cbuiltins\nprint\n)\x81}" + text("__setstate__") + b"cos\nsystem\nsb.",
    "extension": b"\x80\x02\x82\x01.",
    "extension_2": b"\x80\x02\x83\x01\x00.",
    "extension_4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "out_of_band": b"\x80\x05\x97.",
    "out_of_band_read_only": b"\x80\x05N\x98.",
    "persistent_text": b"\x80\x02Pstorage\n.",
    "inside_a_tensor": entry(call("torch._utils _rebuild_tensor_v2", SYSTEM, b"K\x00))")),
    "inside_an_array": entry(call("numpy._core.numeric _frombuffer", SYSTEM, F4, b")")),
    "inside_a_parameter": entry(call("torch._utils _rebuild_parameter", SYSTEM, b"\x88N")),
    "as_function": entry(SYSTEM + b"(tR"),
}
SIZES = {
    "nine_bytes": b"\x80\x02Nr\xff\xff\xff\xff.",
    "memo_index": b"\x80\x02}r\xff\xff\xff\x7f.",
    "memo_index_of_digits": b"(dp" + b"9" * 1_000_000 + b"\n.",
    "text_8": b"\x80\x04\x8d" + b"\xff" * 8 + b"a.",
    "text_4": b"\x80\x04X\xff\xff\xff\xffa.",
    "bytes_8": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fa.",
    "bytes_4": b"\x80\x04B\xff\xff\xff\xffa.",
    "bytearray_8": b"\x80\x05\x96" + b"\xff" * 8 + b"a.",
    "text_of_python_2": b"\x80\x02T\xff\xff\xff\x7fa.",
    "negative_text_of_python_2": b"\x80\x02T\xff\xff\xff\xffa.",
    "integer_4": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "negative_integer_4": b"\x80\x02\x8b\xff\xff\xff\xffa.",
    "large_integer": b"\x80\x02\x8b" + struct.pack("<i", 1_000_000) + b"\x01" * 1_000_000 + b".",
    "digits": b"(dp0\nI" + b"9" * 900_000 + b"\n.",
    "long_digits": b"(dp0\nL" + b"9" * 900_000 + b"L\n.",
    "float_digits": b"(dp0\nF1" + b"0" * 900_000 + b"\n.",
    "endless_line": b"(dp0\nV" + b"a" * 3_000_000,
    "frame": b"\x80\x04\x95" + b"\xff" * 8,
    "lists": b"\x80\x04" + b"]" * 3 * MAX_OPCODES,
    "dicts_and_memo": b"\x80\x04" + b"}\x94" * 2 * MAX_OPCODES,
    "marks": b"\x80\x04" + b"(" * 3 * MAX_OPCODES,
    "nested_tuples": b"\x80\x04N" + b"\x85" * (MAX_OPCODES - 5) + b".",
    "nested_lists": b"\x80\x04" + b"]" * (MAX_OPCODES // 2) + b"a" * (MAX_OPCODES // 2 - 5) + b".",
    "globals": b"\x80\x04" + b"cos\nsystem\n" * MAX_OPCODES,
    "calls": b"\x80\x04cos\nsystem\n\x94" + b"h\x00)R" * MAX_OPCODES,
    "persistent": b"\x80\x04N\x94" + b"h\x00Q" * MAX_OPCODES,
    "class_of_long_texts": b"\x80\x04" + text("a" * 60_000) + b"\x94" + b"h\x00h\x00\x93" * 60_000 + b".",
    "equal_hashes": b"\x80\x04}(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(9999)) + b"u.",
}
MALFORMED = {
    "empty": b"",
    "only_protocol": b"\x80",
    "no_stop": b"\x80\x04}",
    "stop_at_once": b"\x80\x04.",
    "unknown_opcode": b"\x80\x04\xff.",
    "no_stack": b"\x80\x04s.",
    "append_to_nothing": b"\x80\x04Na.",
    "append_to_none": b"\x80\x04NNa.",
    "set_in_none": b"\x80\x04NNNs.",
    "update_none": b"\x80\x04N(NNu.",
    "key_without_value": b"\x80\x04}(" + text("a") + b"u.",
    "dict_without_value": b"\x80\x04(Nd.",
    "no_mark": b"\x80\x04Nt.",
    "below_the_mark": b"\x80\x04N(0000.",
    "call_below_the_mark": b"\x80\x04cos\nsystem\n)(R.",
    "recall_of_nothing": b"\x80\x04h\x05.",
    "recall_4": b"\x80\x04j\xff\xff\xff\xff.",
    "recall_of_no_number": b"(dgx\n.",
    "memo_of_nothing": b"\x80\x04\x94.",
    "memo_below_the_mark": b"\x80\x04N(\x94.",
    "class_of_numbers": b"\x80\x04K\x01K\x02\x93.",
    "state_of_a_number": b"\x80\x04K\x01}b.",
    "text_not_utf8": b"\x80\x04X\x02\x00\x00\x00\xff\xfe.",
    "half_a_surrogate_pair": b"\x80\x04X\x03\x00\x00\x00\xed\xa0\x80.",
    "half_a_surrogate_pair_of_protocol_0": b"(dp0\nV\\ud800\n.",
    "bad_escape": b"(dp0\nV\\u12\n.",
    "not_a_dict": b"\x80\x04].",
    "number": b"\x80\x04K\x01.",
    "dict_of_numbers": b"\x80\x04}" + text("a") + b"K\x01s.",
    "bytes_after_the_end": array() + b"more",
    "two_pickles": array() + array(),
    "dict_in_itself": b"\x80\x04}\x94" + text("a") + b"h\x00s.",
    "dicts_too_deep": b"\x80\x04" + (b"}" + text("a")) * (MAX_DEPTH + 1) + b"N" + b"s" * (MAX_DEPTH + 1) + b".",
    "billion_laughs": b"\x80\x04}\x94"
    + b"".join(b"}(" + text("a") + b"h%c" % n + text("b") + b"h%cu\x94" % n for n in range(MAX_DEPTH - 2))
    + b".",
    "many_entries": b"\x80\x04}(" + b"".join(text(str(n)) + b"N" for n in range(MAX_ENTRIES + 1)) + b"u.",
    "names_of_a_long_path": b"\x80\x04}\x94"
    + b"0}("
    + b"".join(text(f"{at}") + b"N" for at in range(1000))
    + b"u\x940}("
    + b"".join(text("\N{GRINNING FACE}" * (MAX_NAME + 1) + str(at)) + b"h\x01" for at in range(10))
    + b"u.",
    "long_name": entry(b"N", "a" * (MAX_NAME + 1)),
    "text_for_a_name": entry(b"N", "a" * 70_000),
}


LONG_ARRAY = array(shape=shape_opcodes(60_000), values=latin1("\0" * 240_000))[len(entry(b"")) - 2 : -2]
ARRAY_ATTACKS = {
    "fewer_values": array(shape=shape_opcodes(4)),
    "more_values": array(shape=shape_opcodes(2)),
    "negative_size": array(shape=shape_opcodes(-3)),
    "two_negative_sizes": array(shape=shape_opcodes(-1, -3)),
    "size_beyond_64_bits": array(shape=shape_opcodes(2**70)),
    "product_beyond_64_bits": array(shape=shape_opcodes(2**32, 2**32)),
    "empty_with_huge_sizes": array(shape=shape_opcodes(0, 2**40, 2**40), values=b"C\x00"),
    "rank": array(shape=shape_opcodes(*[1] * 40, 3)),
    "shape_of_booleans": array(shape=b"(\x88K\x03t"),
    "shape_of_floats": array(shape=b"(G" + struct.pack(">d", 3) + b"t"),
    "shape_of_a_list": array(shape=b"](K\x03e"),
    "no_shape": array(shape=b"N"),
    "no_dtype": array(dtype=b"N"),
    "dtype_of_a_text": array(dtype=text("f4")),
    "dtype_without_state": array(dtype=call("numpy dtype", text("f4"), b"\x89\x88")),
    "dtype_that_is_none": array(dtype=F4.replace(b"f4", b"q9")),
    "dtype_of_another_class": array(dtype=F4.replace(b"numpy\ndtype", b"os\nsystem  ")),
    "values_are_a_number": array(values=b"K\x0c"),
    "values_are_none": array(values=b"N"),
    "text_beyond_latin_1": array(values=latin1("\u0100" * 12)),
    "text_of_another_size": array(values=latin1("\x00" * 11)),
    "long_text_of_another_size": array(shape=shape_opcodes(20_000), values=latin1("é" * 60_000)),
    "text_of_megabytes_beyond_latin_1": array(
        shape=shape_opcodes(9_000_000), values=latin1("a" * 36_000_000 + "\N{GRINNING FACE}")
    ),
    "one_text_under_thousands_of_names": under_many_names(LONG_ARRAY),
    "long_text_beyond_latin_1": array(shape=shape_opcodes(20_000), values=latin1("€" * 40_000)),
    "text_in_another_encoding": array(values=call("_codecs encode", text("\x00" * 12), text("rot13"))),
    "order": array().replace(text("C"), text("K")),
    "state_of_nothing": entry(call("numpy._core.multiarray _reconstruct", b"N")),
    "state_too_short": entry(call("numpy._core.multiarray _reconstruct", b"N") + b"(K\x01t" + b"b"),
    "scalar_of_nothing": entry(call("numpy._core.multiarray scalar", F4)),
    "scalar_of_two": entry(call("numpy._core.multiarray scalar", F4, b"C\x08" + bytes(8))),
}
PICKLES = CALLS | OTHER_CALLS | SIZES | MALFORMED | ARRAY_ATTACKS
HOSTILE: dict[str, Build] = {case: file(content) for case, content in PICKLES.items()}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused(case: str, tmp_path: Path) -> None:
    path = built(HOSTILE[case], tmp_path)
    assert_refused(read_plain_pickle, path)
    assert list(path.parent.iterdir()) == [path]


def test_the_watch_sees_what_a_pickle_does(tmp_path: Path) -> None:
    """The standard library's reader is caught by it."""
    with pytest.raises(AssertionError, match=r"pickle\.find_class"), nothing_happens_outside(tmp_path):
        pickle.loads(b"\x80\x04cmath\nfloor\nG?\xe0\x00\x00\x00\x00\x00\x00\x85R.")
