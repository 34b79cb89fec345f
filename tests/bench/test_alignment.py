"""The alignment table's measures, rows and files, without long drawing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("comfy.samplers")

import comfy.samplers  # noqa: E402
from realcompo.balancer.errors import RealCompoError  # noqa: E402
from realcompo.bench import rows as quality_rows  # noqa: E402
from realcompo.bench import tuned  # noqa: E402
from realcompo.bench.alignment import draw as alignment_draw  # noqa: E402
from realcompo.bench.alignment import main as alignment  # noqa: E402
from realcompo.bench.alignment import rewards as alignment_rewards  # noqa: E402
from realcompo.bench.alignment.draw import Job, Stage  # noqa: E402
from realcompo.bench.alignment.latent_adaptation import Adaptation, adapted  # noqa: E402
from realcompo.bench.alignment.metrics import alignment_scores, diversity, spread  # noqa: E402
from realcompo.bench.alignment.report import claims  # noqa: E402
from realcompo.bench.alignment.rows import Row, rows  # noqa: E402
from realcompo.bench.pictures import STEPS, Studio  # noqa: E402
from realcompo.bench.quality.job import Job as QualityJob  # noqa: E402
from realcompo.bench.rows import fixed  # noqa: E402
from realcompo.bench.statistics import Bootstrap, Gaussian, RowResult  # noqa: E402
from realcompo.shapes.pairs import held_out_pairs, pair_scenes, training_pairs  # noqa: E402
from realcompo.shapes.render import render  # noqa: E402
from realcompo.shapes.world import Scene, ShapeObject  # noqa: E402

LEFT, RIGHT = (0.08, 0.3, 0.42, 0.64), (0.56, 0.3, 0.9, 0.64)


def scene(*things: tuple[str, str]) -> Scene:
    boxes = zip(things, (LEFT, RIGHT, (0.3, 0.68, 0.58, 0.96)), strict=False)
    return Scene(tuple(ShapeObject(*thing, box) for thing, box in boxes))


def drawn(*scenes: Scene) -> torch.Tensor:
    return render(list(scenes), "plain", torch.Generator().manual_seed(1))


WANTED = scene(("red", "circle"), ("blue", "square"))
SHOWN = {
    "as asked": (WANTED, dict(present=2, shown=2, both=1, bound=1, count=1, binding=1)),
    "places do not matter": (
        scene(("blue", "square"), ("red", "circle")),
        dict(present=2, shown=2, both=1, bound=1, count=1, binding=1),
    ),
    "one missing": (
        scene(("red", "circle")), dict(present=1, shown=1, both=0, bound=1, count=0, binding=0),
    ),
    "colours swapped": (
        scene(("blue", "circle"), ("red", "square")),
        dict(present=0, shown=2, both=0, bound=0, count=1, binding=0),
    ),
    "one colour for both": (
        scene(("red", "circle"), ("red", "square")),
        dict(present=1, shown=2, both=0, bound=0.5, count=1, binding=0),
    ),
    "one more": (
        scene(("red", "circle"), ("blue", "square"), ("green", "star")),
        dict(present=2, shown=2, both=1, bound=1, count=0, binding=0),
    ),
    "others": (
        scene(("green", "star"), ("purple", "cross")),
        dict(present=0, shown=0, both=0, bound=np.nan, count=1, binding=0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_missing_things_and_swapped_attributes_are_told_apart(name: str) -> None:
    picture, expected = SHOWN[name]
    told = alignment_scores(drawn(picture), [WANTED])
    for metric, value in expected.items():
        assert told[metric][0] == pytest.approx(value, nan_ok=True), metric


def test_one_shape_cannot_stand_for_two() -> None:
    wanted = scene(("red", "circle"), ("blue", "circle"))
    told = alignment_scores(drawn(scene(("red", "circle"), ("green", "star"))), [wanted])
    assert (told["present"][0], told["shown"][0], told["bound"][0]) == (1, 1, 1)


def test_diversity_is_that_of_each_prompts_own_pictures() -> None:
    assert spread(torch.tensor([[0.0, 0.0], [3.0, 3.0], [0.0, 0.0]])) == pytest.approx(2.0)
    near = scene(("red", "circle"), ("blue", "square"))
    pictures = drawn(near, WANTED, WANTED, scene(("blue", "square"), ("red", "circle")))
    pictures = torch.cat((pictures[1:2], pictures[1:2], pictures[2:]))
    told = diversity(pictures, [[0, 1], [0, 3]])
    for values in told.values():
        assert values[0] == 0 and values[1] > 0
    assert told["diversity"][1] > 0.1


def test_rows_have_their_own_names_and_are_held_against_a_row_of_the_table() -> None:
    found = rows()
    names = [row.method for row in found]
    assert len(set(names)) == len(names)
    assert {row.base for row in found} <= set(names)
    recipes = [json.dumps(row.recipe(), sort_keys=True) for row in found]
    assert len(set(recipes)) == len(recipes)
    for row in found:
        assert (row.best_of > 1) == (row.reward is not None)


def test_nothing_is_measured_on_what_finetuning_may_use(tmp_path: Path) -> None:
    job = Job(tmp_path)
    held = {frozenset(pair) for pair in held_out_pairs()}
    for one in job.scenes:
        pair = frozenset((thing.colour, thing.shape) for thing in one.objects)
        assert pair in held and pair not in {frozenset(p) for p in training_pairs()}


def test_every_picture_has_noise_of_its_own_and_repeats_their_prompt(tmp_path: Path) -> None:
    job = Job(tmp_path, scenes=30, prompts=5, repeats=4)
    seeds = [seed for candidate in range(4) for seed in job.seeds(candidate)]
    assert len(set(seeds)) == len(seeds) == 4 * len(job.samples) == 4 * (30 + 5 * 3)
    assert [job.samples[i] for i in job.groups[2]] == [(2, 0), (2, 1), (2, 2), (2, 3)]


def stages(pictures: list[torch.Tensor]) -> Any:
    """Stands for the sampler: candidate k shows ``pictures[k]``."""

    def sampled(self: Job, row: Row, candidate: int) -> Stage:
        return Stage(pictures[candidate], np.array(self.seeds(candidate)), 40.0, 0.0, 0.5)

    return sampled


def test_the_best_is_kept_and_of_equals_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path, scenes=2, prompts=0)
    first, second = job.scenes
    nothing = Scene(first.objects[:1])
    monkeypatch.setattr(Job, "_sampled", stages([drawn(nothing, second), drawn(first, second)] * 2))
    row = Row("best", best_of=4, reward="oracle")
    best = job.make(row)
    assert best.seeds.tolist() == [job.seeds(1)[0], job.seeds(0)[1]]
    assert best.forwards == 160
    told = job.scored(row)
    assert told.hits["present"].tolist() == [2, 2]
    # candidates are shared with the plain row, and nothing is drawn twice
    monkeypatch.setattr(Job, "_sampled", None)
    assert job.scored(Row("realism")).hits["present"].tolist() == [1, 2]
    assert job.scored(replace(row, method="again")).method == "again"


@pytest.mark.parametrize("name", ["caption", "likelihood", "oracle"])
def test_rewards_prefer_pictures_of_their_prompt(name: str) -> None:
    asked = pair_scenes(training_pairs(), 6, 3)
    generator = torch.Generator().manual_seed(1)
    right = alignment_rewards.rewards(name, render(asked, "realistic", generator), asked)
    wrong = render(asked[1:] + asked[:1], "realistic", generator)
    assert (right > alignment_rewards.rewards(name, wrong, asked)).all()
    assert alignment_rewards.known_reward(name)


def test_choices_are_keyed_by_the_captioner(tmp_path: Path, monkeypatch: Any) -> None:
    job = Job(tmp_path, scenes=2, prompts=0)
    row = Row("best", best_of=2, reward="caption")
    before = job.path(row)
    other = tmp_path / "captioner.safetensors"
    other.write_bytes(b"another")
    monkeypatch.setattr(alignment_rewards, "CAPTIONER", other)
    assert job.path(row) != before
    assert job.drawn_path(row, 1) == job.drawn_path(replace(row, reward="oracle"), 1)
    with pytest.raises(RealCompoError, match="no reward 'taste'"):
        alignment_rewards.rewards("taste", drawn(WANTED), [WANTED])


def test_the_fine_stage_starts_from_the_kept_pictures(tmp_path: Path) -> None:
    job = Job(tmp_path, scenes=2, prompts=1, repeats=2, steps=2)
    row = Row("fine", fine="noise")
    fine, coarse = job.make(row), job.make(Row("realism"))
    assert job.missing(row) is None and job.missing(replace(row, fine="nowhere"))
    assert np.array_equal(fine.seeds, coarse.seeds)
    # at most one more run of two steps with guidance, for pictures in which something was seen
    assert coarse.forwards <= fine.forwards <= coarse.forwards + 2 * 2
    assert fine.pictures.shape == coarse.pictures.shape
    assert job.path(row) != job.path(replace(row, fine="latent"))


def lora(path: Path, scale: float, layer: str | None = None) -> Path:
    """A LoRA on the demo model's cross-attention keys."""
    studio = Studio("realistic")
    state = {}
    generator = torch.Generator().manual_seed(3)
    for name, module in studio.realism.model.diffusion_model.named_modules():
        if name.endswith("attn2.to_k"):
            out, inside = module.weight.shape
            key = f"diffusion_model.{layer or name}"
            up = torch.randn(out, 2, generator=generator) * scale
            down = torch.randn(2, inside, generator=generator)
            state |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down,
                      f"{key}.alpha": torch.tensor(2.0)}  # fmt: skip
    path.parent.mkdir(exist_ok=True, parents=True)
    save_file(state, path)
    return path


