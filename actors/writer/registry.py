"""The writers, by the name that a recipe gives as `writer.type`: each is known by its options. Loads no torch."""

from __future__ import annotations

from actors.writer.local import LocalWriterOptions
from actors.writer.options import WriterOptions
from actors.writer.remote import RemoteWriterOptions

WRITERS: dict[str, type[WriterOptions]] = {"remote": RemoteWriterOptions, "vlm": LocalWriterOptions}
