"""Stored (uncompressed) members of zip archives, named `archive.zip:offset:length` in bytes."""

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

from wav2vec2.cli.errors import UserError


class Content(io.BytesIO):
    """Bytes in memory; a position outside is refused as C libraries expect it."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (OverflowError, ValueError):
            return -1


_NAME = re.compile(r"(?P<archive>.+\.zip):(?P<offset>\d+):(?P<length>\d+)")


@dataclass(frozen=True)
class ZipMember:
    """Position of a member's content in an archive."""

    archive: str
    offset: int
    length: int

    @classmethod
    def of(cls, name: str | Path) -> "ZipMember | None":
        """The member with that name; None for the name of a file."""
        found = _NAME.fullmatch(str(name))
        return cls(found["archive"], int(found["offset"]), int(found["length"])) if found else None

    @property
    def stem(self) -> str:
        """`<archive's stem>_<offset>`: a file name, unique within the archive."""
        return f"{Path(self.archive).stem}_{self.offset}"

    def read(self) -> io.BytesIO:
        """The content.  OSError if the archive cannot be read, UserError if it is too short."""
        with open(self.archive, "rb") as archive:
            if self.offset + self.length > archive.seek(0, os.SEEK_END):
                raise UserError(
                    f"{self.archive}:{self.offset}:{self.length}: the archive ends before this "
                    "member does; fetch it again"
                )
            archive.seek(self.offset)
            return Content(archive.read(self.length))


def stem(name: str | Path) -> str:
    """The name of an audio file or zip member, without folder and suffix."""
    member = ZipMember.of(name)
    return member.stem if member else Path(name).stem
