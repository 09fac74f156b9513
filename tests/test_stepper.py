"""The page to step through a sequence: the numbers in it, the slots it shows, and that it stands alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from test_figures import Page, make_trace
from test_traces import with_everything

from memnets.analysis.stepper import HIGHEST, ROOM, pack, page_data, page_slots, steps_page, unpack
from memnets.analysis.traces import heaviest


class TestPage:
    @pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
    def test_packed_numbers_come_back_to_a_508th_of_their_range(self, shape):
        array = np.random.default_rng(0).normal(size=shape)
        packed = json.loads(json.dumps(pack(array)))
        found = unpack(packed)
        assert found.shape == shape
        assert np.abs(found - array).max() <= (array.max() - array.min()) / HIGHEST / 2 * 1.0001

    @pytest.mark.parametrize("array", [np.zeros((2, 2)), np.full(3, 7.0), np.array([np.nan, 1.0, np.inf, 2.0])])
    def test_packing_of_constants_and_of_no_numbers(self, array):
        np.testing.assert_array_equal(unpack(pack(array)), np.where(np.isfinite(array), array, np.nan))

    def test_the_page_holds_the_trace_and_fetches_nothing(self):
        found = with_everything()
        text = steps_page(found, "ntm_copy")
        data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])
        assert data == json.loads(json.dumps(page_data(found)))
        for name in ("inputs", "outputs", "read_weights", "write_weights", "memory", "usage", "link"):
            np.testing.assert_allclose(unpack(data["arrays"][name]), getattr(found, name), atol=0.02)
        np.testing.assert_allclose(data["emitted"][0]["values"], found.emitted["strength"], rtol=1e-3)
        assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|\bsrc=|fetch\(|XMLHttp", text)

    def test_names_are_escaped(self):
        name = "</script><script>alert(1)</script>"
        found = with_everything(emitted={name: np.ones((11, 2), np.float32)})
        text = steps_page(found, name)
        assert "alert(1)</script>" not in text
        assert text.count("<script") == 2
        page = Page()
        page.feed(re.sub(r"(?s)<script.*?</script>|<input[^>]*>|<path[^>]*/>", "", text))
        assert page.open == []
        assert f"{name}: step by step" in page.words

    def test_a_large_memory_shows_the_slots_that_heads_are_on(self):
        found = make_trace(length=5, slots=1000, start=997)
        assert page_slots(found).tolist() == [0, 1, 2, 997, 998, 999]
        data = page_data(found)
        assert [data["slots"][row] for row in data["in_use"]] == [997, 998, 999, 0, 1, 2]
        assert data["memory_size"] == 1000

    def test_long_sequences_show_fewer_slots(self):
        time = 2 * 200 + 1
        wide = make_trace(length=200, slots=128)
        content = np.zeros((time, 128, 60), np.float32)
        found = make_trace(length=200, slots=128, memory=content, memory_slots=np.arange(128))
        assert time * 60 * 128 > ROOM >= time * 60 * len(page_slots(found))
        assert len(page_slots(wide)) == 128

    def test_heaviest_slots_keep_their_order(self):
        weights = np.zeros((2, 1, 5))
        weights[0, 0] = [0.3, 0.0, 0.9, 0.01, 0.5]
        assert heaviest(weights, 5).tolist() == [0, 1, 2, 3, 4]
        assert heaviest(weights, 4).tolist() == [0, 2, 4]
        assert heaviest(weights, 2).tolist() == [2, 4]

    @pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript engine")
    def test_the_script_parses(self, tmp_path):
        script = re.search(r'(?s)<script>\n"use strict";(.*?)</script>', steps_page(make_trace()))[1]
        (tmp_path / "page.js").write_text(script)
        subprocess.run(["node", "--check", tmp_path / "page.js"], check=True)
