"""Caption rewards, best of N and reward-ranked sets through the nodes, in the host's own types."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node_call
import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.nodes.demo import RealCompoShapesLoader
from realcompo.nodes.realignment_caption import RealCompoCaptionReward
from realcompo.nodes.realignment_select import RealCompoPickBest, RealCompoRewardRankedSet

PROMPT = "a red circle and a blue square"
CAPTIONS = {
    "right": "a blue square and a red circle",
    "swapped": "a blue circle and a red square",
    "missing": "a red circle",
    "unrelated": "a green star",
    "empty": "",
}


@pytest.fixture(autouse=True)
def as_in_the_executor() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any, Any, Any]:
    with torch.inference_mode():
        return RealCompoShapesLoader().load("realistic", "realism")


def rewards(**extra: Any) -> dict[str, float]:
    values, _ = RealCompoCaptionReward().reward([PROMPT], list(CAPTIONS.values()), **extra)
    return dict(zip(CAPTIONS, values, strict=True))


def test_rewards_by_a_clips_words_put_right_before_missing_before_unrelated(demo: Any) -> None:
    found = rewards(clip=[demo[1]])
    assert found["right"] > found["missing"] > found["unrelated"] > found["empty"] == 0.0
    # this encoder sees a noun with its colour, so that swapped colours cost as well
    assert found["right"] > found["swapped"] > found["unrelated"]
    assert found["right"] > 0.95


def test_rewards_without_an_encoder_are_words_in_common() -> None:
    found = rewards()
    assert found["right"] == 1.0
    assert found["right"] > found["missing"] > found["unrelated"] == found["empty"] == 0.0


def test_the_encoders_pooled_vector_counts_where_it_was_made_for_the_whole_text(demo: Any) -> None:
    from realcompo.balancer.comfy.captions.text_vectors import clip_vectors

    clip = demo[1]
    _, how = clip_vectors(clip, [PROMPT])
    # the demo's pooled vector is its last word's
    assert how == "mean of the words' vectors"
    model = clip.cond_stage_model
    model.text_projection = torch.nn.Linear(1, 1)
    try:
        vectors, how = clip_vectors(clip, [PROMPT, "", PROMPT])
        assert how == "pooled text vectors"
        pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)[1]
        torch.testing.assert_close(vectors[0], pooled[0].float())
        assert torch.equal(vectors[0], vectors[2]) and not torch.equal(vectors[0], vectors[1])
    finally:
        del model.text_projection


def test_something_else_than_a_clip_is_refused() -> None:
    with pytest.raises(RealCompoError, match=r"Caption Reward.*'clip'.*not a CLIP"):
        rewards(clip=["a text"])


def test_a_sentence_encoder_in_a_folder_goes_before_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths
    from transformers import BertConfig, BertModel

    from .tiny_captioners import WORDS

    folder = tmp_path / "sentence_encoders" / "tiny"
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    with torch.inference_mode(False):
        BertModel(config).save_pretrained(str(folder), safe_serialization=True)
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    assert RealCompoCaptionReward.INPUT_TYPES()["optional"]["encoder"][0] == ["none", "tiny"]

    def not_asked(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the CLIP was asked")

    clip = type("Clip", (), {"tokenize": not_asked, "encode_from_tokens": not_asked})()
    values, report = RealCompoCaptionReward().reward(
        [PROMPT], [PROMPT, "a circle", ""], clip=[clip], encoder=["tiny"]
    )
    assert values[0] == pytest.approx(1.0, abs=1e-5) and values[1] < 1 and values[2] == 0.0
    assert "sentence vectors (tiny)" in report
    with pytest.raises(RealCompoError, match="there is no model 'other'"):
        RealCompoCaptionReward().reward([PROMPT], [PROMPT], encoder=["other"])


def test_several_prompts_share_captions_and_lists_of_other_packs_are_read() -> None:
    values, report = RealCompoCaptionReward().reward(
        ["a red circle", "a blue star"], [["a red circle", "a dog"], ["a cat", "a blue star"]]
    )
    assert values == [1.0, 0.0, 0.0, 1.0]
    assert report.count("<- best") == 2
    with pytest.raises(RealCompoError, match="prompt 1 is empty"):
        RealCompoCaptionReward().reward(["a", " "], ["b", "c"])
    with pytest.raises(RealCompoError, match=r"Caption Reward.*cannot share"):
        RealCompoCaptionReward().reward(["a", "b"], ["b", "c", "d"])


def batch(*values: float) -> torch.Tensor:
    """A picture per number, all of it that number."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 8, 8, 3).clone()


def latent(*values: float, **extra: Any) -> dict[str, Any]:
    samples = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 4, 1, 1).clone()
    return {"samples": samples, **extra}


def firsts(tensor: torch.Tensor) -> list[float]:
    return [round(float(v), 3) for v in tensor.flatten(1)[:, 0]]


def test_the_best_of_a_batch() -> None:
    given = latent(0.0, 0.1, 0.2, batch_index=[7, 8, 9])
    out = RealCompoPickBest().pick(
        [0.3, 0.9, 0.9], [2], ["all"], [batch(0.0, 0.1, 0.2)], [given]
    )  # fmt: skip
    latents, images, places, kept = out
    assert places == [1, 2] and kept == [0.9, 0.9]
    assert firsts(images[0]) == [0.1, 0.2] and firsts(latents[0]["samples"]) == [0.1, 0.2]
    assert latents[0]["batch_index"] == [8, 9]
    assert given["batch_index"] == [7, 8, 9]


