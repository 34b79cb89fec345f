"""Captions of pictures and rewards by them, after RealignDiff's coarse stage."""

from __future__ import annotations

from typing import Any, ClassVar

from .checked import checked

CATEGORY = "RealCompo/realignment"
LOADER, CAPTION = "Load Captioner (after RealignDiff)", "RealCompo Caption (after RealignDiff)"
REWARD = "RealCompo Caption Reward (after RealignDiff)"
LIKELIHOOD = "RealCompo Likelihood Reward (after RealignDiff)"
NOTHING_THERE = "(put a model folder into models/captioners)"
NO_ENCODER = "none"
_CAPTIONER = ("REALCOMPO_CAPTIONER", {
    "tooltip": "From Load Captioner or Load Shapes Demo Captioner.",
})  # fmt: skip


def _prompt(things: str) -> tuple[str, dict[str, Any]]:
    return ("STRING", {
        "multiline": True, "default": "",
        "tooltip": "What the pictures should show. A list of prompts shares the"
        f" {things} evenly, in order.",
    })  # fmt: skip


def _prefix(use: str) -> tuple[str, dict[str, Any]]:
    return ("STRING", {
        "default": "",
        "tooltip": f"What captions begin with, such as 'a photography of'; {use}",
    })  # fmt: skip


class _Reward:
    """What every node has that gives rewards."""

    INPUT_IS_LIST = True
    RETURN_TYPES = ("FLOAT", "STRING")
    RETURN_NAMES = ("rewards", "report")
    OUTPUT_IS_LIST = (True, False)
    CATEGORY = CATEGORY


