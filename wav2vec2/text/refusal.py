"""The exception for a transcript that cannot be used."""


class Refused(ValueError):
    """A transcript that cannot be cleaned; `reason` is one of a few, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
