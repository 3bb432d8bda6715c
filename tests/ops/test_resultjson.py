# SPDX-License-Identifier: Apache-2.0
"""The JSON form of results, there and back."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import FormatError
from bootcd.ops import results
from bootcd.ops.resultjson import from_json, to_json

KINDS = [kind for kind in vars(results).values() if isinstance(kind, type) and is_dataclass(kind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(deadline=None)
def test_every_result_survives_json(kind: type[Any], data: st.DataObject) -> None:
    result = data.draw(st.builds(kind))
    assert from_json(kind, json.loads(json.dumps(to_json(result)))) == result


def test_keys_have_dashes_and_unknown_ones_are_ignored() -> None:
    document = {"image": "i", "available": True, "manifest-digest": "d", "download-size": 7, "of-tomorrow": 1}
    assert from_json(results.CheckResult, document) == results.CheckResult("i", True, "d", download_size=7)


def test_what_cannot_be_told_may_be_left_out() -> None:
    document = {"sealed": False, "repository-verity": True, "image-verity": True}
    assert from_json(results.ChainInfo, document).secure_boot is None


@pytest.mark.parametrize(("document", "words"), [
    ([], "unexpected list"),
    ({"label": "x"}, "'time' is missing"),
    ({"label": "x", "time": 3}, "time: unexpected int"),
])
def test_other_shapes_are_refused(document: object, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        from_json(results.PinInfo, document)
