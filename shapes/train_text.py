"""Training stage 1: the text encoder, alone, before any picture.

A caption's words are few and their meaning is known, so the encoder is trained to let linear
readers tell each word, and 'colour shape' at each noun. It is then frozen, which lets one text
encoder serve both diffusion models and lets them train at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .text import BUCKETS, CONTEXT_LENGTH, END, START, WIDTH, TextTrunk, compact_rows
from .train_run import Average, Run
from .world import COLOURS, PLURALS, SHAPES, WORDS, Caption, Scene, make_caption, make_scenes

UNKNOWN_SHARE = 0.08


class CompactText(nn.Module):
    """The trainable form: a table of known words and buckets, and the trunk."""

    known: Tensor

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.register_buffer("known", known)
        self.table = nn.Embedding(len(known) + BUCKETS, WIDTH)
        self.trunk = TextTrunk()
        nn.init.normal_(self.table.weight, std=0.5)
        nn.init.normal_(self.trunk.position, std=0.02)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (B, 77) -> vectors with and without position, (B, 77, 64) each."""
        return self.trunk(self.table(compact_rows(self.known, tokens)))

    def export(self) -> dict[str, Tensor]:
        """Tensors of the weights file."""
        state = {f"trunk.{k}": v for k, v in self.trunk.state_dict().items()}
        return {**state, "known": self.known, "table": self.table.weight.detach()}


def word_ids(words: Sequence[str] = WORDS) -> dict[str, int]:
    """CLIP token id of every word, from the host's tokenizer.

    Raises ``ValueError`` for a word that is not one token.
    """
    import comfy.sd1_clip

    tokenizer = comfy.sd1_clip.SDTokenizer()
    ids = {}
    for word in words:
        pieces = [t for t, _ in tokenizer.tokenize_with_weights(word)[0] if t not in (START, END)]
        if len(pieces) != 1:
            raise ValueError(f"'{word}' is not one token: {pieces}")
        ids[word] = pieces[0]
    return ids


def known_ids(ids: dict[str, int]) -> Tensor:
    """Ascending ids that have a vector of their own."""
    return torch.tensor(sorted({*ids.values(), START, END}))


class CaptionTokens:
    """Captions of scenes as CLIP token ids, with the object each token speaks of."""

    def __init__(self, words: Sequence[str] = WORDS) -> None:
        self.ids = word_ids(words)

    def draw(self, scene: Scene, rng: random.Random) -> tuple[list[int], list[int]]:
        """Random caption of a scene: 77 token ids and 77 object indices (-1: none).

        Now and then a word from outside the small world stands before a phrase, so that the
        diffusion models learn that such words change nothing.
        """
        return self.encode(make_caption(scene, rng), rng)

    def encode(
        self, caption: Caption, rng: random.Random | None = None
    ) -> tuple[list[int], list[int]]:
        """Token ids and objects of one caption; with ``rng`` unknown words may be put in."""
        tokens, objects = [START], [-1]
        for word, owner in zip(caption.words, caption.grounded, strict=True):
            tokens.append(self.ids[word])
            objects.append(owner)
            if rng is not None and word in ("a", "an") and rng.random() < UNKNOWN_SHARE:
                tokens.append(rng.randrange(START))
                objects.append(-1)
        rest = CONTEXT_LENGTH - len(tokens)
        return tokens + [END] * rest, objects + [-1] * rest