def test_the_best_of_a_list_and_of_each_batch_of_it() -> None:
    images, values = [batch(0.0, 0.1), batch(0.2, 0.3)], [0.5, math.nan, 0.7, 0.1]
    _, chosen, places, _ = RealCompoPickBest().pick(values, [1], ["all"], images)
    assert places == [2] and firsts(chosen[0]) == [0.2]
    _, chosen, places, kept = RealCompoPickBest().pick(values, [1], ["each batch"], images)
    assert places == [0, 0] and kept == [0.5, 0.7]
    assert [firsts(one) for one in chosen] == [[0.0], [0.2]]
    # rewards may come as a list in one value, too
    assert RealCompoPickBest().pick([values], [1], ["all"], images)[2] == [2]


def test_what_is_not_connected_blocks_what_hangs_on_it() -> None:
    host = pytest.importorskip(
        "comfy_execution.graph_utils", reason="THIS HEADLESS COMFYUI HAS NO EXECUTOR OF ITS OWN"
    )
    latents, _, _, _ = RealCompoPickBest().pick([0.1], [1], ["all"], [batch(0.0)])
    assert isinstance(latents[0], host.ExecutionBlocker)
    _, images, _, _ = RealCompoPickBest().pick([0.1], [1], ["all"], None, [latent(0.0)])
    assert isinstance(images[0], host.ExecutionBlocker)


def test_without_the_hosts_executor_what_is_not_connected_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "comfy_execution.graph_utils", None)
    latents, images, _, _ = RealCompoPickBest().pick([0.1], [1], ["all"], [batch(0.0)])
    assert latents == [None] and firsts(images[0]) == [0.0]


def test_numbers_that_do_not_fit_are_refused() -> None:
    pick = RealCompoPickBest().pick
    with pytest.raises(RealCompoError, match="nothing is connected"):
        pick([0.1], [1], ["all"])
    with pytest.raises(RealCompoError, match="2 of them for 1 rewards"):
        pick([0.1], [1], ["all"], [batch(0.0, 0.1)])
    with pytest.raises(RealCompoError, match="not numbers"):
        pick(["high"], [1], ["all"], [batch(0.0)])
    with pytest.raises(RealCompoError, match="of 2 sizes cannot become one batch"):
        pick([0.1, 0.2], [2], ["all"], [batch(0.0), batch(0.0)[:, :4]])
    with pytest.raises(RealCompoError, match="not as long as"):
        pick([0.1, 0.2, 0.3], [1], ["each batch"], [batch(0.0), batch(0.1, 0.2)],
             [latent(0.0, 0.1), latent(0.2)])  # fmt: skip


def test_a_ranked_set_has_a_prompt_for_every_latent() -> None:
    first, second = [[torch.zeros(1, 77, 8), {"a": 1}]], [[torch.ones(1, 77, 8), {}]]
    collect = RealCompoRewardRankedSet().collect
    latents, positive, count = collect([latent(0.1, 0.2), latent(0.3)], [first, second])
    assert firsts(latents["samples"]) == [0.1, 0.2, 0.3] and count == 3
    assert [float(entry[0].mean()) for entry in positive] == [0.0, 0.0, 1.0]
    assert len(collect([latent(0.1), latent(0.2)], [first])[1]) == 2
    latents, positive, count = collect(
        [latent(0.1, 0.2), latent(0.3)], [first, second], [0.5, 0.1, 0.9], [0.5]
    )
    # two of three, in the order they came in
    assert firsts(latents["samples"]) == [0.1, 0.3] and count == 2
    assert [float(entry[0].mean()) for entry in positive] == [0.0, 1.0]


def test_sets_that_cannot_be_trained_on_are_refused() -> None:
    one = [[torch.zeros(1, 77, 8), {}]]
    collect = RealCompoRewardRankedSet().collect
    with pytest.raises(RealCompoError, match="2 prompts for 1 batches"):
        collect([latent(0.1)], [one, one])
    with pytest.raises(RealCompoError, match="several parts"):
        collect([latent(0.1)], [one + one])
    with pytest.raises(RealCompoError, match="there are 0 for 2 latents"):
        collect([latent(0.1, 0.2)], [one], None, [0.5])
    with pytest.raises(RealCompoError, match="not a LATENT"):
        collect([one], [one])


def test_the_hosts_trainer_takes_the_set(demo: Any) -> None:
    import nodes

    training = pytest.importorskip(
        "comfy_extras.nodes_train", reason="THIS COMFYUI HAS NO TRAINER (it came in mid-2025)"
    )
    node = training.TrainLoraNode
    model, clip, _, _ = demo
    positive = [nodes.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, "a green star")]
    latents = [{"samples": torch.randn(n, 16, 16, 16)} for n in (2, 1)]
    chosen, entries, _ = RealCompoRewardRankedSet().collect(latents, positive)
    given = {
        "model": model, "latents": chosen, "positive": entries, "batch_size": 2, "steps": 2,
        "learning_rate": 1e-3, "rank": 2, "training_dtype": "fp32", "lora_dtype": "fp32",
        "gradient_checkpointing": False, "existing_lora": "[None]", "algorithm": "LoRA",
        "optimizer": "AdamW", "loss_function": "MSE", "seed": 0,
    }  # fmt: skip
    asked = node.INPUT_TYPES()["required"]
    inputs = {n: [given[n] if n in given else spec[1]["default"]] for n, spec in asked.items()}
    out = node_call.call(node, inputs, {})[0]
    # its model output is gone since 2026
    names = dict(zip(node.RETURN_TYPES, (values[0] for values in out), strict=True))
    lora, losses = names["LORA_MODEL"], names["LOSS_MAP"]["loss"]
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses)
    assert any(float(t.detach().abs().sum()) > 0 for k, t in lora.items() if "lora_up" in k)