@checked(LOADER, own=("folder",))
class RealCompoLoadCaptioner:
    """A captioning model from a local folder."""

    RETURN_TYPES = ("REALCOMPO_CAPTIONER",)
    RETURN_NAMES = ("captioner",)
    OUTPUT_TOOLTIPS = ("The model, for RealCompo Caption, Likelihood Reward and ReFL Train.",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads a BLIP, BLIP-2 or Florence-2 captioner from a Hugging Face folder in"
        " models/captioners (also models/LLM and models/blip). Safetensors only; nothing is"
        " downloaded, no code of the folder is run. For the coarse stage after RealignDiff; which"
        " captioner to use is your choice."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["blip", "blip-2", "florence", "image to text"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Folder."""
        from ..balancer.comfy.captions.model_folders import names

        return {
            "required": {
                "folder": (names("captioners") or [NOTHING_THERE], {
                    "tooltip": "A model folder with config.json, tokenizer files and"
                    " *.safetensors, in the form that transformers loads without remote code.",
                }),
            }
        }  # fmt: skip

    def load(self, folder: str) -> tuple[Any]:
        """(REALCOMPO_CAPTIONER,)."""
        from ..balancer.comfy.captions.captioner_folder import load_captioner
        from ..balancer.comfy.captions.model_folders import find

        return (load_captioner(find("captioners", folder, "folder")),)


@checked(CAPTION)
class RealCompoCaption:
    """Pictures in words."""

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("captions",)
    OUTPUT_IS_LIST = (True,)
    OUTPUT_TOOLTIPS = ("One caption per picture, in the order of the batch.",)
    FUNCTION = "caption"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Tells what is in each picture of a batch. After RealignDiff, whose coarse stage rewards"
        " pictures by their captions; greedy decoding is our choice. Any other node that gives"
        " captions as STRING does as well."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Captioner, pictures and how long."""
        return {
            "required": {
                "captioner": _CAPTIONER,
                "images": ("IMAGE", {"tooltip": "The pictures; resized for the captioner."}),
                "max_tokens": ("INT", {
                    "default": 40, "min": 1, "max": 1024,
                    "tooltip": "Longest caption, in tokens.",
                }),
            },
            "optional": {
                "prefix": _prefix(
                    "it is not part of the result. Florence-2 takes it as the task (<CAPTION>,"
                    " <DETAILED_CAPTION>, ...). Empty = the model's own way."
                ),
            },
        }  # fmt: skip

    def caption(
        self, captioner: Any, images: Any, max_tokens: int, prefix: str = ""
    ) -> tuple[list[str]]:
        """(captions,): one text per picture."""
        import comfy.utils

        from ..balancer.comfy.captions.captioner import require_captioner, require_pictures

        pictures = require_pictures(images)
        bar = comfy.utils.ProgressBar(len(pictures))
        model = require_captioner(captioner)
        return (model.caption(pictures, prefix, max_tokens, bar.update_absolute),)


@checked(REWARD, own=("captions", "encoder"))
class RealCompoCaptionReward(_Reward):
    """How much a caption says what the prompt asked for."""

    OUTPUT_TOOLTIPS = (
        "One reward per caption, in their order. Connect to RealCompo Pick Best.",
        "Captions with their rewards; the best of every prompt is marked.",
    )
    FUNCTION = "reward"
    DESCRIPTION = (
        "Rewards pictures by their captions: how near in meaning the caption is to the prompt."
        " After RealignDiff; our choices: the cosine of the two texts' vectors by the connected"
        " CLIP's text encoder or by a local sentence encoder, and without either the share of"
        " words in common. It sees missing things far better than swapped attributes."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Prompt, captions, and what compares them."""
        from ..balancer.comfy.captions.model_folders import names

        return {
            "required": {
                "prompt": _prompt("captions"),
                "captions": ("STRING", {
                    "forceInput": True,
                    "tooltip": "One text per picture: from RealCompo Caption or any captioner, as"
                    " a list or as a Python list in one value.",
                }),
            },
            "optional": {
                "clip": ("CLIP", {
                    "tooltip": "Its text encoder compares prompt and caption: pooled output where"
                    " the encoder has a text projection, else the mean of the words' vectors.",
                }),
                "encoder": ([NO_ENCODER, *names("sentence_encoders")], {
                    "default": NO_ENCODER,
                    "tooltip": "A sentence encoder in models/sentence_encoders, such as MiniLM; it"
                    " goes before the CLIP. none: the CLIP, or the words in common.",
                }),
            },
        }  # fmt: skip

    def reward(
        self, prompt: list[str], captions: list[Any], clip: Any = None, encoder: Any = None
    ) -> tuple[list[float], str]:
        """(rewards, report)."""
        from ..balancer.comfy.captions.reward import caption_rewards

        name = (encoder or [NO_ENCODER])[0]
        return caption_rewards(
            prompt, captions, (clip or [None])[0], None if name == NO_ENCODER else name
        )


@checked(LIKELIHOOD)
class RealCompoLikelihoodReward(_Reward):
    """How likely the captioner finds the prompt, seeing the picture."""

    OUTPUT_TOOLTIPS = (
        "One reward per picture, at most 0. Connect to RealCompo Pick Best.",
        "Pictures with their rewards; the best of every prompt is marked.",
    )
    FUNCTION = "reward"
    DESCRIPTION = (
        "Rewards pictures by how likely the captioner finds the prompt's words when it sees them:"
        " the mean log-probability of a token. After RealignDiff; this form of the reward is our"
        " choice, and the very quantity that RealCompo ReFL Train raises."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Prompt, captioner and pictures."""
        return {
            "required": {
                "prompt": _prompt("pictures"),
                "captioner": _CAPTIONER,
                "images": ("IMAGE", {"tooltip": "The pictures: a batch, or a list of batches."}),
            },
            "optional": {
                "prefix": _prefix("its words do not count. Florence-2 takes it as the task."),
            },
        }  # fmt: skip

    def reward(
        self,
        prompt: list[str],
        captioner: list[Any],
        images: list[Any],
        prefix: list[str] | None = None,
    ) -> tuple[list[float], str]:
        """(rewards, report)."""
        from ..balancer.comfy.captions.reward import likelihood_rewards

        return likelihood_rewards(prompt, captioner[0], images, (prefix or [""])[0])


NODE_CLASS_MAPPINGS = {
    "RealCompoLoadCaptioner": RealCompoLoadCaptioner,
    "RealCompoCaption": RealCompoCaption,
    "RealCompoCaptionReward": RealCompoCaptionReward,
    "RealCompoLikelihoodReward": RealCompoLikelihoodReward,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoLoadCaptioner": LOADER,
    "RealCompoCaption": CAPTION,
    "RealCompoCaptionReward": REWARD,
    "RealCompoLikelihoodReward": LIKELIHOOD,
}
