"""The best pictures by their rewards, and a set of them to finetune on (after RealignDiff)."""

from __future__ import annotations

from typing import Any

from .checked import checked

CATEGORY = "RealCompo/realignment"
LIST = "RealCompo Prompt List"
PICK = "RealCompo Pick Best (after RealignDiff)"
RANKED = "RealCompo Reward-Ranked Set (after RealignDiff)"
ALL, EACH = "all", "each batch"


@checked(LIST, data=("prompts",))
class RealCompoPromptList:
    """A list of prompts, for list execution."""

    RETURN_TYPES = ("STRING", "INT")
    RETURN_NAMES = ("prompt", "count")
    OUTPUT_IS_LIST = (True, False)
    OUTPUT_TOOLTIPS = (
        "One prompt after the other: nodes behind it run once for each.",
        "How many there are.",
    )
    FUNCTION = "read"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Gives one prompt per line, so that the nodes behind it (text encoder, sampler, captioner)"
        " run once for each. For the coarse stage after RealignDiff, which draws several pictures"
        " of many prompts."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Lines."""
        return {
            "required": {
                "prompts": ("STRING", {
                    "multiline": True,
                    "default": "a red circle and a blue square\na green star and a yellow cross",
                    "tooltip": "One prompt per line; empty lines and lines that begin with # are"
                    " left out.",
                }),
            }
        }  # fmt: skip

    def read(self, prompts: str) -> tuple[list[str], int]:
        """(prompts, count)."""
        from ..balancer.captions.rewards import read_prompts

        found = read_prompts(prompts)
        return found, len(found)


@checked(PICK, own=("rewards",))
class RealCompoPickBest:
    """Best of N."""

    INPUT_IS_LIST = True
    RETURN_TYPES = ("LATENT", "IMAGE", "INT", "FLOAT")
    RETURN_NAMES = ("latent", "image", "index", "reward")
    OUTPUT_IS_LIST = (True, True, True, True)
    OUTPUT_TOOLTIPS = (
        "The kept latents, best first. Empty if no latents are connected.",
        "The kept pictures, best first. Empty if no images are connected.",
        "Where each kept one stood: counted from 0 over everything, or inside its batch.",
        "Reward of each kept one.",
    )
    FUNCTION = "pick"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Keeps the pictures or latents with the highest rewards; of equal ones the first, and a"
        " reward that is not a number comes last. After RealignDiff, whose coarse stage needs the"
        " best of several pictures of a prompt; how many to keep is our choice."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Rewards, how many to keep, and what to pick from."""
        return {
            "required": {
                "rewards": ("FLOAT", {
                    "forceInput": True,
                    "tooltip": "One per picture, in their order: from RealCompo Caption Reward or"
                    " Likelihood Reward.",
                }),
                "keep": ("INT", {
                    "default": 1, "min": 1, "max": 4096,
                    "tooltip": "How many to keep.",
                }),
                "among": ([ALL, EACH], {
                    "default": ALL,
                    "tooltip": "all: the best of everything that comes in. each batch: the best of"
                    " every batch of a list, such as one batch per prompt.",
                }),
            },
            "optional": {
                "images": ("IMAGE", {"tooltip": "The pictures: a batch, or a list of batches."}),
                "latents": ("LATENT", {
                    "tooltip": "Their latents, in the same order: a batch, or a list of batches.",
                }),
            },
        }  # fmt: skip

    def pick(
        self,
        rewards: list[Any],
        keep: list[int],
        among: list[str],
        images: list[Any] | None = None,
        latents: list[Any] | None = None,
    ) -> tuple[list[Any], list[Any], list[int], list[float]]:
        """(latents, images, indices, rewards) of the kept ones."""
        from ..balancer.comfy.captions.ranked import pick_best

        return pick_best(rewards, keep[0], among[0] == EACH, images, latents)


@checked(RANKED, own=("rewards",))
class RealCompoRewardRankedSet:
    """Pairs of latent and prompt for the host's LoRA trainer."""

    INPUT_IS_LIST = True
    RETURN_TYPES = ("LATENT", "CONDITIONING", "INT")
    RETURN_NAMES = ("latents", "positive", "count")
    OUTPUT_TOOLTIPS = (
        "All kept latents as one batch. Connect to Train LoRA.",
        "The conditioning of each of them, in the same order. Connect to Train LoRA.",
        "How many pairs there are.",
    )
    FUNCTION = "collect"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Collects kept latents and the conditioning of their prompts into one set that ComfyUI's"
        " Train LoRA takes: finetuning on one's own best pictures. After RealignDiff, in the form"
        " of reward-ranked finetuning; that form, and the share to keep, are our choices."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Latents, their conditioning, and which to keep."""
        return {
            "required": {
                "latents": ("LATENT", {
                    "tooltip": "Kept latents, from RealCompo Pick Best: a batch per prompt.",
                }),
                "positive": ("CONDITIONING", {
                    "tooltip": "The encoded prompt of each batch, in the same order; or one for"
                    " all.",
                }),
            },
            "optional": {
                "rewards": ("FLOAT", {
                    "forceInput": True,
                    "tooltip": "Reward of every latent, from RealCompo Pick Best. Only needed to"
                    " leave some out.",
                }),
                "top_share": ("FLOAT", {
                    "default": 1.0, "min": 0.01, "max": 1.0, "step": 0.01,
                    "tooltip": "Share of the set, the highest rewards first, that is kept. 1 = all"
                    " of it. Less needs rewards.",
                }),
            },
        }  # fmt: skip

    def collect(
        self,
        latents: list[Any],
        positive: list[Any],
        rewards: list[Any] | None = None,
        top_share: list[float] | None = None,
    ) -> tuple[dict[str, Any], list[Any], int]:
        """(latents, positive, count)."""
        from ..balancer.comfy.captions.ranked import ranked_set

        return ranked_set(latents, positive, rewards, (top_share or [1.0])[0])


NODE_CLASS_MAPPINGS = {
    "RealCompoPromptList": RealCompoPromptList,
    "RealCompoPickBest": RealCompoPickBest,
    "RealCompoRewardRankedSet": RealCompoRewardRankedSet,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoPromptList": LIST,
    "RealCompoPickBest": PICK,
    "RealCompoRewardRankedSet": RANKED,
}
