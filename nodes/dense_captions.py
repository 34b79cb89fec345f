"""What a detector saw, in the words of the prompt (the fine stage, after RealignDiff)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from .checked import checked
from .layout_inputs import ANY, single
from .planner import ENDPOINT, KEY_NAME, MODEL, RULES, SERVER_MODEL, TIMEOUT

if TYPE_CHECKING:
    from ..balancer.captions.align import Missing, Several
    from ..balancer.layouts.from_masks import Keep

CATEGORY = "RealCompo/realignment"
CAPTIONS = "RealCompo Dense Captions (after RealignDiff)"
PHRASES = "RealCompo Prompt Phrases (after RealignDiff)"
_PROMPT = ("STRING", {
    "multiline": True,
    "default": "a red star and a blue circle",
    "tooltip": "The prompt that the coarse picture was drawn from.",
})  # fmt: skip


def _texts(value: Any) -> list[Any]:
    """The texts of an input that the node looks at itself; entries may be open."""
    return [entry for entry in (value or []) if entry is not None]


@checked(PHRASES, own=("tags",))
class RealCompoPromptPhrases:
    """The things that a prompt names, one by one, so that a detector runs once for each."""

    INPUT_IS_LIST = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"prompt": _PROMPT},
            "optional": {
                "tags": ("STRING", {
                    "forceInput": True,
                    "tooltip": "What a detector saw, for the request only: one name a line, or a"
                    " list of texts.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = ("STRING", "STRING", "STRING", "STRING")
    RETURN_NAMES = ("phrases", "names", "request", "prompt")
    OUTPUT_IS_LIST = (True, True, False, False)
    OUTPUT_TOOLTIPS = (
        "A list of the prompt's noun phrases ('a green traffic light'). A node that takes one text"
        " runs once for each.",
        "A list of what they name, without attributes ('traffic light'), in the same order: a"
        " detector asked for this finds the thing in whatever colour it was drawn.",
        "The text to send to a language model in a chat window or another node; its answer goes to"
        " llm_output of RealCompo Dense Captions.",
        "The prompt, unchanged.",
    )
    FUNCTION = "list_phrases"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "After RealignDiff, fine stage: lists the things that the prompt names, by our own rules"
        " for English. Connect phrases or names to a segmenter's text input: ComfyUI runs it once"
        " for each, and RealCompo Dense Captions puts masks and names together again."
    )

    def list_phrases(
        self, prompt: list[str], tags: list[str] | None = None
    ) -> tuple[list[str], list[str], str, str]:
        """Returns phrases, names, the request and the prompt."""
        from ..balancer.captions.align import captions_by_rules
        from ..balancer.captions.answer import CAPTIONS_PROMPT, captions_request
        from ..balancer.captions.detections import tag_rows
        from ..balancer.text.nouns import named

        text = single(prompt, "")
        captions, _ = captions_by_rules(text)
        seen = [name for row in tag_rows(_texts(tags)) for name in row if name]
        request = CAPTIONS_PROMPT.one_text(captions_request(text, seen))
        names = [named(caption.wording) for caption in captions]
        return [caption.phrase for caption in captions], names, request, text


@checked(CAPTIONS, own=("tags",), data=("llm_output",))
class RealCompoDenseCaptions:
    """A layout with masks out of a prompt and what was detected in its picture."""

    INPUT_IS_LIST = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.captions.align import Missing, Several
        from ..balancer.layouts.from_masks import Keep

        return {
            "required": {
                "prompt": _PROMPT,
                "method": ([RULES, MODEL], {
                    "default": RULES,
                    "tooltip": "Who says which phrase is about which thing. rules: the nouns, then"
                    " the attributes; no model at all, English. language model: asks the endpoint,"
                    " or reads llm_output; gives weights, too.",
                }),
                "missing": (list(get_args(Missing)), {
                    "default": "place",
                    "tooltip": "A phrase that was not found in the picture. place: gets a box in"
                    " free room, about where the planner's rules would put it. leave out: gets"
                    " no region, and only the report tells.",
                }),
                "min_area": ("FLOAT", {
                    "default": 0.001, "min": 0.0, "max": 1.0, "step": 0.001, "round": 0.0001,
                    "tooltip": "What covers no more than this share of the picture is dropped.",
                }),
            },
            "optional": {
                "masks": ("MASK", {
                    "tooltip": "Of any detector or segmenter: a mask, a batch, or a list with one"
                    " entry for each name that it ran over. Sizes may differ; empty ones are"
                    " dropped.",
                }),
                "tags": ("STRING", {
                    "forceInput": True,
                    "tooltip": "What the masks or boxes show: one name a line in their order, a"
                    " list of names, or names parted by commas. Needed unless the boxes bring"
                    " labels.",
                }),
                "boxes": (ANY, {
                    "tooltip": "Boxes of any detector (BBOX, BOUNDING_BOX, SEGS, JSON, lines), for"
                    " those that give no masks. With masks connected they lend their labels only.",
                }),
                "image": ("IMAGE", {
                    "tooltip": "The coarse picture: its size is that of boxes in pixels and of the"
                    " layout.",
                }),
                "fallback": ("REALCOMPO_LAYOUT", {
                    "tooltip": "Where phrases stand that were not found, as of RealCompo Layout"
                    " Planner. Goes before 'missing'.",
                }),
                "several": (list(get_args(Several)), {
                    "default": "unite",
                    "tooltip": "Several things of one phrase. unite: one region. separate: a region"
                    " each, as GLIGEN wants them.",
                }),
                "keep": (list(get_args(Keep)), {
                    "default": "mask",
                    "tooltip": "mask keeps the exact shape that was found; box the box around it,"
                    " for a thing whose shape is to change.",
                }),
                "endpoint": ENDPOINT,
                "model": SERVER_MODEL,
                "seed": ("INT", {
                    "default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF,
                    "control_after_generate": True,
                    "tooltip": "Another seed asks for other captions, where the server takes seeds."
                    " The same inputs and seed are asked once only.",
                }),
                "api_key_env": KEY_NAME,
                "llm_output": ("STRING", {
                    "multiline": True, "default": "",
                    "tooltip": "An answer that you pasted, or that another node's text model wrote"
                    " to the request of RealCompo Prompt Phrases. If it holds text, no server is"
                    " asked.",
                }),
                "extend_prompt": ("BOOLEAN", {
                    "default": True,
                    "tooltip": "Add a phrase of the language model to the prompt if the prompt does"
                    " not hold it and a detected thing goes with it. Off: such phrases are left"
                    " out.",
                }),
                "timeout": TIMEOUT,
            },
        }  # fmt: skip

    RETURN_TYPES = ("REALCOMPO_LAYOUT", "STRING", "STRING", "STRING")
    RETURN_NAMES = ("layout", "prompt", "report", "missing_phrases")
    OUTPUT_TOOLTIPS = (
        "Phrases with their regions and weights, for Re-weighted Attention and others.",
        "The prompt that holds all phrases, to be connected to CLIP Text Encode: a language model"
        " may have added some.",
        "What was found, put right, left out or placed, and why; one sentence a line.",
        "The phrases without a region, one a line; empty if there are none.",
    )
    FUNCTION = "build"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "After RealignDiff, fine stage: turns what your detectors saw in a coarse picture into a"
        " layout whose phrases and attributes come from the prompt, so that drawing it again puts"
        " wrong attributes right. The rules, the language model's instruction and what happens to"
        " missing things are our choices; the paper's were not available to us."
    )

    def build(
        self,
        prompt: list[str],
        method: list[str],
        missing: list[Missing],
        min_area: list[float],
        masks: list[Any] | None = None,
        tags: list[Any] | None = None,
        boxes: list[Any] | None = None,
        image: list[Any] | None = None,
        fallback: list[Any] | None = None,
        several: list[Several] | None = None,
        keep: list[Keep] | None = None,
        **model_inputs: list[Any],
    ) -> tuple[Any, str, str, str]:
        """Returns the layout, its prompt, a report and the phrases without a region."""
        from ..balancer.captions.align import align
        from ..balancer.captions.detections import read_detections
        from ..balancer.errors import RealCompoError
        from ..balancer.layouts.layout import Layout

        text, picture = single(prompt, ""), single(image)
        if not text.strip():
            raise RealCompoError("prompt", "there is no prompt", "Write what the picture shows")
        if masks is None and boxes is None:
            raise RealCompoError(
                "masks", "neither masks nor boxes are connected",
                "Connect what a detector or segmenter found in the coarse picture",
            )  # fmt: skip
        width, height = (0, 0) if picture is None else (picture.shape[2], picture.shape[1])
        found, notes = read_detections(
            masks or [], boxes or [], _texts(tags), (width, height), single(min_area)
        )
        captions, remarks, text, how = _captions(
            text, [seen.tag for seen in found], single(method),
            {name: single(value) for name, value in model_inputs.items()},
        )  # fmt: skip
        made = align(
            captions, found, text, single(missing), single(several, "unite"), single(fallback),
            width / height if width else 1.0, single(keep, "mask"),
        )  # fmt: skip
        layout = Layout(made.regions, made.prompt, width or None, height or None)
        count, things = len(made.regions), len(found)
        head = f"{count} region{'s' if count > 1 else ''} {how}, {things} found in the picture"
        report = "\n".join([head, *notes, *remarks, *made.notes])
        return layout, made.prompt, report, "\n".join(made.missing)


def _captions(
    prompt: str, tags: list[str], method: str, inputs: dict[str, Any]
) -> tuple[list[Any], list[str], str, str]:
    """Captions, remarks, the prompt that holds them, and how they came about."""
    from ..balancer.captions.align import captions_by_rules
    from ..balancer.captions.answer import captions_from_text

    written = inputs.get("llm_output") or ""
    extend = inputs.get("extend_prompt") is not False
    if method == RULES:
        captions, notes = captions_by_rules(prompt)
        how = "by rules"
        if written.strip():
            how += " ('llm_output' is not read by this method)"
        return captions, notes, prompt, how
    if written.strip():
        made = captions_from_text(written, prompt, tags, extend)
        how = "from the text in 'llm_output'"
    else:
        from ..balancer.comfy.llm.answers import ServerInputs
        from ..balancer.comfy.llm.planning import captions_with_model

        server = ServerInputs(
            inputs.get("endpoint") or "", inputs.get("model") or "", int(inputs.get("seed") or 0),
            inputs.get("api_key_env") or "", float(inputs.get("timeout") or 120.0),
        )  # fmt: skip
        made = captions_with_model(prompt, tags, server, extend)
        how = f"by the model '{server.model.strip()}'"
    return list(made.captions), list(made.notes), made.prompt, how


NODE_CLASS_MAPPINGS = {
    "RealCompoPromptPhrases": RealCompoPromptPhrases,
    "RealCompoDenseCaptions": RealCompoDenseCaptions,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoPromptPhrases": PHRASES,
    "RealCompoDenseCaptions": CAPTIONS,
}
