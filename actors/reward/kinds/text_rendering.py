"""Text rendering: an image's reward is how likely a frozen VLM, asked for its designed text, answers with the text that was wanted."""

from __future__ import annotations

from typing import ClassVar, Literal

from actors.messages import Prompt
from actors.reward.kinds.promptecho import EchoOptions
from actors.reward.kinds.text_label import ROLES, JsonStyle, label_of, text_of

OCR_QUERY = (
    "Read the designed text of this image: the words that its designer put there, and not what is printed on products or other "
    "objects in it. Write each line as it stands, in reading order, and answer in JSON with four lists: "
    '"main_title", "subtitle", "selling_points" and "other_text". A list without text is empty.'
)


class TextRenderingOptions(EchoOptions):
    """How likely a frozen VLM, asked for the text of an image, answers with the prompt's (docs/rewards/text_rendering.md)."""

    reads_caption: ClassVar[bool] = False

    type: Literal["text_rendering"] = "text_rendering"
    query: str = OCR_QUERY
    """What the VLM is asked."""
    field: str = "text"
    """The field of a prompt that holds its text: an object with the lists main_title, subtitle, selling_points and other_text."""
    json_style: JsonStyle = "spaced"
    """How the label is spelled: as the VLM would write it."""

    @property
    def example(self) -> Prompt:
        """See `RewardOptions.example`."""
        return Prompt("trial", "a poster", extra={self.field: {"main_title": ["SALE"]}})

    def problem_of(self, prompt: Prompt) -> str:
        """A prompt without its text."""
        try:
            self.label_of(prompt)
        except ValueError as error:
            return str(error)
        return ""

    def label_of(self, prompt: Prompt) -> str:
        """The text in JSON: all four lists in their order, other scripts as they are."""
        if self.field not in prompt.extra:
            raise ValueError(f"it has no field `{self.field}` with the text that its images are to show")
        try:
            return label_of(text_of(prompt.extra[self.field]), self.json_style)
        except ValueError as error:
            raise ValueError(f"its field `{self.field}` {error}") from None

    def predicted(self, caption: int) -> int:
        """The label: about as long as the caption, and the names of its lists."""
        return caption + len(label_of({role: [] for role in ROLES}))