class Kept:
    """Words that an earlier encoder knew keep their vectors; only the others are learned.

    Diffusion models that were trained with the earlier encoder stay right: all that feeds a known
    word's vector (its row, the row before it, the trunk) stays as it was.
    """

    def __init__(self, text: CompactText, start: Path, ids: dict[str, int]) -> None:
        before = text_state(start)
        self.text = text
        text.trunk.load_state_dict({k[6:]: v for k, v in before.items() if k.startswith("trunk.")})
        text.trunk.requires_grad_(False)
        known = before["known"]
        rows = torch.searchsorted(known, text.known).clamp(max=len(known) - 1)
        old = known[rows] == text.known
        table = before["table.weight"] if "table.weight" in before else before["table"]
        with torch.no_grad():
            text.table.weight[len(text.known) :] = table[len(known) :]
            text.table.weight[: len(old)][old] = table[rows[old]]
            # A plural starts as its singular: what the two share is most of it.
            for one, many in PLURALS.items():
                row, source = (int((text.known == ids[w]).nonzero()) for w in (many, one))
                if not old[row]:
                    text.table.weight[row] = text.table.weight[source]
        self.rows = torch.cat((old, torch.ones(BUCKETS, dtype=torch.bool)))
        self.values = text.table.weight.detach()[self.rows].clone()

    @torch.no_grad()
    def restore(self, average: Average) -> None:
        """Undo what the optimiser did to the kept rows, in the live and the averaged weights."""
        for live, averaged in zip(average.live, average.values, strict=True):
            if live is self.text.table.weight:
                live[self.rows] = self.values
                averaged[self.rows] = self.values


def text_state(start: Path) -> dict[str, Tensor]:
    """Tensors of an exported text encoder (.safetensors) or of a training checkpoint (.pt)."""
    if start.suffix == ".safetensors":
        from safetensors.torch import load_file

        return {k: v if k == "known" else v.float() for k, v in load_file(start).items()}
    saved = torch.load(start)["averaged_model"]
    return {k[5:]: v for k, v in saved.items() if k.startswith("text.")}


def train_text(
    folder: Path, minutes: float, steps: int | None, resume: bool, start: Path | None = None
) -> None:
    """Train for about a minute; the reading errors in the log must reach zero.

    ``start``: an earlier encoder whose words keep their vectors (see ``Kept``).
    """
    torch.manual_seed(11)
    captions = CaptionTokens()
    known = known_ids(captions.ids)
    text = CompactText(known)
    kept = Kept(text, start, captions.ids) if start is not None else None
    nouns_known = (*SHAPES, *PLURALS.values())
    pairs = {
        (captions.ids[c], captions.ids[s]): number
        for number, (c, s) in enumerate(product(COLOURS, nouns_known))
    }
    classes = len(known) + 1
    module = nn.ModuleDict(
        {
            "text": text,
            "word": nn.Linear(WIDTH, classes),
            "word_placed": nn.Linear(WIDTH, classes),
            "pair": nn.Linear(WIDTH, len(pairs)),
            "pair_placed": nn.Linear(WIDTH, len(pairs)),
        }
    )
    run = Run("text", folder, module, 3e-3, 12, minutes, steps, resume, 64)
    for _ in run.steps():
        rng = random.Random(int(torch.randint(2**62, (1,), generator=run.generator)))
        drawn = [captions.draw(s, rng)[0] for s in make_scenes(64, run.generator)]
        tokens = torch.tensor(drawn)
        placed, meaning = text(tokens)
        target = compact_rows(known, tokens).clamp(max=len(known))
        nouns = [
            (row, column, pairs[pair])
            for row, line in enumerate(drawn)
            for column in range(1, CONTEXT_LENGTH)
            if (pair := (line[column - 1], line[column])) in pairs
        ]
        rows, columns, wanted = torch.tensor(nouns).T
        loss = torch.zeros(())
        wrong = 0.0
        for vectors, ending in ((meaning, ""), (placed, "_placed")):
            word = module[f"word{ending}"](vectors[:, :24]).flatten(0, 1)
            pair = module[f"pair{ending}"](vectors[rows, columns])
            loss = loss + F.cross_entropy(word, target[:, :24].flatten())
            loss = loss + F.cross_entropy(pair, wanted)
            wrong += float((pair.argmax(1) != wanted).float().mean()) / 2
        run.update(loss, {"loss": float(loss.detach()), "pair_error": wrong})
        if kept is not None:
            kept.restore(run.average)