def test_finetuned_rows_are_drawn_with_their_file_and_keyed_by_it(tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    job = Job(tmp_path / "w", scenes=2, prompts=1, repeats=2, steps=2, tuned=[folder])
    row = Row("sepen", lora="some")
    assert "no finetuned model 'some'" in (job.missing(row) or "")
    lora(folder / "some.safetensors", 0.0)
    assert job.missing(row) is None
    plain, same = job.make(Row("realism")), job.make(row)
    assert torch.equal(plain.pictures, same.pictures)
    before = job.path(row)
    lora(folder / "some.safetensors", 1.0)
    again = Job(tmp_path / "w", scenes=2, prompts=1, repeats=2, steps=2, tuned=[folder])
    assert again.path(row) != before
    changed = again.make(row)
    assert float((changed.pictures - plain.pictures).abs().max()) > 0.05
    assert np.array_equal(changed.seeds, plain.seeds)


def test_a_lora_for_another_model_is_refused(tmp_path: Path) -> None:
    wrong = lora(tmp_path / "wrong.safetensors", 1.0, "input_blocks.77.attn2.to_k")
    with pytest.raises(RealCompoError, match="does not fit"):
        Studio("realistic", lora=wrong)
    with pytest.raises(RealCompoError, match="no finetuned model 'nothing'"):
        tuned.needed_file("nothing")


def test_the_quality_tables_rows_with_a_lora(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tuned, "TUNED", tmp_path)
    lora(tmp_path / "sepen-realistic.safetensors", 1.0)
    (row,) = (row for row in quality_rows.tuned_rows() if row.method == "sepen+realcompo")
    job = QualityJob([], tmp_path, STEPS, 2)
    first = job.key(row)
    assert first != job.key(replace(row, lora=None))
    lora(tmp_path / "sepen-realistic.safetensors", 2.0)
    assert job.key(row) != first
    assert "lora" not in quality_rows.table(STEPS)[0].recipe()


def test_adaptation_is_the_tables_own_sampling_with_moves() -> None:
    studio = Studio("realistic")
    asked = studio.ask(pair_scenes(training_pairs(), 3, 5), 1)
    plain = studio.draw(asked, quality_rows.fixed(1.0), steps=4)
    still = adapted(studio, asked, Adaptation(strength=0.0), steps=4)
    assert float((plain.pictures - still.pictures).abs().max()) < 1e-3
    moved = adapted(studio, asked, Adaptation(strength=0.2, until=0.5), steps=4, batch=2)
    assert float((moved.pictures - plain.pictures).abs().amax((1, 2, 3)).min()) > 0.02
    # two of four steps look at the maps first
    assert (moved.forwards, moved.backwards) == (4 * 2 + 2, 2)
    alone = adapted(studio, asked[2:], Adaptation(strength=0.2, until=0.5), steps=4)
    assert float((alone.pictures - moved.pictures[2:]).abs().max()) < 1e-3


def result(method: str, present: float, style: float, seed: int = 0, **more: Any) -> RowResult:
    """A row of 60 scenes with two things each."""
    rng = np.random.default_rng(seed)
    objects = np.full(60, 2)
    hits = {"present": rng.binomial(2, present, 60).astype(float)}
    hits["shown"] = np.maximum(hits["present"], rng.binomial(2, 0.9, 60))
    spreads = {"diversity": np.full(60, np.nan), "diversity_look": np.full(60, np.nan)}
    for values in spreads.values():
        values[:10] = 1.5 + rng.random(10) * 0.01
    pictures = {
        "binding": (hits["present"] == 2).astype(float), "both": (hits["present"] == 2) * 1.0,
        "style": np.full(60, style), **spreads,
        "bound": np.divide(hits["present"], hits["shown"], out=np.full(60, np.nan),
                           where=hits["shown"] > 0),
    }  # fmt: skip
    return RowResult(method, objects, hits, {**pictures, **more}, rng.normal(size=(60, 4)),
                     40, 0, 0.5)  # fmt: skip


def test_claims_hold_gains_and_what_was_kept_against_the_model_as_it_was() -> None:
    told = [result("realism", 0.4, 0.7), result("sepen", 0.9, 0.68),
            result("realign-refl", 0.8, 0.6)]  # fmt: skip
    bootstrap = Bootstrap(told[0].objects, {"realistic": Gaussian(np.zeros(4), np.eye(4))}, 200)
    found = {claim.name: claim for claim in claims(bootstrap, told)}
    assert found["sepen_presence_gain"].met and found["sepen_presence_gain"].bar == 0.08
    assert found["sepen_style_kept"].met and found["sepen_style_kept"].value == 0.9714
    assert found["sepen_diversity_kept"].met
    assert found["realign_refl_gain"].met
    # what the look lost is not hidden by the gain
    assert not found["realign_refl_style_kept"].met
    assert "fine_gain" not in found and "realign_best_of_gain" not in found
    worse = {c.name: c for c in claims(bootstrap, [told[0], result("sepen", 0.41, 0.7, 1)])}
    assert not worse["sepen_presence_gain"].met


def test_fine_after_coarse_is_held_against_each_alone() -> None:
    names = {"realism": 0.4, "realign-refl": 0.7, "realign-fine": 0.6, "realign-refl+fine": 0.95}
    told = [result(name, present, 0.7) for name, present in names.items()]
    bootstrap = Bootstrap(told[0].objects, {"realistic": Gaussian(np.zeros(4), np.eye(4))}, 200)
    found = {claim.name: claim for claim in claims(bootstrap, told)}
    assert found["refl_fine_over_coarse"].met and found["refl_fine_over_fine"].met
    assert found["fine_gain"].extra["metric"] == "binding"
    assert "best_of_fine_over_coarse" not in found


def test_a_small_table_end_to_end_says_what_it_lacks(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tuned, "TUNED", tmp_path / "tuned")
    lora(tmp_path / "tuned" / "sepen-realistic.safetensors", 0.5)
    kept = [
        replace(row, until=1.0)  # hosts of 2024 have no hooks
        for row in rows()
        if row.method in ("drawings", "realism", "sepen", "sepen-neon")
    ]
    monkeypatch.setattr(alignment, "rows", lambda: kept)
    arguments = ["--work", str(tmp_path / "w"), "--out", str(tmp_path / "out"), "--scenes", "4",
                 "--steps", "2", "--reference", "32"]  # fmt: skip
    threads = torch.get_num_threads()
    assert alignment.main(arguments) == 0
    torch.set_num_threads(threads)
    document = json.loads((tmp_path / "out" / "alignment.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in document["rows"]] == ["drawings", "realism", "sepen"]
    assert document["rows"][0]["metrics"]["present"]["mean"] == 1.0
    assert document["rows"][1]["forwards_per_image"] == 4
    assert [entry["method"] for entry in document["missing"]] == ["sepen-neon"]
    assert "`sepen-neon` is not in the table" in (tmp_path / "out" / "alignment.md").read_text()
    assert (tmp_path / "out" / "alignment_sheet.png").stat().st_size > 1000
    assert not list((tmp_path / "w").glob("*.lock"))
    # a second start draws nothing
    monkeypatch.setattr(alignment_draw.Job, "_sampled", None)
    before = (tmp_path / "out" / "alignment.json").read_bytes()
    assert alignment.main(arguments) == 0
    assert (tmp_path / "out" / "alignment.json").read_bytes() == before


def test_unknown_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        alignment.main(["--work", str(tmp_path), "--rows", "nothing"])


@torch.inference_mode()
def test_a_lora_in_force_for_a_part_is_one_sampler_after_the_other() -> None:
    """As a user's two KSampler (Advanced) would have it: the tuned model's steps, then the plain
    model's."""
    pytest.importorskip("comfy.hooks", reason="THIS COMFYUI HAS NO HOOKS (they came in late 2024)")
    steps, first, file = 6, 2, tuned.needed_file("sepen-realistic")
    partly, wholly, plain = Studio(lora=file, until=0.3), Studio(lora=file), Studio()
    scenes = pair_scenes(training_pairs(), 2, 3)
    told = [s.draw(s.ask(scenes, 5), fixed(1.0), steps=steps) for s in (partly, wholly, plain)]
    sigmas = comfy.samplers.KSampler(
        plain.realism, steps=steps, device=plain.realism.load_device, sampler="euler",
        scheduler="normal", denoise=1.0, model_options={},
    ).sigmas  # fmt: skip
    asked = plain.ask(scenes, 5)
    x, noise = torch.zeros_like(plain.noise(asked)), plain.noise(asked)
    for studio, part in ((wholly, sigmas[: first + 1]), (plain, sigmas[first:])):
        guider = studio.guider(asked, fixed(1.0))
        euler = comfy.samplers.sampler_object("euler")
        x = guider.sample(noise, x, euler, part, disable_pbar=True, seed=5)
        noise = torch.zeros_like(noise)
    expected = plain.vae.decode(x).permute(0, 3, 1, 2).clamp(0, 1)
    assert torch.allclose(told[0].pictures, expected, atol=1e-5)
    for other in told[1:]:
        assert (told[0].pictures - other.pictures).abs().max() > 0.05
