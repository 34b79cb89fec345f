"""Layouts planned from the prompt: by a language model, from its pasted answer, or by rules."""

from __future__ import annotations

from typing import Any

from .checked import checked
from .layout_inputs import side

CATEGORY = "RealCompo/layout"
PLANNER, REQUEST = "RealCompo Layout Planner", "RealCompo Planner Request"
MODEL, RULES = "language model", "rules"

# Inputs of every node that asks a language model.
ENDPOINT = ("STRING", {
    "default": "http://127.0.0.1:11434/v1",
    "tooltip": "Address of an OpenAI-compatible server: Ollama, llama.cpp, vLLM, LM"
    " Studio, or a hosted one. Not used by 'rules' or with 'llm_output'.",
})  # fmt: skip
SERVER_MODEL = ("STRING", {
    "default": "qwen3:8b",
    "tooltip": "The model's name as that server knows it.",
})  # fmt: skip
KEY_NAME = ("STRING", {
    "default": "",
    "tooltip": "Name of the environment variable that holds the server's key, such"
    " as OPENAI_API_KEY; never the key itself. Empty = no key. A key goes to its"
    " own provider, to this network, or to the host in the variable with _HOST at"
    " its end.",
})  # fmt: skip
TIMEOUT = ("FLOAT", {
    "default": 120.0, "min": 1.0, "max": 3600.0, "step": 1.0,
    "tooltip": "Seconds to wait for an answer. ComfyUI's stop button works"
    " meanwhile.",
})  # fmt: skip

_PROMPT = ("STRING", {
    "multiline": True,
    "default": "a red star to the left of a blue circle, a green square below them",
    "tooltip": "The prompt to lay out; the same text that your positive prompt encodes.",
})  # fmt: skip


def _side(name: str) -> tuple[str, dict[str, Any]]:
    return side(
        f"{name} in pixels of the picture to be made: it shapes the boxes."
        " 0 = unknown (square for the rules)."
    )


def _require_prompt(prompt: str) -> None:
    from ..balancer.errors import RealCompoError

    if not prompt.strip():
        raise RealCompoError("prompt", "there is no prompt", "Write what the picture shows")


@checked(PLANNER, data=("llm_output",))
class RealCompoLayoutFromText:
    """A layout from nothing but the prompt."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "prompt": _PROMPT,
                "endpoint": ENDPOINT,
                "model": SERVER_MODEL,
                "seed": ("INT", {
                    "default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF,
                    "control_after_generate": True,
                    "tooltip": "Another seed asks for another layout, where the server takes seeds."
                    " The same inputs and seed are asked once only.",
                }),
            },
            "optional": {
                "api_key_env": KEY_NAME,
                "llm_output": ("STRING", {
                    "multiline": True, "default": "",
                    "tooltip": "An answer that you pasted, or that another node's text model wrote"
                    " to RealCompo Planner Request. If it holds text, no server is asked.",
                }),
                "method": ([MODEL, RULES], {
                    "default": MODEL,
                    "tooltip": "language model: asks the endpoint, or reads llm_output. rules: no"
                    " model at all; takes an English prompt's things, numbers and words such as"
                    " 'left of' or 'in the top right corner' literally.",
                }),
                "timeout": TIMEOUT,
                "width": _side("Width"),
                "height": _side("Height"),
            },
        }  # fmt: skip

    RETURN_TYPES = ("REALCOMPO_LAYOUT", "STRING", "STRING")
    RETURN_NAMES = ("layout", "prompt", "report")
    OUTPUT_TOOLTIPS = (
        "The planned regions. Look at them with RealCompo Layout Preview.",
        "The prompt, to be connected to CLIP Text Encode: one text for both.",
        "How the layout came about: what was put right, what was left out and why.",
    )
    FUNCTION = "plan"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Plans a layout from the prompt: by a language model on your machine or elsewhere, from"
        " its pasted answer, or by simple rules without any model."
    )

    def plan(
        self,
        prompt: str,
        endpoint: str,
        model: str,
        seed: int,
        api_key_env: str = "",
        llm_output: str = "",
        method: str = MODEL,
        timeout: float = 120.0,
        width: int = 0,
        height: int = 0,
    ) -> tuple[Any, str, str]:
        """Returns the layout, its prompt and a report."""
        from ..balancer.layouts.layout import Layout

        _require_prompt(prompt)
        if method == RULES:
            from ..balancer.planner.rules import plan_by_rules

            made, how = plan_by_rules(prompt, width, height), "by rules"
            if llm_output.strip():
                how += " ('llm_output' is not read by this method)"
        elif llm_output.strip():
            from ..balancer.planner.answer import plan_from_text

            made, how = plan_from_text(llm_output, prompt), "from the text in 'llm_output'"
        else:
            from ..balancer.comfy.llm.answers import ServerInputs
            from ..balancer.comfy.llm.planning import plan_with_model

            server = ServerInputs(endpoint, model, seed, api_key_env, timeout)
            made = plan_with_model(prompt, server, width, height)
            how = f"by the model '{model.strip()}'"
        layout = Layout(made.regions, prompt, width or None, height or None)
        count = len(made.regions)
        head = f"{count} region{'s' if count > 1 else ''} {how}"
        return layout, prompt, "\n".join([head, *made.notes])


@checked(REQUEST)
class RealCompoPlannerRequest:
    """What the planner would ask a model, for a chat window or a text node."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"prompt": _PROMPT},
            "optional": {"width": _side("Width"), "height": _side("Height")},
        }

    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("request", "prompt")
    OUTPUT_TOOLTIPS = (
        "The text to send: instructions, two examples and the prompt. Connect it to a node that"
        " generates text, and that node to the planner's llm_output.",
        "The prompt, for RealCompo Layout Planner and CLIP Text Encode.",
    )
    FUNCTION = "write"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Writes the request for a layout as one text, for any text model in ComfyUI or a chat"
        " window. The answer goes to RealCompo Layout Planner, llm_output."
    )

    def write(self, prompt: str, width: int = 0, height: int = 0) -> tuple[str, str]:
        """Returns the request and the prompt."""
        from ..balancer.planner.answer import LAYOUT_PROMPT, layout_request

        _require_prompt(prompt)
        return LAYOUT_PROMPT.one_text(layout_request(prompt, width, height)), prompt


NODE_CLASS_MAPPINGS = {
    "RealCompoLayoutFromText": RealCompoLayoutFromText,
    "RealCompoPlannerRequest": RealCompoPlannerRequest,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoLayoutFromText": PLANNER,
    "RealCompoPlannerRequest": REQUEST,
}
